"""Mixed precision and test-time augmentation, with masks missing."""

import pytest
import torch
from conftest import make_batch, make_targets, tiny_cfg
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model

MASKX = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
CLASS_AGNOSTIC = "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml"


@pytest.mark.parametrize("name", [MASKX, CLASS_AGNOSTIC])
@pytest.mark.parametrize("has_mask", [[True, False], [False, False]])
def test_a_step_in_bfloat16(storage, name, has_mask):
    model = build_model(tiny_cfg(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_batch(make_targets(has_mask, [0, 1]), make_targets([False], [2])))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert (losses["loss_mask"] > 0) == any(has_mask)
    for key, parameter in model.roi_heads.named_parameters():
        if key.startswith(("mask_head", "weight_transfer")):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", [MASKX, CLASS_AGNOSTIC])
def test_test_time_augmentation(name):
    sizes = ("TEST.AUG.MIN_SIZES", (48, 64), "TEST.AUG.MAX_SIZE", 80, "TEST.AUG.ENABLED", True)
    cfg = tiny_cfg(name, *sizes, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    model = GeneralizedRCNNWithTTA(cfg, build_model(cfg).eval())
    batch = make_batch(make_targets([True], [0]))
    with torch.no_grad():
        output = model([{"image": batch[0]["image"], "height": 64, "width": 64}])
    instances = output[0]["instances"]
    assert len(instances) > 0
    assert instances.pred_masks.shape == (len(instances), 64, 64)
