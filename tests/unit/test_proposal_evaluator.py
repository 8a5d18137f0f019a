"""Proposals against a data set: what counts for whom, and the files that are written."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from conftest import write_coco
from detectron2.data import DatasetCatalog, DatasetMapper, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskx_d2 import ClassSplit
from maskx_d2.data import register_partial
from maskx_d2.evaluation import MaskProposalEvaluator
from maskx_d2.evaluation.proposal_files import ImageProposals, ProposalSpool

pytestmark = pytest.mark.usefixtures("no_registration_left")

SPLIT = ClassSplit("pets", with_masks={"cat", "dog"}, boxes_only={"cup", "car"})


@pytest.fixture
def pets(tmp_path):
    json_file, _ = write_coco(tmp_path / "pets")
    return json_file, json.loads(json_file.read_text())


def register(json_file, content, keep_masks=True):
    json_file.write_text(json.dumps(content))
    register_coco_instances("pets", {}, str(json_file), str(json_file.parent))
    register_partial("pets_partial", base="pets", split=SPLIT, keep_masks=keep_masks)


def perfect(record, wanted=(0, 1, 2, 3), masks=True, offset=0):
    """A model's output: the image's squares of the wanted categories, the first the best."""
    proposals = Instances((record["height"], record["width"]))
    boxes = [
        [x + offset, y, x + w + offset, y + h]
        for x, y, w, h in (a["bbox"] for a in record["annotations"] if a["category_id"] in wanted)
    ]
    proposals.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    # From the worst to the best, which must not matter.
    proposals.objectness_logits = -torch.arange(len(boxes), dtype=torch.float32)
    if masks:
        bitmaps = torch.zeros(len(boxes), record["height"], record["width"], dtype=torch.bool)
        for bitmap, (x0, y0, x1, y1) in zip(bitmaps, proposals.proposal_boxes.tensor.int()):
            bitmap[y0:y1, x0:x1] = True
        proposals.pred_masks = bitmaps
    return {"proposals": proposals[torch.arange(len(boxes)).flip(0)]}


def evaluate(output_dir=None, class_split=None, **kwargs):
    evaluator = MaskProposalEvaluator(
        "pets_partial", output_dir=output_dir, class_split=class_split
    )
    for record in DatasetCatalog.get("pets_partial"):
        evaluator.process([record], [perfect(record, **kwargs)])
    return evaluator.evaluate()


def test_a_and_b_are_counted_apart(pets):
    register(*pets)
    results = evaluate(wanted=(0, 1, 2))
    assert set(results) == {f"{t}_proposals{s}" for t in ("box", "mask") for s in ("", "_A", "_B")}
    for task in ("box_proposals", "mask_proposals"):
        found = [results[task + s]["AR@100"] for s in ("", "_A", "_B")]
        assert found == pytest.approx([75, 100, 50])
        assert results[task]["ARs@10"] == pytest.approx(75)  # squares of 240 pixels
        assert np.isnan(results[task]["ARl@1000"])


def test_categories_with_image_labels_only_are_counted_apart(pets):
    register(*pets)
    split = ClassSplit("grades", {"cat", "dog"}, {"cup"}, {"car"})
    results = evaluate(class_split=split, wanted=(0, 1, 2))
    tasks = ("box_proposals", "mask_proposals")
    assert set(results) == {f"{t}{s}" for t in tasks for s in ("", "_A", "_B", "_C")}
    assert results["mask_proposals_B"]["AR@10"] == 100
    assert results["mask_proposals_C"]["AR@10"] == 0


def test_boxes_and_masks_are_measured_each_on_their_own(pets):
    register(*pets)
    boxes_only = evaluate(masks=False)
    assert set(boxes_only) == {"box_proposals", "box_proposals_A", "box_proposals_B"}
    # 12 wide and 1 beside: IoU 11 / 13, above 0.5 to 0.8.
    moved = evaluate(offset=1)
    for task in ("box_proposals", "mask_proposals"):
        assert moved[task]["AR@10"] == pytest.approx(70)
    # Masks of another shape than the box.
    json_file, content = pets
    for a in content["annotations"]:
        x, y, w, _ = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x + w, y + 10, x, y + 10]]
    DatasetCatalog.remove("pets"), DatasetCatalog.remove("pets_partial")
    register(json_file, content)
    halves = evaluate()
    assert halves["box_proposals"]["AR@10"] == 100
    assert halves["mask_proposals"]["AR@10"] == pytest.approx(10)  # an IoU of 0.5


def test_only_the_best_count(pets):
    register(*pets)
    record = DatasetCatalog.get("pets_partial")[0]
    evaluator = MaskProposalEvaluator("pets_partial")
    good = perfect(record)["proposals"]
    bad = Instances(good.image_size)
    bad.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(12, 1))
    bad.objectness_logits = torch.zeros(12)
    bad.pred_masks = torch.zeros(12, *good.image_size, dtype=torch.bool)
    for score, expected in ((-10.0, 0), (10.0, 100)):
        good.objectness_logits = torch.full((4,), score)
        evaluator.reset()
        evaluator.process([record], [{"proposals": Instances.cat([bad, good])}])
        for task, figures in evaluator.evaluate().items():
            assert figures["AR@10"] == pytest.approx(expected), task
            assert figures["AR@100"] == 100


def test_crowds_and_instances_without_a_mask(pets):
    json_file, content = pets
    content["annotations"][0].update(iscrowd=1)
    for annotation in content["annotations"]:
        if annotation["category_id"] == 1:
            annotation.update(segmentation=[])
    register(json_file, content)
    results = evaluate(wanted=(1, 2, 3))
    assert results["mask_proposals"]["AR@10"] == 100
    assert results["box_proposals"]["AR@10"] == pytest.approx(100 * 12 / 15)


def test_images_without_objects_or_proposals(pets):
    json_file, content = pets
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] > 1]
    register(json_file, content)
    evaluator = MaskProposalEvaluator("pets_partial")
    first, second, *_ = DatasetCatalog.get("pets_partial")
    assert not first["annotations"]
    evaluator.process([first], [perfect(second)])
    evaluator.process([second], [perfect(first)])
    assert evaluator.evaluate()["mask_proposals"]["AR@100"] == 0


def test_files_are_read_by_detectron2_and_by_pycocotools(pets, tmp_path):
    register(*pets)
    evaluate(output_dir=str(tmp_path / "out"), wanted=(0, 3))
    records = get_detection_dataset_dicts(
        "pets_partial", proposal_files=[str(tmp_path / "out" / "box_proposals.pkl")]
    )
    mapper = DatasetMapper(
        is_train=True, augmentations=[], image_format="BGR", precomputed_proposal_topk=1
    )
    sample = mapper(records[2])
    x, y, w, h = next(a for a in records[2]["annotations"] if a["category_id"] == 0)["bbox"]
    assert sample["proposals"].proposal_boxes.tensor.tolist() == [[x, y, x + w, y + h]]

    truth = COCO(str(pets[0]))
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(str(tmp_path / "out" / "coco_proposals.json"))
        coco_eval = COCOeval(truth, found, "segm")
        coco_eval.params.useCats = 0
        coco_eval.evaluate(), coco_eval.accumulate(), coco_eval.summarize()
    assert coco_eval.stats[8] == pytest.approx(0.5)  # AR@100


def test_data_to_train_on_have_files_and_no_recall(pets, tmp_path, caplog):
    register(*pets)
    evaluate(output_dir=str(tmp_path / "complete"), wanted=(0, 1, 2))
    register_partial("pets_training", base="pets", split=SPLIT)
    three = ClassSplit("grades", {"cat", "dog"}, {"cup"}, {"car"})
    register_partial("pets_grades", base="pets", split=three)
    register_partial("pets_again", base="pets_training")
    for name in ("pets_training", "pets_grades", "pets_again"):
        caplog.clear()
        evaluator = MaskProposalEvaluator(name, output_dir=str(tmp_path / name))
        for record in DatasetCatalog.get("pets_partial"):
            evaluator.process([record], [perfect(record, wanted=(0, 1, 2))])
        with caplog.at_level("INFO"):
            assert evaluator.evaluate() == {}
        assert f"'{name}' was registered without the masks of set B" in caplog.text
        for file in ("coco_proposals.json", "box_proposals.pkl"):
            written, expected = (tmp_path / each / file for each in (name, "complete"))
            assert written.read_bytes() == expected.read_bytes()
    register_partial("pets_some_masks", base="pets")
    evaluator = MaskProposalEvaluator("pets_some_masks")
    for record in DatasetCatalog.get("pets_partial"):
        evaluator.process([record], [perfect(record)])
    assert evaluator.evaluate()["mask_proposals"]["AR@100"] == 100


def test_proposals_wait_in_files_and_not_in_memory(pets, tmp_path):
    register(*pets)
    out = tmp_path / "out"
    evaluate(output_dir=str(out))
    assert sorted(p.name for p in out.iterdir()) == ["box_proposals.pkl", "coco_proposals.json"]
    # Of two processes, of which both saw the second image.
    records = DatasetCatalog.get("pets_partial")
    spools = [ProposalSpool(tmp_path / name) for name in ("a", "b")]
    for spool, seen in zip(spools, (records[:2], records[1:])):
        for record in seen:
            proposals = perfect(record)["proposals"]
            spool.append(ImageProposals.from_instances(record["image_id"], proposals))
    found = list(ProposalSpool.read([s.path for s in spools]))
    assert [f.image_id for f in found] == [r["image_id"] for r in records]
    assert len(found[1].rles) == len(found[1].boxes) == 4
    with pytest.raises(FileNotFoundError, match="an output folder that they share"):
        list(ProposalSpool.read([tmp_path / "elsewhere"]))
