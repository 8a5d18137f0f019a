"""``maskx label``: every box gets a mask, whoever makes it and however often they are stopped."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from maskx_d2 import ClassSplit
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import load_model
from maskx_d2.pseudo_masks import label_boxes, model_masks

pytestmark = pytest.mark.usefixtures("no_registration_left")

AGNOSTIC = (
    *("MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
)

# Does one image and is killed with half a line of its progress written.
KILLED = """
import os, signal, sys
from maskx_d2 import ClassSplit
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.pseudo_masks.progress import ProgressFile

def add(self, image, masks, add=ProgressFile.add):
    if self._offsets:
        self._file.write(b'{"image": 3, "ma')
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, image, masks)

ProgressFile.add = add
main(sys.argv[1:])
"""


@pytest.fixture
def pets(tmp_path):
    """Four images; a cat of each has its mask, all else are boxes; one is a crowd."""
    json_file, images = write_coco(tmp_path / "pets", num_images=4)
    content = json.loads(json_file.read_text())
    for annotation in content["annotations"]:
        if annotation["category_id"] != 1:
            del annotation["segmentation"]
            del annotation["area"]
    content["annotations"][-1] |= {"iscrowd": 1}
    json_file.write_text(json.dumps(content))
    return json_file, images


def save_model(folder, *opts):
    folder.mkdir(exist_ok=True)
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("DATASETS.TRAIN", ("pets",), "DATASETS.TEST", ("pets",), *opts),
    )
    model = build_model(cfg)
    with torch.no_grad():
        # Masks that depend on the category, with edges.
        for head in model.roi_heads.modules():
            if isinstance(head, torch.nn.Linear):
                head.weight.mul_(8)
    card = {"thing_classes": ["cat", "dog", "cup", "car"]}
    torch.save({"model": model.state_dict(), "maskx_d2": card}, folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return ["--config-file", str(folder / "config.yaml"), "--weights", str(folder / "model.pth")]


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model")


@pytest.fixture
def command(model, pets):
    json_file, images = map(str, pets)
    return ["label", *model, "--dataset-json", json_file, "--image-root", images, "--workers", "0"]


def annotations_of(path):
    return json.loads(path.read_text())["annotations"]


def test_the_score_can_be_the_weight_in_a_training(command, pets, tmp_path, no_registration_left):
    output = tmp_path / "labelled.json"
    assert main([*command, "--output", str(output), "--score-as-weight"]) == 0
    made = [a for a in annotations_of(output) if "mask_source" in a]
    assert made and all(a["mask_weight"] == a["mask_score"] for a in made)
    assert not any("mask_weight" in a for a in annotations_of(output) if "mask_source" not in a)
    register_coco_instances("labelled", {}, str(output), str(pets[1]))
    register_partial("labelled_partial", base="labelled")
    loaded = [a for r in DatasetCatalog.get("labelled_partial") for a in r["annotations"]]
    weights = {a["id"]: a["mask_weight"] for a in loaded if "mask_weight" in a}
    assert weights == {a["id"]: a["mask_weight"] for a in made if a["mask_weight"] < 1}


def test_every_box_has_a_mask_and_real_ones_stay(command, pets, tmp_path, capsys):
    output = tmp_path / "labelled.json"
    assert main([*command, "--output", str(output)]) == 0
    assert " 0 instances still without a mask" in capsys.readouterr().out
    made = 0
    for old, new in zip(annotations_of(pets[0]), annotations_of(output), strict=True):
        if "segmentation" in old or old["iscrowd"]:
            assert new == old
            continue
        made += 1
        assert {k: new[k] for k in old} == old
        assert new["mask_source"] in ("model", "box") and len(new["mask_model"]) == 12
        assert new["mask_score"] == 0 if new["mask_source"] == "box" else new["mask_score"] >= 0.5
        assert new["area"] == mask_util.area(new["segmentation"]) > 0
    assert made > 4
    coco = COCO(str(output))
    assert all(coco.annToMask(a).any() for a in coco.anns.values() if "segmentation" in a)
    records = load_coco_json(str(output), str(pets[1]), "labelled")
    assert sum("mask_source" in a for r in records for a in r["annotations"]) == 0
    assert sum("segmentation" in a for r in records for a in r["annotations"]) == made + 4


def test_what_was_labelled_is_labelled_on(command, pets, tmp_path):
    """New boxes, and a mask that is to be made anew; the model's other masks stay."""
    first, second = tmp_path / "labelled.json", tmp_path / "second.json"
    assert main([*command, "--output", str(first), "--score-as-weight"]) == 0
    content = json.loads(first.read_text())
    made = [a for a in content["annotations"] if "mask_source" in a]
    again, new = made[0], {k: made[1][k] for k in ("image_id", "category_id", "bbox")}
    del again["segmentation"]
    content["annotations"].append({**new, "id": 10**6, "iscrowd": 0})
    first.write_text(json.dumps(content))
    command[command.index("--dataset-json") + 1] = str(first)
    assert main([*command, "--output", str(second)]) == 0
    found = {a["id"]: a for a in annotations_of(second)}
    assert all(found[a["id"]] == a for a in made[1:])
    assert found[10**6]["segmentation"] == made[1]["segmentation"]
    assert "mask_source" in found[again["id"]] and "mask_weight" not in found[again["id"]]
    assert json.loads(second.read_text())["pseudo_masks"]["before"] == content["pseudo_masks"]


def test_they_are_the_masks_of_detectron2s_own_inference(command, model, pets, tmp_path):
    output = tmp_path / "labelled.json"
    assert main([*command, "--output", str(output)]) == 0
    loaded = load_model(model[1], model[3])
    content = json.loads(output.read_text())
    compared = 0
    for image in content["images"]:
        new = [
            a
            for a in content["annotations"]
            if a["image_id"] == image["id"] and a.get("mask_source") == "model"
        ]
        if not new:
            continue
        x = loaded.mapper({**image, "file_name": str(pets[1] / image["file_name"])})
        boxes = torch.tensor([a["bbox"] for a in new], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        height, width = x["image"].shape[1:]
        given = Boxes(boxes.float())
        given.scale(width / image["width"], height / image["height"])
        classes = torch.tensor([(a["category_id"] - 1) // 3 for a in new])
        given = Instances((height, width), pred_boxes=given, pred_classes=classes)
        given.scores = torch.ones(len(new))
        with torch.no_grad():
            expected = GeneralizedRCNN.inference(loaded.model, [x], [given])[0]["instances"]
        for mask, annotation in zip(expected.pred_masks.numpy(), new, strict=True):
            assert np.array_equal(mask, mask_util.decode(annotation["segmentation"]))
            compared += 1
    assert compared > 4


def test_a_box_that_reaches_out_of_the_image_is_its_part_inside(command, pets, tmp_path):
    content = json.loads(pets[0].read_text())
    boxes = [a for a in content["annotations"] if "segmentation" not in a and not a["iscrowd"]]
    results = []
    for box in ([-20, -6, 40, 30], [0, 0, 20, 24]):
        boxes[0]["bbox"] = box
        pets[0].write_text(json.dumps(content))
        assert main([*command, "--output", str(tmp_path / f"{box[0]}.json")]) == 0
        results.append(annotations_of(tmp_path / f"{box[0]}.json"))
    (before,), (after,) = ([a for a in found if a["id"] == boxes[0]["id"]] for found in results)
    assert before["segmentation"] == after["segmentation"]
    assert before["mask_score"] == after["mask_score"]
    assert before["bbox"] == [-20, -6, 40, 30]


def test_a_registered_split_takes_no_real_mask_away(model, pets, tmp_path):
    register_coco_instances("pets_with_masks", {}, str(pets[0]), str(pets[1]))
    register_partial(
        "pets_split",
        base="pets_with_masks",
        split=ClassSplit("s", {"dog", "cup", "car"}, {"cat"}),
        keep_masks=True,
    )
    (tmp_path / "split.json").write_text(
        json.dumps({"with_masks": ["dog", "cup", "car"], "boxes_only": ["cat"]})
    )
    argv = ["label", *model, "--dataset", "pets_split", "--workers", "0", "--output"]
    assert main([*argv, str(tmp_path / "kept.json")]) == 0
    assert main([*argv, str(tmp_path / "b.json"), "--split", str(tmp_path / "split.json")]) == 0
    old = annotations_of(pets[0])
    for name, of_cats in (("kept.json", False), ("b.json", True)):
        for before, after in zip(old, annotations_of(tmp_path / name), strict=True):
            if before["category_id"] == 1:
                assert ("mask_source" in after) == of_cats
            elif not before["iscrowd"]:
                assert ("mask_source" in after) == (not of_cats)


def test_parts_and_chunks_give_the_same_file(command, pets, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    assert main([*command, "--output", str(whole)]) == 0
    merge = ["label", "--merge", "3", "--dataset-json", str(pets[0]), "--output", str(parts)]
    monkeypatch.setattr(model_masks, "_BOXES_AT_ONCE", 1)
    for i in (3, 1, 2):
        with pytest.raises(SystemExit):
            main(merge)
        assert main([*command, "--output", str(parts), "--shard", f"{i}/3"]) == 0
        assert not parts.exists()
    assert main(merge) == 0
    assert parts.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.glob("*.json*")) == ["parts.json", "whole.json"]
    assert main([*command, "--output", str(whole)]) == 0  # finds it done
    (tmp_path / "parts.json.2-of-3.jsonl").touch()  # left by a kill
    assert main(merge) == 0
    assert not list(tmp_path.glob("*.jsonl"))


def test_instances_that_wise_found_stay_whole_and_in_parts(command, pets, tmp_path):
    content = json.loads(pets[0].read_text())
    (cup,) = (c["id"] for c in content["categories"] if c["name"] == "cup")
    found = [a for a in content["annotations"] if a["category_id"] == cup and not a["iscrowd"]]
    for a in found:
        x, y, w, h = a["bbox"]
        a |= {"segmentation": [[x, y, x + w, y, x, y + h]], "area": 9.0, "mask_source": "wise"}
    assert found
    content = {"pseudo_masks": {"parameters": {"method": "wise"}}, **content}
    pets[0].write_text(json.dumps(content))
    split = {"with_masks": ["cat"], "boxes_only": ["dog", "car"], "labels_only": ["cup"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    options = ["--split", str(tmp_path / "split.json")]
    assert main([*command, *options, "--output", str(whole)]) == 0
    for i in (1, 2):
        shard = ["--shard", f"{i}/2", "--output", str(parts)]
        assert main([*command, *options, *shard]) == 0
    merge = ["label", "--merge", "2", "--dataset-json", str(pets[0]), "--output", str(parts)]
    assert main(merge) == 0
    assert parts.read_bytes() == whole.read_bytes()
    kept = [a for a in annotations_of(whole) if a["category_id"] == cup and not a["iscrowd"]]
    assert kept == found
    header = json.loads(whole.read_text())["pseudo_masks"]
    assert header["before"] == content["pseudo_masks"]


@pytest.mark.parametrize("shard", [[], ["--shard", "1/2"]], ids=["whole", "part"])
def test_a_killed_call_goes_on_to_the_same_result(shard, command, pets, tmp_path):
    def finish(output):
        assert main([*command, "--output", str(output), *shard]) == 0
        if shard:
            assert main([*command, "--output", str(output), "--shard", "2/2"]) == 0
            merge = ["label", "--merge", "2", "--dataset-json", str(pets[0])]
            assert main([*merge, "--output", str(output)]) == 0
        return output.read_bytes()

    output = tmp_path / "killed.json"
    argv = [sys.executable, "-c", KILLED, *command, "--output", str(output), *shard]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists()
    assert finish(output) == finish(tmp_path / "undisturbed.json")


def test_a_part_that_is_not_done_or_of_another_model_is_not_merged(command, pets, tmp_path, capsys):
    output = tmp_path / "parts.json"
    merge = ["label", "--merge", "2", "--dataset-json", str(pets[0]), "--output", str(output)]
    assert main([*command, "--output", str(output), "--shard", "1/2"]) == 0
    other = save_model(tmp_path / "other", "INPUT.MIN_SIZE_TEST", 80)
    argv = ["label", *other, *command[5:], "--output", str(output), "--shard", "2/2"]
    assert main(argv) == 0
    capsys.readouterr()
    assert main(merge) == 1
    assert "2-of-2.jsonl is of a job with" in capsys.readouterr().err
    path = tmp_path / "parts.json.2-of-2.jsonl"
    path.unlink()
    assert main([*command, "--output", str(output), "--shard", "2/2"]) == 0
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    capsys.readouterr()
    assert main(merge) == 1
    assert "part 2 of 2 is not done; repeat --shard 2/2" in capsys.readouterr().err
    assert not output.exists()


def test_bad_images_are_named_and_done_when_they_are_there(command, pets, tmp_path, capsys):
    output = tmp_path / "labelled.json"
    good = {i: (pets[1] / f"{i}.png").read_bytes() for i in (0, 2)}
    (pets[1] / "0.png").unlink()
    Image.new("RGB", (10, 20)).save(pets[1] / "2.png")
    for _ in range(2):
        assert main([*command, "--output", str(output)]) == 1
        err = capsys.readouterr().err
        assert "2 images can't be used" in err and f"no file '{pets[1] / '0.png'}'" in err
        assert "2.png' has 10 × 20 pixels, but the JSON file says 64 × 48" in err
    for i, content in good.items():
        (pets[1] / f"{i}.png").write_bytes(content)
    assert main([*command, "--output", str(output)]) == 0
    again = tmp_path / "again.json"
    assert main([*command, "--output", str(again)]) == 0
    assert again.read_bytes() == output.read_bytes()


def test_categories_that_the_model_does_not_know(command, pets, tmp_path, capsys):
    content = json.loads(pets[0].read_text())
    content["categories"][1]["name"] = "dogs"
    content["categories"][3]["name"] = "lorry"
    pets[0].write_text(json.dumps(content))
    argv = [*command, "--output", str(tmp_path / "out.json")]
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert "does not know 2 of the 3 categories: dogs, lorry (--rename 'dogs=dog'?)" in err
    assert main([*argv, "--rename", "dogs=dog", "--rename", "kiwi=cat"]) == 1
    assert "no box without a mask is of category 'kiwi'" in capsys.readouterr().err
    assert main([*argv, "--rename", "dogs=dog", "--skip-unknown"]) == 0
    for annotation in annotations_of(tmp_path / "out.json"):
        if not annotation["iscrowd"]:
            assert ("segmentation" in annotation) == (annotation["category_id"] != 10)


def test_an_annotation_of_no_category_is_an_error(command, pets, tmp_path, capsys):
    content = json.loads(pets[0].read_text())
    content["annotations"][1]["category_id"] = 77
    pets[0].write_text(json.dumps(content))
    assert main([*command, "--output", str(tmp_path / "out.json")]) == 1
    assert "category_id 77, which is not in 'categories'" in capsys.readouterr().err


def test_parts_of_models_whose_classes_are_in_another_order_are_not_merged(
    command, model, pets, tmp_path, capsys
):
    output = tmp_path / "parts.json"
    assert main([*command, "--output", str(output), "--shard", "1/2"]) == 0
    MetadataCatalog.get("pets").thing_classes = ["dog", "cat", "cup", "car"]
    assert main([*command, "--output", str(output), "--shard", "2/2"]) == 0
    merge = ["label", "--merge", "2", "--dataset-json", str(pets[0]), "--output", str(output)]
    capsys.readouterr()
    assert main(merge) == 1
    assert "is of a job with thing_classes_sha256" in capsys.readouterr().err


def test_any_category_will_do_where_masks_do_not_depend_on_it(command, pets, tmp_path):
    agnostic = save_model(tmp_path / "agnostic", *AGNOSTIC)
    content = json.loads(pets[0].read_text())
    content["categories"][1]["name"] = "kiwi"
    pets[0].write_text(json.dumps(content))
    output = tmp_path / "out.json"
    assert main(["label", *agnostic, *command[5:], "--output", str(output)]) == 0
    assert all("segmentation" in a or a["iscrowd"] for a in annotations_of(output))


def test_nothing_found_is_the_whole_box(pets, tmp_path):
    agnostic = save_model(tmp_path / "agnostic", *AGNOSTIC)
    checkpoint = torch.load(agnostic[3])
    checkpoint["model"]["roi_heads.mask_head.predictor.bias"] -= 1000
    torch.save(checkpoint, agnostic[3])
    output = tmp_path / "out.json"
    report = label_boxes(agnostic[1], agnostic[3], *pets, output, workers=0, progress=False)
    assert report.masks == {"box": 11} and report.without_mask == 0
    for annotation in annotations_of(output):
        if annotation.get("mask_source"):
            assert annotation["mask_score"] == 0
            found = mask_util.toBbox(annotation["segmentation"]).tolist()
            assert found == annotation["bbox"]


def test_where_all_boxes_have_masks_there_is_nothing_to_do(command, pets, tmp_path, capsys):
    content = json.loads(pets[0].read_text())
    content["annotations"] = [a for a in content["annotations"] if "segmentation" in a]
    pets[0].write_text(json.dumps(content))
    assert main([*command, "--output", str(tmp_path / "labelled.json")]) == 0
    out = capsys.readouterr().out
    assert out == (
        "labelled.json: all boxes have masks, so none was made; --split makes masks for all boxes "
        "of its set B.\n"
    )


def test_mistakes(command, pets, tmp_path, capsys):
    output = str(tmp_path / "out.json")
    for argv, said in (
        ([*command, "--output", output, "--shard", "3/2"], "--shard takes I/N"),
        ([*command, "--output", output, "--rename", "dog"], "--rename takes NAME=KNOWN"),
        (["label", *command[3:], "--output", output], "--config-file is needed"),
        (["label", "--merge", "0", *command[5:], "--output", output], "--merge must be at least 1"),
        (["label", "--merge", "2", *command[5:7], "--output", output], "run --shard 1/2"),
    ):
        with pytest.raises(SystemExit) as e:
            main(argv)
        assert e.value.code == 2
        assert said in capsys.readouterr().err
    assert main([*command, "--output", str(pets[0])]) == 1
    assert "never overwritten" in capsys.readouterr().err
    boxes = save_model(
        tmp_path / "boxes", "MODEL.MASK_ON", False, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"
    )
    assert main(["label", *boxes, *command[5:], "--output", output]) == 1
    assert "predicts no masks; give it a mask branch" in capsys.readouterr().err
