"""
The plain use: detectron2's own models train where masks are missing, without weight transfer.

docs/MISSING_MASKS.md lists these models. Each is tried on a mixed image, an image without masks
and a batch without any.
"""

import copy
from collections.abc import Iterator

import pytest
import torch
from conftest import NUM_CLASSES, make_batch, make_targets, tiny_cfg
from detectron2 import model_zoo as d2_model_zoo
from detectron2.config import instantiate
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import BitMasks, Instances, Keypoints, PolygonMasks

from maskx_d2.data import box_polygon
from maskx_d2.modeling import SupervisedMasksROIHeads, check_supervised_masks_only

pytestmark = pytest.mark.usefixtures("storage", "one_thread")

NUM_KEYPOINTS = 17
SMALL = ("MODEL.BACKBONE.FREEZE_AT", 5, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
SMALL += ("TEST.DETECTIONS_PER_IMAGE", 3)
PLAIN = (*SMALL, "MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads")
CONV = ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
SPECIFIC = (*CONV, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", False)
AGNOSTIC = (*CONV, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
CASCADE = ("MODEL.ROI_HEADS.NAME", "SupervisedMasksCascadeROIHeads")
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
C4 = ("MODEL.ROI_HEADS.NAME", "SupervisedMasksRes5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES")
C4 += (["res4"], "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RPN.IN_FEATURES", ["res4"])
C4 += ("MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]])
C4 += ("MODEL.ROI_MASK_HEAD.NUM_CONV", 0, "MODEL.RESNETS.DEPTH", 50, "MODEL.BACKBONE.FREEZE_AT", 4)
C4 += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
KEYPOINTS = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8])
POINT_REND = ("MODEL.ROI_MASK_HEAD.FC_DIM", 16, "MODEL.POINT_HEAD.FC_DIM", 16)
POINT_REND += ("MODEL.POINT_HEAD.NUM_CLASSES", NUM_CLASSES, "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "")
POINT_REND += ("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True)
POINT_REND += ("MODEL.POINT_HEAD.SUBDIVISION_STEPS", 1, "MODEL.POINT_HEAD.NUM_FC", 2)
POINT_REND += ("MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 16)
EXPLICIT = (*POINT_REND, "MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead")
IMPLICIT = (*POINT_REND, "MODEL.ROI_MASK_HEAD.NAME", "ImplicitPointRendMaskHead")
IMPLICIT += ("MODEL.POINT_HEAD.NAME", "ImplicitPointHead")
PANOPTIC = ("MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8)
PANOPTIC += ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5, "MODEL.SEM_SEG_HEAD.NORM", "")

MODELS = {
    "Mask R-CNN": SPECIFIC,
    "Mask R-CNN, class-agnostic": AGNOSTIC,
    "Cascade Mask R-CNN": SPECIFIC + CASCADE,
    "Mask R-CNN C4": SPECIFIC + C4,
    "keypoints and masks": SPECIFIC + KEYPOINTS,
    "PointRend": EXPLICIT,
    "Implicit PointRend": IMPLICIT,
    "Panoptic FPN": SPECIFIC + PANOPTIC,
    "LazyConfig": None,
}
# Losses that tell that the model is the one it is called.
OWN_LOSSES = {
    "Cascade Mask R-CNN": {"loss_cls_stage2", "loss_mask"},
    "keypoints and masks": {"loss_keypoint", "loss_mask"},
    "PointRend": {"loss_mask", "loss_mask_point"},
    "Implicit PointRend": {"loss_l2", "loss_mask_point"},
    "Panoptic FPN": {"loss_sem_seg", "loss_mask"},
}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads would only wait for each other on models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name):
    torch.manual_seed(0)
    if name == "LazyConfig":
        model = build_lazy()
    else:
        cfg = tiny_cfg()
        add_pointrend_config(cfg)
        cfg.merge_from_list([*PLAIN, *MODELS[name]])
        model = build_model(cfg)
    check_supervised_masks_only(model)
    return model


def build_lazy():
    """The model of detectron2's LazyConfigs with one line changed, and made small."""
    config = d2_model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    config.roi_heads._target_ = SupervisedMasksROIHeads
    config.roi_heads.num_classes = NUM_CLASSES
    config.roi_heads.batch_size_per_image = 16
    config.roi_heads.box_head.fc_dims = [32]
    config.roi_heads.box_predictor.input_shape.channels = 32
    config.roi_heads.box_predictor.test_score_thresh = 0.0
    config.roi_heads.mask_head.conv_dims = [8, 8]
    config.backbone.bottom_up.freeze_at = 5
    stages = config.backbone.bottom_up.stages
    stages.depth, stages.stride_in_1x1 = 50, True
    config.proposal_generator.post_nms_topk = (50, 20)
    return instantiate(config)


def batch_of(*has_mask):
    """One image for each list; the instances of an image have masks or have not."""
    targets = []
    for masks in has_mask:
        target = make_targets(masks, list(range(len(masks))))
        points = torch.zeros(len(masks), NUM_KEYPOINTS, 3)
        for i, box in enumerate(target.gt_boxes.tensor):
            points[i, :, :2] = box[:2] + 5
        points[::2, :, 2] = 2.0  # every other instance has keypoints
        target.gt_keypoints = Keypoints(points)
        targets.append(target)
    return [{**sample, "sem_seg": torch.zeros(64, 64).long()} for sample in make_batch(*targets)]


def losses_of(model, batch):
    torch.manual_seed(1)  # proposals and points are sampled at random
    return model.train()(copy.deepcopy(batch))


def mask_losses(losses):
    return {k: v.item() for k, v in losses.items() if "mask" in k or k == "loss_l2"}


@pytest.mark.parametrize("name", MODELS)
def test_stock_models(name):
    model = build(name)
    batch = batch_of([True, False, True], [False, False])
    losses = losses_of(model, batch)
    assert losses.keys() >= OWN_LOSSES.get(name, {"loss_mask"})
    assert all(v.isfinite() for v in losses.values()), losses
    assert all(v > 0 for v in mask_losses(losses).values())
    sum(losses.values()).backward()
    heads = dict(model.roi_heads.mask_head.named_parameters())
    assert any(p.grad.any() for p in heads.values())
    assert all(p.grad.isfinite().all() for p in heads.values())
    figures = {k: v.item() for k, v in losses.items()}

    poisoned = copy.deepcopy(batch)
    for sample in poisoned:
        target = sample["instances"]
        target.gt_masks.tensor[~target.gt_has_mask] ^= True
    assert {k: v.item() for k, v in losses_of(model, poisoned).items()} == figures
    poisoned[0]["instances"].gt_masks.tensor[0] ^= True  # the control: this mask is real
    changed = {k for k, v in losses_of(model, poisoned).items() if v.item() != figures[k]}
    assert changed
    assert changed <= {"loss_mask", "loss_mask_point"}

    model.zero_grad()
    losses = losses_of(model, batch_of([False, False], [False]))
    assert list(losses) == list(figures), "workers compare their losses by name"
    assert all(v.isfinite() for v in losses.values()), losses
    assert set(mask_losses(losses).values()) == {0}
    sum(losses.values()).backward()
    for parameter, p in heads.items():
        assert p.grad is not None and not p.grad.any(), parameter

    with torch.no_grad():
        (output,) = model.eval()([{"image": batch[0]["image"], "height": 32, "width": 48}])
    assert len(output["instances"]) > 0
    assert output["instances"].pred_masks.shape[1:] == (32, 48)


def test_polygons_and_bitmasks_in_one_batch():
    """The mapper makes bitmasks of an image with RLE, and polygons of the others."""
    model = build("Mask R-CNN")
    batch = batch_of([True, False], [False, True])
    target = batch[0]["instances"]
    as_polygons = Instances(target.image_size, **target.get_fields())
    boxes = target.gt_boxes.tensor.clone()
    boxes[:, 3] = (boxes[:, 1] + boxes[:, 3]) / 2
    as_polygons.remove("gt_masks")
    as_polygons.gt_masks = PolygonMasks([[torch.tensor(box_polygon(b)).numpy()] for b in boxes])
    bitmaps = losses_of(model, batch)["loss_mask"]
    assert isinstance(batch[1]["instances"].gt_masks, BitMasks)
    batch[0]["instances"] = as_polygons
    assert losses_of(model, batch)["loss_mask"].item() == pytest.approx(bitmaps.item(), rel=0.05)


@pytest.mark.parametrize("name", ["Mask R-CNN", "PointRend", "Implicit PointRend"])
def test_the_log_counts_supervised_rois_only(name, storage):
    model = build(name)
    losses_of(model, batch_of([True, False]))
    assert storage.latest()["mask_head/num_supervised_rois"][0] > 0
    before = storage.latest().get("mask_rcnn/accuracy")
    storage.step()
    losses_of(model, batch_of([False, False]))
    assert storage.latest()["mask_head/num_supervised_rois"] == (0, 1)
    assert storage.latest().get("mask_rcnn/accuracy") == before
