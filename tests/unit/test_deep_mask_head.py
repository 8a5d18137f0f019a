import pytest
import torch
import torch.nn.functional as F
from conftest import make_batch, make_targets, tiny_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from torch import nn

from maskx_d2.modeling import DeepConvUpsampleHead, freeze_detector
from maskx_d2.modeling.deep_mask_head import Hourglass

SHAPE = ShapeSpec(channels=128, height=14, width=14)
CLASS_AGNOSTIC = ("MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads")
CLASS_AGNOSTIC += ("MODEL.ROI_MASK_HEAD.NAME", "DeepConvUpsampleHead")
CLASS_AGNOSTIC += ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
HEADS = {
    "transfer": (),
    "class-agnostic": CLASS_AGNOSTIC,
    "class-specific": (*CLASS_AGNOSTIC[:4], "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", False),
    "per RoI": (*CLASS_AGNOSTIC[:2], "MODEL.ROI_MASK_HEAD.NAME", "PerRoIConvUpsampleHead"),
}


def deep(trunk, depth=1, **kwargs):
    return DeepConvUpsampleHead(
        SHAPE,
        num_classes=1,
        conv_dims=[8],
        conv_norm="GN" if trunk else "",
        trunk=trunk,
        trunk_depth=depth,
        **kwargs,
    )


def test_without_a_trunk_it_is_detectron2s():
    torch.manual_seed(0)
    ours = deep("")
    torch.manual_seed(0)
    stock = MaskRCNNConvUpsampleHead(SHAPE, num_classes=1, conv_dims=[8])
    assert list(ours.state_dict()) == list(stock.state_dict())
    x = torch.randn(2, 128, 14, 14)
    assert torch.equal(ours.layers(x), stock.layers(x))


@pytest.mark.parametrize("trunk", ["bottleneck", "hourglass"])
def test_the_trunk_stands_in_front(trunk):
    head = deep(trunk, 2).eval()
    x = torch.randn(2, 128, 14, 14)
    rest = MaskRCNNConvUpsampleHead(SHAPE, num_classes=1, conv_dims=[8]).eval()
    state = head.state_dict()
    rest.load_state_dict({k: v for k, v in state.items() if not k.startswith("trunk.")})
    torch.testing.assert_close(head.layers(x), rest.layers(head.trunk[1](head.trunk[0](x))))
    assert len(head.trunk) == 2 and head.layers(x).shape == (2, 1, 28, 28)


def test_an_hourglass_pools_and_adds():
    block = Hourglass(32, levels=2)
    for module in (block, block.inner):
        module.skip = module.before = module.after = nn.Identity()
    block.inner.inner = nn.Identity()
    x = torch.randn(1, 32, 7, 7)  # of which no half is whole
    half = F.max_pool2d(x, 2)
    inner = half + F.interpolate(F.max_pool2d(half, 2), size=(3, 3))
    torch.testing.assert_close(block(x), x + F.interpolate(inner, size=(7, 7)))


@pytest.mark.parametrize(("trunk", "sees_all"), [("hourglass", True), ("bottleneck", False)])
def test_an_hourglass_sees_all_of_a_roi(trunk, sees_all):
    head = deep(trunk).eval()
    nn.init.normal_(head.predictor.weight)  # which starts near zero
    for module in head.modules():  # statistics of a whole map would see everything
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x
    x = torch.randn(1, 128, 14, 14, requires_grad=True)
    head.layers(x)[0, 0, 0, 0].backward()
    assert bool(x.grad[0, :, -1, -1].any()) == sees_all
    assert x.grad[0, :, 0, 0].any()


@pytest.mark.parametrize("trunk", ["bottleneck", "hourglass"])
@pytest.mark.parametrize("opts", HEADS.values(), ids=HEADS)
def test_every_mask_head_takes_one(storage, opts, trunk):
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("MODEL.MASKX.MASK_TRUNK", trunk, "MODEL.MASKX.MASK_TRUNK_DEPTH", 2),
        *("MODEL.ROI_MASK_HEAD.NORM", "LN", "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
        *opts,
    )
    model = freeze_detector(build_model(cfg))
    assert len(model.roi_heads.mask_head.trunk) == 2
    losses = model(make_batch(make_targets([True, False], [0, 1])))
    losses["loss_mask"].backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {f"roi_heads.mask_head.trunk.{i}" for i in (0, 1)} <= {
        ".".join(name.split(".")[:4]) for name in trained
    }


def test_a_trunk_that_the_mask_head_would_ignore_is_an_error():
    name = "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml"
    cfg = tiny_cfg(name, "MODEL.MASKX.MASK_TRUNK", "hourglass")
    with pytest.raises(ValueError, match="MaskRCNNConvUpsampleHead has no place for"):
        build_model(cfg)


@pytest.mark.parametrize("trunk", ["bottleneck", "hourglass"])
def test_it_scripts(trunk):
    head = deep(trunk).eval()
    scripted = torch.jit.script(head.trunk)
    x = torch.randn(2, 128, 14, 14)
    assert torch.equal(scripted(x), head.trunk(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": "hourglas", "conv_norm": "GN"}, "choose bottleneck or hourglass"),
        ({"trunk": "hourglass", "trunk_depth": 0, "conv_norm": "GN"}, "0 times 'hourglass'"),
        ({"trunk": "hourglass"}, "needs normalization: set MODEL.ROI_MASK_HEAD.NORM"),
    ],
)
def test_what_cannot_be_built_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        DeepConvUpsampleHead(SHAPE, num_classes=1, conv_dims=[8], **options)
