"""Evaluation of all categories, of those with masks (A) and of those with boxes only (B)."""

from .split_evaluator import SplitCOCOEvaluator
from .split_metrics import METRICS, subset_metrics

__all__ = ["METRICS", "SplitCOCOEvaluator", "subset_metrics"]
