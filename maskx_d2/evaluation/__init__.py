"""Evaluation of all categories, of those with masks (A) and of those with boxes only (B)."""

from .average_precision import average_precision
from .image_label_evaluator import ImageLabelEvaluator
from .mask_probe import MaskProbe
from .mask_quality import MASK_QUALITY, mask_quality
from .paired import PairedDifference, paired_difference
from .proposal_evaluator import MaskProposalEvaluator
from .proposal_recall import PROPOSAL_LIMITS, average_recalls
from .rle_evaluation import rle_evaluation
from .split_evaluator import SplitCOCOEvaluator
from .split_lvis_evaluator import SplitLVISEvaluator
from .split_metrics import METRICS, subset_metrics

__all__ = [
    "MASK_QUALITY",
    "METRICS",
    "PROPOSAL_LIMITS",
    "ImageLabelEvaluator",
    "MaskProbe",
    "MaskProposalEvaluator",
    "PairedDifference",
    "SplitCOCOEvaluator",
    "SplitLVISEvaluator",
    "average_precision",
    "average_recalls",
    "mask_quality",
    "paired_difference",
    "rle_evaluation",
    "subset_metrics",
]
