"""Weights of another model are refused by all that use a model: its masks would be random."""

import logging

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from PIL import Image

from maskx_d2 import ClassSplit
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import Predictor, load_model

pytestmark = pytest.mark.usefixtures("no_registration_left")

CLASS_AGNOSTIC = (
    *("MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
)


def state_of(*opts):
    cfg = tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *opts)
    return build_model(cfg).state_dict()


@pytest.fixture
def config(tmp_path):
    """Of a Mask^X model, in whose folder stand weights of a class-agnostic one."""
    json_file, images = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_val", base="pets", split=split, keep_masks=True)
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("DATASETS.TRAIN", ("pets_val",), "DATASETS.TEST", ("pets_val",)),
    )
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": state_of(*CLASS_AGNOSTIC)}, tmp_path / "model_final.pth")
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("command", ["predict", "label", "export", "report"])
def test_commands_refuse_weights_without_the_weight_transfer_function(
    command, config, tmp_path, capsys
):
    image, output = str(tmp_path / "pets" / "0.png"), tmp_path / "output"
    model = ["--config-file", str(config), "--weights", str(tmp_path / "model_final.pth")]
    data = ["--dataset-json", str(tmp_path / "pets" / "annotations.json"), "--image-root"]
    argv = {
        "predict": [*model, image],
        "label": [*model, *data, str(tmp_path / "pets")],
        "export": [*model, "--image", image, "--format", "torchscript"],
        "report": [str(tmp_path)],
    }[command]
    try:
        status = main([command, *argv, "--output", str(output)])
    except SystemExit as stop:
        status = stop.code
    assert status in (1, 2)
    err = capsys.readouterr().err
    assert "model_final.pth' is not of this config's model: roi_heads.weight_transfer.0." in err
    assert "Give the config.yaml that its training has left" in err
    assert not output.exists()


def test_the_predictor_names_some_of_what_does_not_fit(config, tmp_path):
    weights = str(tmp_path / "other.pth")

    def refused(match, state):
        torch.save({"model": state}, weights)
        with pytest.raises(ValueError, match=match):
            Predictor(str(config), weights)

    refused(r"cls_score.weight is \(8, 32\) instead of \(5, 32\)", state_of(
        "MODEL.ROI_HEADS.NUM_CLASSES", 7
    ))  # fmt: skip
    state = {k: v for k, v in state_of().items() if "fpn" not in k}
    refused(r"is missing; .* is missing; .* is missing, and \d+ more of the kind\.", state)


def test_what_a_model_can_do_without(config, tmp_path, caplog):
    """Old checkpoints lack some buffers; others have a mask head where only boxes are wanted."""
    opts = ("MODEL.FPN.NORM", "BN")
    state = state_of(*opts)
    left_out = [k for k in state if k.endswith("num_batches_tracked")]
    assert left_out
    state = {k: v for k, v in state.items() if k not in left_out and "pixel_" not in k}
    torch.save({"model": state}, tmp_path / "old.pth")
    load_model(str(config), str(tmp_path / "old.pth"), opts)
    with caplog.at_level(logging.WARNING):
        boxes_only = ("MODEL.MASK_ON", "False", "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
        load_model(str(config), str(tmp_path / "old.pth"), [*opts, *boxes_only])
    assert "weight_transfer" in caplog.text


@pytest.mark.parametrize("broken", ["text", "picture", "cut", "empty", "list"])
def test_a_file_that_is_no_checkpoint(broken, config, tmp_path):
    path = tmp_path / "broken.pth"
    if broken == "picture":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "PNG")
    elif broken == "list":
        torch.save([1, 2], path)
    else:
        whole = (tmp_path / "model_final.pth").read_bytes()
        path.write_bytes({"text": b"not one", "cut": whole[:-3000], "empty": b""}[broken])
    with pytest.raises(ValueError, match=r"broken.pth' is not a checkpoint of detectron2's"):
        load_model(str(config), str(path))
