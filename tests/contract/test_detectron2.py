"""
The facts about detectron2 that the package relies on or works around.

Where one of these fails, detectron2 has changed: look at what the package does about it.
"""

import inspect

import pytest
import torch
from conftest import tiny_cfg
from detectron2.data import detection_utils
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import BoxMode, Instances


def annotation(**kwargs):
    return {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, **kwargs}


MASKED = {"segmentation": [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]}


def test_box_predictor_rows():
    predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=5), box2box_transform=Box2BoxTransform((1, 1, 1, 1)), num_classes=3
    )
    assert predictor.cls_score.weight.shape == (4, 5), "the background is last"
    assert predictor.bbox_pred.weight.shape == (12, 5), "and has no box"


def test_mask_logits_of_one_channel_take_the_class_agnostic_path():
    """Why logits of shape (R, 1, M, M) can use detectron2's loss and inference unchanged."""
    from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference

    instances = Instances((4, 4), pred_classes=torch.tensor([7, 3]))
    mask_rcnn_inference(torch.tensor([[[[2.0]]], [[[-2.0]]]]), [instances])
    torch.testing.assert_close(
        instances.pred_masks[:, 0, 0, 0], torch.tensor([2.0, -2.0]).sigmoid()
    )


def test_hooks_that_are_overridden():
    forward_mask = inspect.signature(StandardROIHeads._forward_mask)
    assert list(forward_mask.parameters) == ["self", "features", "instances"]
    assert CascadeROIHeads._forward_mask is StandardROIHeads._forward_mask
    assert "self.mask_head(features, instances)" in inspect.getsource(StandardROIHeads)
    assert MaskRCNNConvUpsampleHead.__mro__[2] is torch.nn.Sequential


def test_every_gt_field_reaches_the_sampled_proposals():
    source = inspect.getsource(StandardROIHeads.label_and_sample_proposals)
    assert 'trg_name.startswith("gt_")' in source


def test_stock_loses_all_masks_of_an_image_whose_first_instance_has_none():
    annotations = [annotation(), annotation(**MASKED)]
    instances = detection_utils.annotations_to_instances(annotations, (10, 10))
    assert not instances.has("gt_masks")


def test_stock_crashes_on_an_image_whose_later_instance_has_none():
    with pytest.raises(KeyError, match="segmentation"):
        detection_utils.annotations_to_instances([annotation(**MASKED), annotation()], (10, 10))


def test_stock_deletes_the_box_of_an_empty_segmentation():
    annotations = [annotation(**MASKED), annotation(segmentation=[])]
    instances = detection_utils.annotations_to_instances(annotations, (10, 10))
    assert len(detection_utils.filter_empty_instances(instances)) == 1


def test_names_of_the_trunk():
    """Mask R-CNN checkpoints fill the trunk by these names."""
    model = build_model(
        tiny_cfg("coco/voc2nonvoc/oracle_R_50_FPN_1x.yaml", "MODEL.ROI_MASK_HEAD.NUM_CONV", 2)
    )
    assert {k.split(".")[0] for k in model.roi_heads.mask_head.state_dict()} == {
        *("mask_fcn1", "mask_fcn2", "deconv", "predictor"),
    }
