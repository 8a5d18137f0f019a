from functools import partial

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.model_zoo import get_config
from detectron2.modeling import StandardROIHeads
from omegaconf import OmegaConf

from maskx_d2 import apply_box_supervision, apply_maskx, model_zoo
from maskx_d2.engine.inference import settings_hash
from maskx_d2.engine.lazy_main import as_text
from maskx_d2.modeling import (
    MaskXCascadeROIHeads,
    MaskXConvUpsampleHead,
    MaskXMixin,
    MaskXRes5ROIHeads,
    MaskXROIHeads,
    SupervisedMasksCascadeROIHeads,
    SupervisedMasksRes5ROIHeads,
    SupervisedMasksROIHeads,
)


def test_options_reach_the_model():
    model = get_config("common/models/mask_rcnn_fpn.py").model
    apply_maskx(
        model,
        transfer_input="cls",
        transfer_hidden_dims=(16, 8),
        transfer_negative_slope=0.0,
        transfer_dropout=0.3,
        transfer_noise=0.1,
        stop_grad=False,
    )
    heads = instantiate(model.roi_heads)
    assert isinstance(heads, MaskXROIHeads)
    assert isinstance(heads.mask_head, MaskXConvUpsampleHead)
    assert (heads.weight_transfer.dropout, heads.weight_transfer.noise) == (0.3, 0.1)
    shapes = [tuple(p.shape) for p in heads.weight_transfer.parameters()]
    assert shapes == [(16, 1024), (16,), (8, 16), (8,), (256, 8), (256,)]
    assert heads.weight_transfer[1].negative_slope == 0.0
    assert heads.stop_grad is False
    assert heads.mask_head.mlp_branch is None


def test_cascade_needs_cls_alone_and_says_so():
    model = get_config("common/models/cascade_rcnn.py").model
    apply_maskx(model)
    with pytest.raises(ValueError, match="apply_maskx\\) to cls"):
        instantiate(model.roi_heads)
    model = apply_maskx(get_config("common/models/cascade_rcnn.py").model, transfer_input="cls")
    assert isinstance(instantiate(model.roi_heads), MaskXCascadeROIHeads)


def test_after_a_round_trip_through_yaml(tmp_path):
    cfg = OmegaConf.create({"model": get_config("common/models/mask_rcnn_fpn.py").model})
    LazyConfig.save(cfg, str(tmp_path / "model.yaml"))
    model = LazyConfig.load(str(tmp_path / "model.yaml")).model
    assert isinstance(model.roi_heads._target_, str)
    assert apply_maskx(model).roi_heads._target_ is MaskXROIHeads


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (SupervisedMasksROIHeads, MaskXROIHeads),
        (SupervisedMasksCascadeROIHeads, MaskXCascadeROIHeads),
        (SupervisedMasksRes5ROIHeads, MaskXRes5ROIHeads),
    ],
)
def test_roi_heads_of_this_package_without_transfer(theirs, ours):
    model = model_zoo.get_config("shapes/class_agnostic.py").model
    model.roi_heads._target_ = theirs
    assert apply_maskx(model).roi_heads._target_ is ours


def test_the_class_agnostic_baseline_with_transfer():
    heads = instantiate(apply_maskx(model_zoo.get_config("shapes/class_agnostic.py").model))
    assert isinstance(heads.roi_heads, MaskXROIHeads)
    assert heads.roi_heads.class_weights().shape[0] == 36


def test_someone_elses_roi_heads():
    class TheirROIHeads(StandardROIHeads):
        pass

    class TheirMaskXROIHeads(MaskXMixin, TheirROIHeads):
        pass

    model = get_config("common/models/mask_rcnn_fpn.py").model
    model.roi_heads._target_ = TheirROIHeads
    with pytest.raises(ValueError, match="roi_heads TheirROIHeads have no Mask\\^X form: derive"):
        apply_maskx(model)
    model.roi_heads._target_ = TheirMaskXROIHeads
    heads = instantiate(apply_maskx(model, transfer_input="box").roi_heads)
    assert type(heads) is TheirMaskXROIHeads
    assert heads.transfer_input == "box"


def test_mlp_branch():
    model = apply_maskx(model_zoo.get_config("shapes/maskx.py").model, mlp_branch=True)
    assert instantiate(model.roi_heads).mask_head.mlp_branch[0].out_features == 28 * 28


def test_models_without_a_maskx_form_are_refused():
    with pytest.raises(ValueError, match=r"needs a model with roi_heads\.mask_head"):
        apply_maskx(get_config("common/models/retinanet.py").model)
    model = get_config("common/models/mask_rcnn_fpn.py").model
    model.roi_heads.mask_head._target_ = "detectron2.modeling.roi_heads.BaseMaskRCNNHead"
    with pytest.raises(ValueError, match="mask head BaseMaskRCNNHead has no Mask\\^X form"):
        apply_maskx(model)


@pytest.mark.parametrize("config", ["shapes/maskx.py", "shapes/class_agnostic.py"])
def test_losses_of_boxes_read_colours_as_the_model_does(config):
    model = model_zoo.get_config(config).model
    apply_box_supervision(model, projection_weight=0.3, affinity_weight=0.5, warmup_iters=7)
    model.pixel_mean = [1.0, 2.0, 3.0]
    found = instantiate(model).roi_heads.box_supervision
    assert (found.projection_weight, found.affinity_weight, found.warmup_iters) == (0.3, 0.5, 7)
    assert found.pixel_mean.tolist() == [1.0, 2.0, 3.0]
    assert found.is_bgr == (model.get("input_format", "BGR") == "BGR")


@pytest.mark.parametrize("config", ["mask_rcnn_fpn.py", "retinanet.py"])
def test_losses_of_boxes_need_roi_heads_that_have_them(config):
    with pytest.raises(ValueError, match="can't learn masks from boxes: call apply_maskx first"):
        apply_box_supervision(get_config(f"common/models/{config}").model)


def test_settings_are_told_apart_whatever_they_are_made_of():
    class Plain:
        def __init__(self, value):
            self.value = value

    def norm(eps, value):
        return as_text({"norm": partial(torch.nn.LayerNorm, eps=eps), "other": Plain(value)})

    assert norm(1e-6, 1) == norm(1e-6, 1), "no address in memory"
    assert len({norm(1e-6, 1), norm(1e-5, 1), norm(1e-6, 2)}) == 3
    assert "LayerNorm" in norm(1e-6, 1)
    itself = Plain(1)
    itself.value = itself
    assert "Plain" in as_text(itself)
    assert as_text(Plain({(1, 2): "a"})) != as_text(Plain({(1, 2): "b"}))


def test_the_recommended_vitdet_has_a_hash():
    config = model_zoo.get_config_file("recommended/maskx_rcnn_vitdet_b.py")
    assert settings_hash(config) != settings_hash(config, ["model.roi_heads.num_classes=3"])
