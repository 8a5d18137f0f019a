"""Masks made from boxes, for a COCO file's instances that have none."""

from .generate import generate_pseudo_masks
from .grabcut import grabcut_mask
from .job import Report
from .label import Shard, label_boxes, merge_shards
from .worker import Parameters

__all__ = [
    "Parameters",
    "Report",
    "Shard",
    "generate_pseudo_masks",
    "grabcut_mask",
    "label_boxes",
    "merge_shards",
]
