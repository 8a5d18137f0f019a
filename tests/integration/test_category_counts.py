"""A model with another number of categories than its data: said when the training starts."""

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.config import LazyConfig
from detectron2.data import Metadata
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from maskx_d2 import ClassSplit, engine, model_zoo
from maskx_d2.data import register_partial
from maskx_d2.visualization import draw_instances

pytestmark = pytest.mark.usefixtures("no_registration_left")

MASKX = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"


@pytest.fixture
def pets(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_train", base="pets", split=split)
    return images


@pytest.mark.parametrize("count", [80, 3])
def test_a_yaml_training(count, pets, tmp_path):
    cfg = tiny_cfg(
        *(MASKX, "DATASETS.TRAIN", ("pets_train",), "DATASETS.TEST", ()),
        *("MODEL.ROI_HEADS.NUM_CLASSES", count, "OUTPUT_DIR", str(tmp_path / "out")),
    )
    says = (
        rf"^the model has {count} categories, but data set 'pets_train' has 4; set "
        r"MODEL\.ROI_HEADS\.NUM_CLASSES to 4\.$"
    )
    with pytest.raises(ValueError, match=says):
        engine.MaskXTrainer(cfg)


@pytest.mark.parametrize(
    ("name", "count"), [("coco_2017_val_voc2nonvoc", 80), ("birds", 2), ("birds_val", 2)]
)
def test_what_it_is_tested_on_counts_too(name, count, pets, tmp_path):
    json_file, images = write_coco(tmp_path / "birds", categories=("owl", "kiwi"))
    register_coco_instances("birds", {}, str(json_file), str(images))  # names nothing unread
    register_partial("birds_val", base="birds", split=ClassSplit("birds", {"owl"}, {"kiwi"}))
    cfg = tiny_cfg(
        *(MASKX, "DATASETS.TRAIN", ("pets_train",), "OUTPUT_DIR", str(tmp_path / "out")),
        *("DATASETS.TEST", (name,)),
    )
    says = rf"'{name}', which it is to be tested on, has {count}; test on one with"
    with pytest.raises(ValueError, match=says):
        engine.MaskXTrainer(cfg)


@pytest.mark.usefixtures("pets")
def test_a_lazy_training(tmp_path):
    cfg = model_zoo.get_config("shapes/maskx.py")
    cfg.dataloader.train.dataset.names = "pets_train"
    cfg.train.update(device="cpu", output_dir=str(tmp_path / "out"))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    with pytest.raises(ValueError, match=r"has 36 cat.*'pets_train' has 4; set model\.roi_heads"):
        engine.run(["--config-file", str(tmp_path / "config.yaml")])


def test_a_model_that_was_trained_so_predicts_named_categories_only(pets, tmp_path):
    cfg = tiny_cfg(
        *(MASKX, "DATASETS.TEST", ("pets_train",), "MODEL.ROI_HEADS.NUM_CLASSES", 20),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    )
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    files = str(tmp_path / "config.yaml"), str(tmp_path / "model.pth")
    predictor = engine.Predictor(*files, confidence=0.0)
    found = predictor(str(pets / "0.png"), rles=True)
    assert len(found) and found.pred_classes.max() < 4
    predictor.draw(str(pets / "0.png"))


def test_a_category_without_a_name_can_be_drawn():
    one = Instances((64, 64), pred_boxes=Boxes([[8, 8, 50, 50]]), scores=torch.tensor([0.9]))
    one.pred_classes = torch.tensor([7])
    white = np.full((64, 64, 3), 255, np.uint8)
    assert (draw_instances(white, one, Metadata(thing_classes=["cat"])) != 255).any()
