"""The weight transfer function and the ROI heads that use it."""

from .class_embedding import DETECTION_WEIGHT_SOURCES, detection_weights
from .mask_head import MaskXConvUpsampleHead
from .roi_heads import (
    MaskXCascadeROIHeads,
    MaskXMixin,
    MaskXRes5ROIHeads,
    MaskXROIHeads,
    SupervisedMasksCascadeROIHeads,
    SupervisedMasksOnly,
    SupervisedMasksRes5ROIHeads,
    SupervisedMasksROIHeads,
    check_supervised_masks_only,
    select_supervised,
)
from .weight_transfer import WeightTransfer

__all__ = [
    "DETECTION_WEIGHT_SOURCES",
    "MaskXCascadeROIHeads",
    "MaskXConvUpsampleHead",
    "MaskXMixin",
    "MaskXROIHeads",
    "MaskXRes5ROIHeads",
    "SupervisedMasksCascadeROIHeads",
    "SupervisedMasksOnly",
    "SupervisedMasksROIHeads",
    "SupervisedMasksRes5ROIHeads",
    "WeightTransfer",
    "check_supervised_masks_only",
    "detection_weights",
    "select_supervised",
]
