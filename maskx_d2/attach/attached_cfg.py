"""The yaml config of a detector with a mask branch attached."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

from ..config import add_maskx_config
from ..modeling import MaskXMixin

__all__ = ["BOX_LOSSES", "ROI_HEADS_OF", "attach_cfg", "check_learns_from_boxes"]

#: What boxes without a mask teach, where they do: as in ``configs/recommended/``.
BOX_LOSSES = {"projection_weight": 0.3, "warmup_iters": 1000}

#: The Mask^X form of detectron2's ROI heads, and of this package's that train without transfer.
ROI_HEADS_OF = {
    "StandardROIHeads": "MaskXROIHeads",
    "CascadeROIHeads": "MaskXCascadeROIHeads",
    "Res5ROIHeads": "MaskXRes5ROIHeads",
    "SupervisedMasksROIHeads": "MaskXROIHeads",
    "SupervisedMasksCascadeROIHeads": "MaskXCascadeROIHeads",
    "SupervisedMasksRes5ROIHeads": "MaskXRes5ROIHeads",
}


def attach_cfg(
    cfg: CfgNode, *, transfer_input: str | None = None, learn_from_boxes: bool = False
) -> CfgNode:
    """
    A config of the same detector with Mask^X, in which only the mask branch is trained.

    Args:
        cfg: of a Faster R-CNN, Cascade R-CNN or Fast R-CNN of detectron2, C4, DC5 or FPN, with or
            without keypoints or a mask head. It is not changed.
        transfer_input: see ``MODEL.MASKX.TRANSFER_INPUT``; by default all that the box head has:
            "cls+box", or "cls" where the box regression is class-agnostic.
        learn_from_boxes: whether objects without a mask teach the mask branch their box.

    Returns:
        The config. Its schedule, data sets and ``MODEL.WEIGHTS`` are those of ``cfg``.

    Raises:
        ValueError: if the model is of another kind.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if "MASKX" not in cfg.MODEL:
        add_maskx_config(cfg)
    model = cfg.MODEL
    _check_is_rcnn(model)
    roi_heads = model.ROI_HEADS.NAME
    if roi_heads in ROI_HEADS_OF:
        model.ROI_HEADS.NAME = ROI_HEADS_OF[roi_heads]
    elif not _is_maskx(roi_heads):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME '{roi_heads}' has no Mask^X form: derive one, "
            "`class MyMaskXROIHeads(MaskXMixin, …)`, register it and name it in the config; those "
            f"of {', '.join(ROI_HEADS_OF)} are found by themselves."
        )
    is_c4 = issubclass(ROI_HEADS_REGISTRY.get(model.ROI_HEADS.NAME), Res5ROIHeads)
    if learn_from_boxes:
        check_learns_from_boxes(is_c4)
        model.MASKX.BOX_PROJECTION_WEIGHT = BOX_LOSSES["projection_weight"]
        model.MASKX.BOX_WARMUP_ITERS = BOX_LOSSES["warmup_iters"]
    head = model.ROI_MASK_HEAD
    if not model.MASK_ON:  # a mask head like the box head; a Mask R-CNN keeps what it says
        head.POOLER_TYPE = model.ROI_BOX_HEAD.POOLER_TYPE
        head.POOLER_SAMPLING_RATIO = model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO
        head.NUM_CONV = 0 if is_c4 else 4  # C4's res5 is most of a mask head
    model.MASK_ON = True
    head.NAME = "MaskXConvUpsampleHead"
    head.CLS_AGNOSTIC_MASK = False
    of_boxes = "cls" if model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG else "cls+box"
    model.MASKX.TRANSFER_INPUT = transfer_input or of_boxes
    model.MASKX.FREEZE_DETECTOR = True
    model.MASKX.TRAINED_MODULES = []
    return cfg


def check_learns_from_boxes(is_c4: bool) -> None:
    """
    Raises:
        ValueError: if the ROI heads are of a kind whose mask branch can't learn from boxes.
    """
    if is_c4:
        raise ValueError(
            "C4 ROI heads don't pool features for their mask head alone, so it can't learn from "
            "boxes; leave out --learn-from-boxes."
        )


def _check_is_rcnn(model: CfgNode) -> None:
    if model.PROPOSAL_GENERATOR.NAME == "RRPN" or model.ROI_HEADS.NAME == "RROIHeads":
        raise ValueError(
            "the model predicts rotated boxes, for which detectron2 has no mask head: its RoIAlign "
            "and its pasting of masks are for upright ones. Mask^X can't be attached."
        )
    name = model.META_ARCHITECTURE
    if name in META_ARCH_REGISTRY and not issubclass(META_ARCH_REGISTRY.get(name), GeneralizedRCNN):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE '{name}' has no box head whose weights could tell a "
            "category's mask; Mask^X is for the R-CNN family (GeneralizedRCNN)."
        )


def _is_maskx(name: str) -> bool:
    return name in ROI_HEADS_REGISTRY and issubclass(ROI_HEADS_REGISTRY.get(name), MaskXMixin)
