"""Masks made from boxes: training data for the baselines that have no real masks of set B."""

from .generate import Parameters, Report, generate_pseudo_masks
from .grabcut import grabcut_mask

__all__ = ["Parameters", "Report", "generate_pseudo_masks", "grabcut_mask"]
