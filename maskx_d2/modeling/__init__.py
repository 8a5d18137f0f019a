"""The weight transfer function and the ROI heads that use it."""

from .box_supervision import BoxSupervision
from .class_embedding import DETECTION_WEIGHT_SOURCES, detection_weights
from .deep_mask_head import DeepConvUpsampleHead
from .embedding_box_predictor import EmbeddingClassifier, EmbeddingFastRCNNOutputLayers
from .embedding_files import load_class_embedding, random_class_embedding
from .freeze import freeze_all_but, freeze_detector
from .given_boxes import given_instances
from .mask_head import MaskXConvUpsampleHead, MLPConvUpsampleHead
from .mlp_branch import MLPBranch
from .open_vocabulary import OpenVocabularyMaskXROIHeads, set_vocabulary
from .per_roi_mask_head import PerRoIConvUpsampleHead
from .roi_heads import (
    MaskXCascadeROIHeads,
    MaskXMixin,
    MaskXRes5ROIHeads,
    MaskXROIHeads,
    SupervisedMasksCascadeROIHeads,
    SupervisedMasksRes5ROIHeads,
    SupervisedMasksROIHeads,
    check_supervised_masks_only,
)
from .supervised_masks import SupervisedMasksOnly, select_supervised
from .weight_transfer import WeightTransfer

__all__ = [
    "DETECTION_WEIGHT_SOURCES",
    "BoxSupervision",
    "DeepConvUpsampleHead",
    "EmbeddingClassifier",
    "EmbeddingFastRCNNOutputLayers",
    "MLPBranch",
    "MLPConvUpsampleHead",
    "MaskXCascadeROIHeads",
    "MaskXConvUpsampleHead",
    "MaskXMixin",
    "MaskXROIHeads",
    "MaskXRes5ROIHeads",
    "OpenVocabularyMaskXROIHeads",
    "PerRoIConvUpsampleHead",
    "SupervisedMasksCascadeROIHeads",
    "SupervisedMasksOnly",
    "SupervisedMasksROIHeads",
    "SupervisedMasksRes5ROIHeads",
    "WeightTransfer",
    "check_supervised_masks_only",
    "detection_weights",
    "freeze_all_but",
    "freeze_detector",
    "given_instances",
    "load_class_embedding",
    "random_class_embedding",
    "select_supervised",
    "set_vocabulary",
]
