"""Starting from a Mask R-CNN or Faster R-CNN checkpoint of detectron2."""

import pickle

import pytest
import torch
from conftest import tiny_cfg
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

MASK_RCNN = "coco/voc2nonvoc/oracle_R_50_FPN_1x.yaml"


def build(*args):
    torch.manual_seed(len(args))
    return build_model(tiny_cfg(*args))


@pytest.fixture(params=["pth", "zoo pkl"])
def saved(request, tmp_path):
    """Save a model as detectron2's trainer does, or as its model zoo does."""

    def save(model):
        if request.param == "pth":
            DetectionCheckpointer(model, str(tmp_path)).save("start")
            return str(tmp_path / "start.pth")
        path = tmp_path / "start.pkl"
        weights = {k: v.numpy() for k, v in model.state_dict().items()}
        content = {"model": weights, "__author__": "x", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content))
        return str(path)

    return save


def test_mask_rcnn_fills_all_but_t_and_the_mask_predictor(saved, caplog):
    mask_rcnn, maskx = build(MASK_RCNN), build()
    transfer = {k: v.clone() for k, v in maskx.state_dict().items() if "weight_transfer" in k}
    with caplog.at_level("INFO"):
        DetectionCheckpointer(maskx).load(saved(mask_rcnn))
    theirs = mask_rcnn.state_dict()
    for key, value in maskx.state_dict().items():
        assert torch.equal(value, transfer[key] if key in transfer else theirs[key]), key
    assert "mask_fcn1" in str(maskx.state_dict().keys())
    assert (
        "roi_heads.mask_head.predictor.weight and roi_heads.mask_head.predictor.bias of the "
        "checkpoint not used: the weight transfer function predicts the mask weights" in caplog.text
    )
    assert "not used by the model" not in caplog.text.replace("checkpoint not used", "")


def test_faster_rcnn_fills_the_detector(saved):
    faster = build(MASK_RCNN, "MODEL.MASK_ON", False)
    maskx = build()
    before = {k: v.clone() for k, v in maskx.state_dict().items()}
    DetectionCheckpointer(maskx).load(saved(faster))
    theirs = faster.state_dict()
    for key, value in maskx.state_dict().items():
        assert torch.equal(value, theirs.get(key, before[key])), key
    assert sum(key in theirs for key in before) > 50
