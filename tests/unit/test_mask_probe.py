"""Mask quality on ground-truth boxes: the figures, and the probe that measures them."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import inference_on_dataset
from torch import nn

from maskx_d2 import ClassSplit
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer
from maskx_d2.evaluation import MaskProbe, mask_quality

pytestmark = pytest.mark.usefixtures("no_registration_left")

SPLIT = ClassSplit("pets", with_masks={"cat", "dog"}, boxes_only={"cup", "car"})


def test_figures_are_means_over_categories():
    ious = np.array([1.0, 0.5, 0.0, 0.749])
    figures = mask_quality(ious, np.array([0, 0, 0, 7]))
    assert figures == pytest.approx(
        {
            "IoU": 100 * (0.5 + 0.749) / 2,
            "AR": 100 * ((1 + 0.1) / 3 + 0.5) / 2,  # 0.749 passes 0.5 to 0.7
            "AR50": 100 * (2 / 3 + 1) / 2,
            "AR75": 100 * (1 / 3) / 2,
            "IoU_inst": 100 * 2.249 / 4,
            "AR_inst": 100 * 1.6 / 4,
        }
    )
    assert mask_quality(ious, np.array([0, 0, 0, 7]), [7])["IoU"] == pytest.approx(74.9)
    assert all(map(math.isnan, mask_quality(ious, np.array([0, 0, 0, 7]), [3]).values()))


@pytest.fixture
def pets(tmp_path):
    json_file, _ = write_coco(tmp_path / "pets")
    content = json.loads(json_file.read_text())
    return json_file, content


def register(json_file, content):
    json_file.write_text(json.dumps(content))
    register_coco_instances("pets", {}, str(json_file), str(json_file.parent))
    register_partial("pets_partial", base="pets", split=SPLIT, keep_masks=True)


def probe(masks, tmp_path, *opts):
    """What the probe says of a model whose mask head predicts ``masks`` (28, 28) for each RoI."""
    cfg = tiny_cfg()
    cfg.merge_from_list([*("DATASETS.TEST", ("pets_partial",), "INPUT.MIN_SIZE_TEST", 96), *opts])
    model = MaskXTrainer.build_model(cfg)

    def give(features, instances):
        for each in instances:
            each.pred_masks = masks.expand(len(each), 1, 28, 28)
        return instances

    model.roi_heads.forward_with_given_boxes = give
    loader = MaskXTrainer.build_test_loader(cfg, "pets_partial")
    evaluator = MaskProbe("pets_partial", model, output_dir=str(tmp_path))
    return inference_on_dataset(model, loader, evaluator)


def test_masks_are_compared_at_the_images_own_size(pets, tmp_path):
    register(*pets)
    full = probe(torch.ones(28, 28), tmp_path)
    assert set(full) == {f"{t}{s}" for t in ("mask_probe", "box_as_mask") for s in ("", "_A", "_B")}
    for figures in full.values():  # the objects are rectangles, which fill their boxes
        assert figures["IoU"] == pytest.approx(100, abs=1e-6)
    half = torch.ones(28, 28)
    half[14:] = 0
    figures = probe(half, tmp_path)
    assert figures["mask_probe_B"]["IoU"] == pytest.approx(50, abs=0.1)
    assert figures["box_as_mask_B"]["AR"] == pytest.approx(100)


def test_categories_with_image_labels_only_are_measured_too(pets, tmp_path):
    json_file, content = pets
    register(json_file, content)
    DatasetCatalog.remove("pets_partial")
    split = ClassSplit("grades", {"cat", "dog"}, {"cup"}, {"car"})
    register_partial("pets_partial", base="pets", split=split, keep_masks=True)
    half = torch.ones(28, 28)
    half[14:] = 0
    figures = probe(half, tmp_path)
    tasks = ("mask_probe", "box_as_mask")
    assert set(figures) == {f"{t}{s}" for t in tasks for s in ("", "_A", "_B", "_C")}
    assert figures["mask_probe_C"]["IoU"] == pytest.approx(50, abs=0.1)


def test_every_mask_counts_once_and_what_has_none_does_not(pets, tmp_path):
    json_file, content = pets
    for annotation in content["annotations"]:
        category = annotation["category_id"]
        if annotation["image_id"] == 1:
            del annotation["segmentation"]
        elif annotation["image_id"] == 2 and category == 1:
            annotation["iscrowd"] = 1
        elif annotation["image_id"] == 3 and category == 10:
            annotation["bbox"] = [70, 4, 12, 20]  # beside the image, which is 64 pixels wide
    register(json_file, content)
    figures = probe(torch.ones(28, 28), tmp_path)
    rows = json.loads((tmp_path / "mask_probe.json").read_text())
    assert len(rows) == 3 * 4 - 1
    assert {r["image_id"] for r in rows} == {2, 3, 4}
    assert [r["iou"] for r in rows if r["image_id"] == 3 and r["category_id"] == 3] == [0.0]
    # Of two images with cats, and three with cars of which one is missed.
    assert figures["mask_probe_A"]["AR"] == pytest.approx(100)
    assert figures["mask_probe_B"]["AR"] == pytest.approx(100 * (1 + 2 / 3) / 2)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_backbone_sees_each_image_once(pets, tmp_path, wrapped):
    register(*pets)
    cfg = tiny_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("pets_partial",), "INPUT.MIN_SIZE_TEST", 96])
    model = MaskXTrainer.build_model(cfg)
    stock = type(model.backbone).forward
    seen = []

    def forward(images):
        seen.append(images.shape)
        return stock(model.backbone, images)

    model.backbone.bottom_up.register_forward_pre_hook(lambda m, args: seen.append(None))
    if wrapped:  # by somebody else
        model.backbone.forward = forward
    results = []
    for features_kept in (True, False):
        evaluator = MaskProbe("pets_partial", model, output_dir=str(tmp_path))
        if not features_kept:
            evaluator._backbone.keep = lambda: None
        seen.clear()
        loader = MaskXTrainer.build_test_loader(cfg, "pets_partial")
        results.append(inference_on_dataset(model, loader, evaluator))
        images = len(DatasetCatalog.get("pets_partial"))
        assert seen.count(None) == images * (1 if features_kept else 2)
        assert not model.backbone._forward_hooks
        assert vars(model.backbone).get("forward") is (forward if wrapped else None)
    assert results[0] == results[1]


def test_other_forms_of_masks(pets, tmp_path):
    register(*pets)
    records = DatasetCatalog.get("pets")
    DatasetCatalog.remove("pets_partial")
    MetadataCatalog.remove("pets_partial")
    for record in records:
        for annotation in record["annotations"]:
            x, y, w, h = annotation["bbox"]
            bitmap = np.zeros((48, 64), dtype=bool)
            bitmap[y : y + h, x : x + w] = True
            runs = np.flatnonzero(np.diff(np.concatenate([[0], bitmap.T.ravel(), [0]])))
            counts = np.diff(np.concatenate([[0], runs, [bitmap.size]])).tolist()
            annotation["segmentation"] = (
                bitmap
                if annotation["category_id"] % 2
                else {"size": [48, 64], "counts": counts if counts[-1] else counts[:-1]}
            )
    DatasetCatalog.register("pets_partial", lambda: records)
    classes = MetadataCatalog.get("pets").thing_classes
    MetadataCatalog.get("pets_partial").set(thing_classes=classes)
    figures = probe(torch.ones(28, 28), tmp_path)
    assert set(figures) == {"mask_probe", "box_as_mask"}, "there is no split"
    assert figures["mask_probe"]["IoU"] == pytest.approx(100, abs=1e-6)


def test_a_config_key_adds_it_to_any_evaluation(pets, tmp_path):
    register(*pets)
    opts = ("DATASETS.TEST", ("pets_partial",), "OUTPUT_DIR", str(tmp_path))
    cfg = tiny_cfg()
    cfg.merge_from_list([*opts, "TEST.MASK_PROBE", True])
    model = MaskXTrainer.build_model(cfg)
    results = MaskXTrainer.test(cfg, model)
    assert {"bbox", "mask_probe_A", "mask_probe_B", "box_as_mask_B"} <= set(results)
    assert (tmp_path / "inference" / "mask_probe.json").is_file()
    cfg.DATASETS.TEST = ("pets", "pets_partial")
    assert set(MaskXTrainer.test(cfg, model)) == {"pets", "pets_partial"}
    for name in cfg.DATASETS.TEST:
        assert (tmp_path / "inference" / name / "mask_probe.json").is_file()
    cfg.TEST.MASK_PROBE = False
    assert "mask_probe_B" not in MaskXTrainer.test(cfg, model)


def test_panoptic_fpn_is_given_boxes_too(pets):
    register(*pets)
    cfg = tiny_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("pets_partial",)])
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "PanopticFPN"])
    model = MaskXTrainer.build_model(cfg)
    loader = MaskXTrainer.build_test_loader(cfg, "pets_partial")
    figures = inference_on_dataset(model, loader, MaskProbe("pets_partial", model))
    assert figures["box_as_mask"]["IoU"] == pytest.approx(100, abs=1e-6)
    assert 0 <= figures["mask_probe"]["IoU"] < 100


def test_a_model_that_takes_no_boxes(pets):
    register(*pets)
    with pytest.raises(TypeError, match="needs a GeneralizedRCNN, which can be given boxes, not L"):
        MaskProbe("pets_partial", nn.Linear(1, 1))
