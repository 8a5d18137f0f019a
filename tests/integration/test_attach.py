"""A mask branch attached to every R-CNN of detectron2; no box may change."""

import copy

import pytest
import torch
from conftest import make_batch, make_targets
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import FPN, MViT, SimpleFeaturePyramid, SwinTransformer, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import Keypoints
from detectron2.utils.events import EventStorage
from torch import nn

from maskx_d2.attach import attach_cfg, attach_lazy
from maskx_d2.modeling import MaskXMixin, freeze_detector

K = 4
NARROW = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", K),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,), "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
]
RESNET = [*NARROW, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]
RESNEXT = [*NARROW, "MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]
DETECTION = {
    "R-50 C4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", RESNET),
    "R-101 C4": ("COCO-Detection/faster_rcnn_R_101_C4_3x.yaml", RESNET),
    "R-50 DC5": ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", RESNET),
    "R-101 DC5": ("COCO-Detection/faster_rcnn_R_101_DC5_3x.yaml", RESNET),
    "R-50 FPN": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", RESNET),
    "R-101 FPN": ("COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml", RESNET),
    "R-50 FPN, batch norm": (
        "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        [*RESNET, "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"],
    ),
    "X-101 FPN": ("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", RESNEXT),
    "class-agnostic boxes": (
        "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        [*RESNET, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True],
    ),
    "Cascade": (
        "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
        [*RESNET, "MODEL.MASK_ON", False],
    ),
    "Mask R-CNN": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", RESNET),
    "Cascade Mask R-CNN": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", RESNET),
    "trained with masks of A": (
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        [
            *(*RESNET, "MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads"),
            *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
        ],
    ),
    "Cascade, trained with masks of A": (
        "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
        [*RESNET, "MODEL.ROI_HEADS.NAME", "SupervisedMasksCascadeROIHeads"],
    ),
    "C4, trained with masks of A": (
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
        [*RESNET, "MODEL.ROI_HEADS.NAME", "SupervisedMasksRes5ROIHeads"],
    ),
    "keypoints": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", RESNET),
    "Pascal VOC C4": ("PascalVOC-Detection/faster_rcnn_R_50_C4.yaml", RESNET),
}


def narrow(name, opts):
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.merge_from_list(opts)
    return cfg


def box_outputs(model, images):
    """All that a model finds but masks, for each image."""
    with torch.no_grad():
        found = [model([{"image": image}])[0]["instances"].get_fields() for image in images]
    return [
        {k: getattr(v, "tensor", v) for k, v in fields.items() if k != "pred_masks"}
        for fields in found
    ]


def train_masks(model, keypoints=False):
    """Two steps of the mask branch; the losses of the mask."""
    freeze_detector(model).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    targets = [make_targets([True, False], [0, 1]), make_targets([True, True], [2, 3])]
    if keypoints:
        for t in targets:
            t.gt_keypoints = Keypoints(torch.full((len(t), 17, 3), 10.0))
    losses = []
    for _ in range(2):
        with EventStorage():
            loss = model(copy.deepcopy(make_batch(*targets)))
        optimizer.zero_grad()
        loss["loss_mask"].backward()
        optimizer.step()
        losses.append(loss["loss_mask"].item())
    assert losses[0] != losses[1], "the mask branch learns"
    return losses


def attached_is_the_same_detector(stock, attached, keypoints=False):
    """Train the mask branch on the stock model's weights and compare all that isn't masks."""
    randomize_statistics(stock)
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((64, 64), (48, 80))]
    expected = box_outputs(stock.eval(), images)
    assert sum(len(e["scores"]) for e in expected) > 0
    missing = attached.load_state_dict(stock.state_dict(), strict=False).missing_keys
    assert all(".mask_head." in k or ".weight_transfer." in k for k in missing)
    frozen = {
        k: v.clone() for k, v in attached.state_dict().items() if ".mask_head." not in k
        and ".weight_transfer." not in k
    }  # fmt: skip
    train_masks(attached, keypoints)
    state = attached.state_dict()
    assert all(torch.equal(state[k], v) for k, v in frozen.items())
    for before, after in zip(expected, box_outputs(attached.eval(), images)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)
    with torch.no_grad():
        [found] = attached([{"image": images[0]}])
    assert found["instances"].pred_masks.shape[1:] == (64, 64)


def randomize_statistics(model):
    """So that normalising by the batch's own would show; and calm what is deep and untrained."""
    for name, module in model.named_modules():
        if name.endswith("conv3.norm"):
            nn.init.constant_(module.weight, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)


@pytest.mark.parametrize("name", DETECTION)
def test_every_yaml_rcnn(name):
    cfg = narrow(*DETECTION[name])
    attached_cfg = attach_cfg(cfg)
    agnostic = cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    assert attached_cfg.MODEL.MASKX.TRANSFER_INPUT == ("cls" if agnostic else "cls+box")
    attached = build_model(attached_cfg)
    assert isinstance(attached.roi_heads, MaskXMixin)
    attached_is_the_same_detector(build_model(cfg), attached, keypoints=name == "keypoints")


# ---------------------------------------------------------------------------------- LazyConfig


def fpn(bottom_up, in_features):
    return L(FPN)(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=16,
        top_block=L(LastLevelMaxPool)(),
    )


def regnet():
    from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

    return fpn(
        L(RegNet)(
            stem_class=SimpleStem,
            stem_width=8,
            block_class=ResBottleneckBlock,
            depth=13,  # RegNetX-200MF's
            w_a=36.44,
            w_0=24,
            w_m=2.49,
            group_width=8,
            norm="BN",
            out_features=["s1", "s2", "s3", "s4"],
        ),
        ["s1", "s2", "s3", "s4"],
    )


def swin():
    return fpn(
        L(SwinTransformer)(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
            drop_path_rate=0.5,
        ),
        ["p0", "p1", "p2", "p3"],
    )  # fmt: skip


def mvit():
    return fpn(
        L(MViT)(
            embed_dim=8, depth=4, num_heads=1, last_block_indexes=(0, 1, 2, 3),
            drop_path_rate=0.5, residual_pooling=True, pretrain_img_size=64,
        ),
        ["scale2", "scale3", "scale4", "scale5"],
    )  # fmt: skip


def vitdet():
    return L(SimpleFeaturePyramid)(
        net=L(ViT)(
            img_size=64, embed_dim=8, depth=2, num_heads=2, window_size=2, drop_path_rate=0.5,
            window_block_indexes=[0], use_rel_pos=True, pretrain_img_size=64,
            out_feature="last_feat",
        ),
        in_feature="last_feat",
        out_channels=16,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=L(LastLevelMaxPool)(),
        square_pad=64,
    )  # fmt: skip


def lazy(backbone=None, *, cascade=False, masks=False):
    """Detectron2's own LazyConfig, narrowed, with another backbone."""
    common = "common/models/cascade_rcnn.py" if cascade else "common/models/mask_rcnn_fpn.py"
    model = copy.deepcopy(model_zoo.get_config(common).model)
    if backbone is not None:
        model.backbone = backbone
    else:
        model.backbone.out_channels = 16
    model.proposal_generator.head.in_channels = 16
    model.proposal_generator.post_nms_topk = (50, 20)
    heads = model.roi_heads
    heads.num_classes = K
    heads.batch_size_per_image = 16
    for box_head in heads.get("box_heads") or [heads.box_head]:
        box_head.input_shape = ShapeSpec(channels=16, height=7, width=7)
        box_head.fc_dims = [32]
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.input_shape = ShapeSpec(channels=32)
        predictor.test_score_thresh = 0.0
    heads.mask_head.input_shape = ShapeSpec(channels=16, height=14, width=14)
    heads.mask_head.conv_dims = [8, 8]
    if not masks:
        for key in ("mask_in_features", "mask_pooler", "mask_head"):
            heads.pop(key)
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    cfg.model = model
    return cfg


LAZY = {
    "R-50 FPN": lambda: lazy(),
    "R-50 FPN, with masks": lambda: lazy(masks=True),
    "Cascade": lambda: lazy(cascade=True),
    "RegNet": lambda: lazy(regnet()),
    "Swin": lambda: lazy(swin()),
    "Swin, Cascade, with masks": lambda: lazy(swin(), cascade=True, masks=True),
    "ViTDet": lambda: lazy(vitdet()),
    "MViTv2": lambda: lazy(mvit()),
}


@pytest.mark.parametrize("name", LAZY)
def test_every_lazy_rcnn(name):
    cfg = LAZY[name]()
    attached = attach_lazy(cfg)
    assert attached.train.freeze_detector
    assert not cfg.train.get("freeze_detector"), "it was copied"
    attached_is_the_same_detector(instantiate(cfg.model), instantiate(attached.model))


def test_lazy_c4():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py")
    cfg = copy.deepcopy(cfg)
    cfg.model.roi_heads.pop("mask_head")
    heads = attach_lazy(cfg).model.roi_heads
    assert heads._target_.__name__ == "MaskXRes5ROIHeads"
    with pytest.raises(
        ValueError, match=r"C4 ROI heads don't pool .* leave out --learn-from-boxes"
    ):
        attach_lazy(cfg, learn_from_boxes=True)
    assert instantiate(heads.mask_head).deconv.in_channels == 2048


def test_the_loader_and_the_evaluator_are_for_partial_masks():
    cfg = lazy()
    cfg.dataloader.train.mapper.use_instance_mask = False
    cfg.dataloader.evaluator.tasks = ("bbox",)
    dataloader = attach_lazy(cfg).dataloader
    assert dataloader.train.mapper._target_.__name__ == "PartialMaskDatasetMapper"
    assert dataloader.train.mapper.use_instance_mask
    assert dataloader.evaluator._target_.__name__ == "SplitCOCOEvaluator"
    assert tuple(dataloader.evaluator.tasks) == ("bbox", "segm")


class OneLine(DatasetMapper):
    """Somebody's own, which has other arguments than detectron2's, or is made of it."""

    def __init__(self, is_train, **options):
        self.options = options


def one_function(record):
    return record


def test_a_mapper_of_ones_own_is_left_alone():
    for target, options in ((OneLine, {"use_instance_mask": True}), (one_function, {})):
        cfg = lazy()
        cfg.dataloader.train.mapper = L(target)(is_train=True)
        mapper = attach_lazy(cfg).dataloader.train.mapper
        assert dict(mapper) == {"_target_": target, "is_train": True, **options}


# -------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", [], "'RetinaNet' has no box head"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", [], "'ProposalNetwork' has no box head"),
        (
            "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
            ["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "MODEL.ROI_HEADS.NAME", "RROIHeads"],
            "rotated boxes",
        ),
        (
            "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
            ["MODEL.ROI_HEADS.NAME", "MyROIHeads"],
            "'MyROIHeads' has no Mask^X form: derive one",
        ),
    ],
)
def test_other_models_are_refused(name, opts, message):
    with pytest.raises(ValueError, match=message.replace("^", r"\^")):
        attach_cfg(narrow(name, opts))


def test_other_lazy_models_are_refused():
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.py")
    with pytest.raises(ValueError, match="RetinaNet has no box head"):
        attach_lazy(cfg)


def test_c4_cannot_learn_from_boxes():
    with pytest.raises(
        ValueError, match=r"C4 ROI heads don't pool .* leave out --learn-from-boxes"
    ):
        attach_cfg(narrow(*DETECTION["R-50 C4"]), learn_from_boxes=True)


def test_class_agnostic_boxes_leave_cls_only():
    cfg = attach_cfg(narrow(*DETECTION["class-agnostic boxes"]), transfer_input="cls+box")
    with pytest.raises(ValueError, match=r"set MODEL\.MASKX\.TRANSFER_INPUT"):
        build_model(cfg)


# ----------------------------------------------------------------------------- real photographs


@pytest.mark.parametrize("name", ["R-50 FPN, batch norm", "Cascade", "R-50 C4"])
def test_boxes_on_photographs_stay_to_the_bit(name, photographs):
    cfg = narrow(*DETECTION[name])
    stock, attached = build_model(cfg), build_model(attach_cfg(cfg))
    randomize_statistics(stock)
    attached.load_state_dict(stock.state_dict(), strict=False)
    files = sorted((photographs / "coco" / "val2017").glob("*.jpg"))[:3]
    images = [torch.from_numpy(read_image(str(f), "BGR").copy()).permute(2, 0, 1) for f in files]
    expected = box_outputs(stock.eval(), images)
    train_masks(attached)
    for before, after in zip(expected, box_outputs(attached.eval(), images)):
        assert len(before["scores"]) > 0
        assert all(torch.equal(before[k], after[k]) for k in before)
