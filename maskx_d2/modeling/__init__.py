"""The weight transfer function and the ROI heads that use it."""

from .class_embedding import DETECTION_WEIGHT_SOURCES, detection_weights
from .mask_head import MaskXConvUpsampleHead
from .roi_heads import (
    MaskXCascadeROIHeads,
    MaskXMixin,
    MaskXROIHeads,
    SupervisedMasksCascadeROIHeads,
    SupervisedMasksOnly,
    SupervisedMasksROIHeads,
    select_supervised,
)
from .weight_transfer import WeightTransfer

__all__ = [
    "DETECTION_WEIGHT_SOURCES",
    "MaskXCascadeROIHeads",
    "MaskXConvUpsampleHead",
    "MaskXMixin",
    "MaskXROIHeads",
    "SupervisedMasksCascadeROIHeads",
    "SupervisedMasksOnly",
    "SupervisedMasksROIHeads",
    "WeightTransfer",
    "detection_weights",
    "select_supervised",
]
