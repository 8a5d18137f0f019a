"""The yaml config of a detector with a mask branch attached."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

from ..config import add_maskx_config
from ..modeling import MaskXMixin

__all__ = ["ROI_HEADS_OF", "attach_cfg"]

#: The Mask^X form of detectron2's ROI heads, and of this package's that train without transfer.
ROI_HEADS_OF = {
    "StandardROIHeads": "MaskXROIHeads",
    "CascadeROIHeads": "MaskXCascadeROIHeads",
    "Res5ROIHeads": "MaskXRes5ROIHeads",
    "SupervisedMasksROIHeads": "MaskXROIHeads",
    "SupervisedMasksCascadeROIHeads": "MaskXCascadeROIHeads",
    "SupervisedMasksRes5ROIHeads": "MaskXRes5ROIHeads",
}


def attach_cfg(cfg: CfgNode, *, transfer_input: str | None = None) -> CfgNode:
    """
    A config of the same detector with Mask^X, in which only the mask branch is trained.

    Args:
        cfg: of a Faster R-CNN, Cascade R-CNN or Fast R-CNN of detectron2, C4, DC5 or FPN, with or
            without keypoints or a mask head. It is not changed.
        transfer_input: see ``MODEL.MASKX.TRANSFER_INPUT``; by default all that the box head has:
            "cls+box", or "cls" where the box regression is class-agnostic.

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
    head = model.ROI_MASK_HEAD
    if not model.MASK_ON:  # a mask head like the box head; a Mask R-CNN keeps what it says
        head.POOLER_TYPE = model.ROI_BOX_HEAD.POOLER_TYPE
        head.POOLER_SAMPLING_RATIO = model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO
        # C4's res5 is most of a mask head.
        is_c4 = issubclass(ROI_HEADS_REGISTRY.get(model.ROI_HEADS.NAME), Res5ROIHeads)
        head.NUM_CONV = 0 if is_c4 else 4
    model.MASK_ON = True
    head.NAME = "MaskXConvUpsampleHead"
    head.CLS_AGNOSTIC_MASK = False
    of_boxes = "cls" if model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG else "cls+box"
    model.MASKX.TRANSFER_INPUT = transfer_input or of_boxes
    model.MASKX.FREEZE_DETECTOR = True
    return cfg


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
