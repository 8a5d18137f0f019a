import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from maskx_d2.modeling import detection_weights

K, F = 3, 5


def box_predictor(**kwargs):
    return FastRCNNOutputLayers(
        ShapeSpec(channels=F),
        box2box_transform=Box2BoxTransform((1, 1, 1, 1)),
        num_classes=K,
        **kwargs,
    )


def test_rows_are_those_of_each_category_without_the_background():
    predictor = box_predictor()
    cls, box = predictor.cls_score.weight, predictor.bbox_pred.weight
    assert cls.shape == (K + 1, F)
    for c in range(K):
        rows = torch.cat([box[4 * c], box[4 * c + 1], box[4 * c + 2], box[4 * c + 3]])
        assert torch.equal(detection_weights(predictor, source="cls")[c], cls[c])
        assert torch.equal(detection_weights(predictor, source="box")[c], rows)
        assert torch.equal(detection_weights(predictor)[c], torch.cat([cls[c], rows]))
    assert detection_weights(predictor).shape == (K, 5 * F)


def test_stop_grad():
    predictor = box_predictor()
    assert not detection_weights(predictor).requires_grad
    detection_weights(predictor, stop_grad=False).sum().backward()
    assert predictor.cls_score.weight.grad[:K].eq(1).all()
    assert predictor.cls_score.weight.grad[K].eq(0).all()
    assert predictor.bbox_pred.weight.grad.eq(1).all()


def test_box_weights_of_a_class_agnostic_regression_are_an_error():
    predictor = box_predictor(cls_agnostic_bbox_reg=True)
    assert detection_weights(predictor, source="cls").shape == (K, F)
    for source in ("box", "cls+box"):
        with pytest.raises(ValueError, match=r"set MODEL\.MASKX\.TRANSFER_INPUT \(.*\) to cls, or"):
            detection_weights(predictor, source=source)


def test_other_bad_input():
    with pytest.raises(ValueError, match="unknown input of the weight transfer 'class'"):
        detection_weights(box_predictor(), source="class")
    with pytest.raises(TypeError, match=r"reads 'cls_score\.weight' .* Linear has no such layer"):
        detection_weights(nn.Linear(2, 2))
