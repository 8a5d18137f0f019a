"""The evaluator against pycocotools itself, on COCO API's official fake detections."""

import contextlib
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskx_d2 import ClassSplit
from maskx_d2.data import register_partial
from maskx_d2.evaluation import METRICS, SplitCOCOEvaluator
from maskx_d2.splits import coco_voc2nonvoc

pytestmark = pytest.mark.usefixtures("no_registration_left")


@pytest.fixture(scope="session")
def golden(photographs) -> Path:
    """COCO API's official fake detections, where they lie beside the photographs."""
    folder = photographs / "evaluator_golden"
    if not folder.is_dir():
        message = "needs COCO API's fake detections (evaluator_golden) under DETECTRON2_DATASETS"
        (pytest.fail if os.getenv("MASKX_REQUIRE_PHOTOGRAPHS") else pytest.skip)(message)
    return folder


def evaluate(dataset_name, detections, task):
    """What the evaluator says of detections that are in COCO's result format already."""
    # Nobody has loaded the data set before: its split is found all the same.
    evaluator = SplitCOCOEvaluator(dataset_name, tasks=(task,), distributed=False)
    evaluator.reset()
    to_contiguous = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
    for d in detections:
        d = {**d, "category_id": to_contiguous[d["category_id"]]}
        evaluator._predictions.append({"image_id": d["image_id"], "instances": [d]})
    return evaluator.evaluate()


def restricted(json_file, detections, task, category_ids):
    """The six AP metrics of a COCOeval that sees these categories only."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(json_file))
        coco_eval = COCOeval(truth, truth.loadRes([dict(d) for d in detections]), task)
        coco_eval.params.catIds = category_ids
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return [100 * s if s >= 0 else math.nan for s in coco_eval.stats[:6]]


# all, A = the 20 VOC categories, B = the other 60: AP and AP50, measured with pycocotools.
GOLDEN = {
    "segm": {"": (31.95, 56.23), "_A": (29.34, 55.42), "_B": (32.93, 56.53)},
    "bbox": {"": (50.46, 69.70), "_A": (50.20, 70.72), "_B": (50.55, 69.32)},
}


@pytest.mark.parametrize("task", GOLDEN)
def test_golden_figures_and_equality_with_a_restricted_cocoeval(golden, task):
    json_file = golden / "instances_val2014_100.json"
    detections = json.loads((golden / f"instances_val2014_fake{task}100_results.json").read_text())
    register_coco_instances("golden", {}, str(json_file), "")
    register_partial("golden_split", base="golden", split=coco_voc2nonvoc, keep_masks=True)
    DatasetCatalog.get("golden_split")
    results = evaluate("golden_split", detections, task)
    metadata = MetadataCatalog.get("golden_split")
    ids = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    subsets = dict(zip(("_A", "_B"), metadata.class_split.indices(metadata.thing_classes)))
    for suffix, (ap, ap50) in GOLDEN[task].items():
        assert results[f"{task}{suffix}"]["AP"] == pytest.approx(ap, abs=0.006)
        assert results[f"{task}{suffix}"]["AP50"] == pytest.approx(ap50, abs=0.006)
        if suffix:
            expected = restricted(json_file, detections, task, [ids[c] for c in subsets[suffix]])
            actual = [results[f"{task}{suffix}"][metric] for metric in METRICS]
            np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.fixture
def pets(tmp_path, no_registration_left):
    """Four categories with gaps between their ids; "car" has no ground truth."""
    json_file, images = write_coco(tmp_path)
    content = json.loads(json_file.read_text())
    car = next(c["id"] for c in content["categories"] if c["name"] == "car")
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != car]
    json_file.write_text(json.dumps(content))
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "car"}, {"dog", "cup"})
    register_partial("pets_split", base="pets", split=split, keep_masks=True)
    return json_file


def test_categories_with_image_labels_only_are_reported_on_their_own(pets, caplog):
    """Their training had no box of them; the data to evaluate on have boxes and masks."""
    split = ClassSplit("grades", {"dog"}, {"car"}, {"cat", "cup"})
    register_partial("pets_grades", base="pets", split=split, keep_masks=True)
    truth = json.loads(pets.read_text())["annotations"]
    keys = ("image_id", "category_id", "segmentation")
    found = [{**{k: a[k] for k in keys}, "score": 0.9} for a in truth if a["category_id"] != 4]
    for d in found:  # as COCO's results have masks; every other cup is somewhere else
        x = 40 if d["category_id"] == 7 and d["image_id"] % 2 else d["segmentation"][0][0]
        y = d["segmentation"][0][1]
        polygon = [x, y, x + 12, y, x + 12, y + 20, x, y + 20]
        (d["segmentation"],) = mask_util.frPyObjects([polygon], 48, 64)
    with caplog.at_level("INFO"):
        results = evaluate("pets_grades", found, "segm")
    assert list(results) == ["segm_A", "segm_B", "segm_C", "segm"]
    assert results["segm_A"]["AP"] == 0 and math.isnan(results["segm_B"]["AP"])
    expected = restricted(pets, found, "segm", [1, 7])
    actual = [results["segm_C"][metric] for metric in METRICS]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert 50 < actual[0] < 100
    table = caplog.text.split("Evaluation by split 'grades'")[1]
    assert [line.split()[3] for line in table.splitlines()[3:7]] == ["all", "A", "B", "C"]


def test_a_split_without_labels_only_has_no_figure_of_them(pets, caplog):
    truth = json.loads(pets.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    with caplog.at_level("INFO"):
        found = [{**{k: a[k] for k in keys}, "score": 0.9} for a in truth]
        results = evaluate("pets_split", found, "bbox")
    assert list(results) == ["bbox_A", "bbox_B", "bbox"]
    assert "C" not in caplog.text.split("Evaluation by split 'pets'")[1].split("\n", 3)[3]


def test_a_category_without_ground_truth_makes_no_nan(pets):
    content = json.loads(pets.read_text())
    detections = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": a["bbox"] if a["category_id"] == 1 else [0, 0, 2, 2],
            "score": 0.9,
        }
        for a in content["annotations"]
    ]
    results = evaluate("pets_split", detections, "bbox")
    assert results["bbox_A"]["AP"] == pytest.approx(100)
    assert results["bbox_B"]["AP"] == pytest.approx(0)
    assert results["bbox"]["AP"] == pytest.approx(100 / 3)
    assert math.isnan(results["bbox_A"]["APl"]), "there is no large object"


def output(box, category, mask_pixels):
    instances = Instances((48, 64))
    instances.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
    instances.pred_classes = torch.tensor([category])
    instances.scores = torch.tensor([0.9])
    mask = torch.zeros(1, 48, 64, dtype=torch.bool)
    x0, y0, x1, y1 = mask_pixels
    mask[0, y0:y1, x0:x1] = True
    instances.pred_masks = mask
    return {"instances": instances}


@pytest.mark.usefixtures("pets")
def test_a_models_outputs_through_the_public_interface(caplog):
    evaluator = SplitCOCOEvaluator("pets_split", distributed=False)
    evaluator.reset()
    # Image 1: the cat found exactly, the dog with its box right and half of its mask.
    evaluator.process(
        [{"image_id": 1}] * 2,
        [
            output([2, 4, 14, 24], 0, (2, 4, 14, 24)),
            output([16, 4, 28, 24], 1, (16, 4, 28, 14)),
        ],
    )
    with caplog.at_level("INFO", logger="maskx_d2"):
        results = evaluator.evaluate()
    assert set(results) == {"bbox", "bbox_A", "bbox_B", "segm", "segm_A", "segm_B"}
    # Each category has 4 objects and 1 was found: recall 1/4, which is 26 of 101 points.
    assert results["segm_A"]["AP50"] == pytest.approx(100 * 26 / 101)
    assert results["bbox_B"]["AP50"] == pytest.approx(100 * 26 / 101 / 2)
    assert results["segm_B"]["AP75"] == pytest.approx(0)
    assert "| segm   | B " in caplog.text


@pytest.mark.parametrize("no_mask", ["missing", []], ids=str)
def test_ground_truth_without_masks_counts_for_boxes_and_is_ignored_for_masks(
    pets, no_mask, caplog
):
    content = json.loads(pets.read_text())
    cat, dog = 1, 4
    for a in content["annotations"]:
        # No cat has a mask; the first dog has one.
        if a["category_id"] == cat or (a["category_id"] == dog and a["image_id"] != 1):
            del a["segmentation"]
            if no_mask != "missing":
                a["segmentation"] = no_mask
    pets.write_text(json.dumps(content))
    evaluator = SplitCOCOEvaluator("pets_split", distributed=False)
    assert "7 of 12 ground-truth instances have no mask" in caplog.text
    evaluator.reset()
    inputs, outputs = [], []
    for i in range(4):  # every cat and dog is found; the mask on each box is exact
        for category, x in ((0, 2), (1, 16)):
            box = [x, 4 + 5 * i, x + 12, 24 + 5 * i]
            inputs.append({"image_id": i + 1})
            outputs.append(output(box, category, box))
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    alone = SplitCOCOEvaluator("pets_split", tasks=("segm",), distributed=False)
    alone.reset()
    alone.process(inputs, outputs)
    found = alone.evaluate()
    assert found.keys() == {"segm", "segm_A", "segm_B"}
    assert all(found[key]["AP50"] == results[key]["AP50"] for key in ("segm", "segm_B"))
    assert results["bbox_A"]["AP"] == pytest.approx(100)
    assert results["bbox_B"]["AP"] == pytest.approx(50), "cups were not looked for"
    assert math.isnan(results["segm_A"]["AP"]), "nothing is known of cats' masks"
    # The other three dogs are neither missed nor false.
    assert results["segm_B"]["AP"] == pytest.approx(50)


@pytest.mark.usefixtures("pets")
def test_no_prediction_at_all():
    evaluator = SplitCOCOEvaluator("pets_split", tasks=("bbox", "segm"), distributed=False)
    evaluator.reset()
    empty = Instances((48, 64), pred_boxes=Boxes(torch.zeros(0, 4)))
    evaluator.process([{"image_id": 1}], [{"instances": empty}])
    results = evaluator.evaluate()
    assert set(results) == {"bbox", "bbox_A", "bbox_B", "segm", "segm_A", "segm_B"}
    assert all(math.isnan(v) for metrics in results.values() for v in metrics.values())


def perfect(content):
    """The ground truth as detections in COCO's result format."""
    found = [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
        for a in content["annotations"]
    ]
    for d in found:
        (d["segmentation"],) = mask_util.frPyObjects(d["segmentation"][-1:], 48, 64)
    return found


def number_from_0(content):
    for i, annotation in enumerate(content["annotations"]):
        annotation["id"] = i


def number_by_name(content):
    for i, annotation in enumerate(content["annotations"]):
        annotation["id"] = f"annotation {i}"


def begin_with_short_polygons(content):
    for i, annotation in enumerate(content["annotations"]):
        annotation["segmentation"].insert(0, [1, 2] * (1 + i % 2))


def leave_out_what_can_be_known(content):
    for annotation in content["annotations"]:
        del annotation["iscrowd"], annotation["area"]


def say_nothing_by_none(content):
    for annotation in content["annotations"]:
        annotation.update(iscrowd=None, area=None)


def name_images(content):
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    "change",
    [
        number_from_0,
        number_by_name,
        begin_with_short_polygons,
        leave_out_what_can_be_known,
        say_nothing_by_none,
        name_images,
    ],
)
def test_what_pycocotools_stumbles_over_is_evaluated(change, task, pets):
    content = json.loads(pets.read_text())
    if change is name_images:
        change(content)
    found = perfect(content)
    if change is not name_images:
        change(content)
    pets.write_text(json.dumps(content))
    DatasetCatalog.get("pets")  # which names its categories
    assert evaluate("pets", found, task)[task]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("kind", ["bitmask", "RLE", "uncompressed RLE", "short polygon"])
def test_masks_of_a_data_set_in_python(kind, pets, tmp_path):
    records = DatasetCatalog.get("pets_split")
    for record in records:
        for i, annotation in enumerate(record["annotations"]):
            (polygon,) = annotation["segmentation"]
            rle = mask_util.merge(mask_util.frPyObjects([polygon], 48, 64))
            mask = mask_util.decode(rle)
            runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=[2], append=[2])))
            annotation["segmentation"] = {
                "bitmask": mask,
                "RLE": rle,
                "uncompressed RLE": {"size": [48, 64], "counts": runs},
                "short polygon": [[1, 2], polygon],
            }[kind]
            if i == 1:
                annotation["segmentation"] = None
    DatasetCatalog.register("in_python", lambda: records)
    metadata = MetadataCatalog.get("in_python")
    metadata.thing_classes = MetadataCatalog.get("pets_split").thing_classes
    evaluator = SplitCOCOEvaluator("in_python", distributed=False, output_dir=str(tmp_path / "out"))
    assert DatasetCatalog.get("in_python") is records, "and the data set is what it was"
    truth = evaluator._coco_api.dataset["annotations"]
    assert sum("segmentation" not in a for a in truth) == sum(
        len(r["annotations"]) > 1 for r in records
    )
    evaluator.reset()
    for record in records:
        found = Instances((48, 64))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in record["annotations"])]
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        found.pred_masks = torch.zeros(len(boxes), 48, 64, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(found.pred_masks, found.pred_boxes.tensor.int()):
            mask[y0:y1, x0:x1] = True
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("counts", [[5, 9], "5"])
def test_ground_truth_that_was_cut_off_is_named(counts, pets):
    content = json.loads(pets.read_text())
    content["annotations"][1].update(segmentation={"size": [48, 64], "counts": counts})
    pets.write_text(json.dumps(content))
    said = rf"data set 'pets', ground-truth annotation {content['annotations'][1]['id']}: the"
    with pytest.raises(ValueError, match=said):
        SplitCOCOEvaluator("pets", distributed=False)


@pytest.mark.usefixtures("pets")
def test_without_a_split_it_is_detectron2s_evaluator():
    evaluator = SplitCOCOEvaluator("pets", distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [output([2, 4, 14, 24], 0, (2, 4, 14, 24))])
    assert set(evaluator.evaluate()) == {"bbox", "segm"}


@pytest.mark.usefixtures("pets")
def test_a_split_that_does_not_fit_and_masks_that_are_gone(tmp_path):
    with pytest.raises(ValueError, match="names 'bird'"):
        SplitCOCOEvaluator("pets", class_split=ClassSplit("s", {"bird"}, {"cat"}))
    DatasetCatalog.register("in_memory", list)
    MetadataCatalog.get("in_memory").thing_classes = ["cat", "cup"]
    register_partial("gone", base="in_memory", split=ClassSplit("s", {"cat"}, {"cup"}))
    with pytest.raises(ValueError, match="register it with keep_masks=True"):
        SplitCOCOEvaluator("gone", output_dir=str(tmp_path))
