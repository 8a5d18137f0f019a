"""Frozen means frozen."""

import copy

import pytest
import torch
from conftest import make_batch, make_targets, tiny_cfg
from detectron2.modeling import build_model
from torch import nn

from maskx_d2.engine import MaskXTrainer
from maskx_d2.modeling import freeze_detector

NAME = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
# Batch norm that would move, in the backbone and in the box head.
NORMS = ("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0)


def is_trained(name):
    return name.startswith(("roi_heads.mask_head.", "roi_heads.weight_transfer."))


@pytest.mark.parametrize("copied", [False, True])
def test_every_parameter_and_buffer_of_the_detector_stays_bit_identical(storage, copied):
    model = MaskXTrainer.build_model(tiny_cfg(NAME, *NORMS, "MODEL.MASKX.FREEZE_DETECTOR", True))
    model.roi_heads.box_head.add_module("dropout", nn.Dropout(0.5))
    freeze_detector(model)
    if copied:
        model = copy.deepcopy(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert any("running_mean" in k for k in before)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    for _ in range(2):
        losses = model(make_batch(make_targets([True, False], [0, 1])))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) is not is_trained(key), key
    # As in the forward pass of a trained detector: the same batch, the same box losses.
    torch.manual_seed(5)
    first = model(make_batch(make_targets([True], [0])))
    torch.manual_seed(5)
    second = model(make_batch(make_targets([True], [0])))
    assert first["loss_cls"] == second["loss_cls"]


def test_boxes_are_bit_identical_before_and_after(storage):
    cfg = tiny_cfg(NAME, *NORMS, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    model = freeze_detector(build_model(cfg))
    batch = make_batch(make_targets([True, False], [0, 1]))
    before = model.eval()(batch)[0]["instances"]
    masks = before.pred_masks.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    sum(model(batch).values()).backward()
    optimizer.step()
    after = model.eval()(batch)[0]["instances"]
    assert len(before) > 0
    for field in ("pred_boxes", "scores", "pred_classes"):
        one, other = before.get(field), after.get(field)
        assert torch.equal(getattr(one, "tensor", one), getattr(other, "tensor", other)), field
    assert not torch.equal(masks, after.pred_masks), "the control: the masks have changed"


def test_without_freezing_they_would_move(storage):
    model = build_model(tiny_cfg(NAME, *NORMS))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()(make_batch(make_targets([True], [0])))
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_model_without_a_mask_head():
    with pytest.raises(ValueError, match=r"none of roi_heads\.mask_head.*nothing would be left"):
        freeze_detector(
            build_model(
                tiny_cfg(NAME.replace("maskx_rcnn_no_mlp", "oracle"), "MODEL.MASK_ON", False)
            )
        )
