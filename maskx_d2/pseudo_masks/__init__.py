"""Masks made from boxes, for a COCO file's instances that have none."""

from .generate import generate_pseudo_masks
from .grabcut import grabcut_mask
from .job import Report
from .label import Shard, label_boxes, merge_shards
from .model_masks import Labeller, ModelMasks
from .task import Box, Mask, Result, Task
from .worker import Parameters

__all__ = [
    "Box",
    "Labeller",
    "Mask",
    "ModelMasks",
    "Parameters",
    "Report",
    "Result",
    "Shard",
    "Task",
    "generate_pseudo_masks",
    "grabcut_mask",
    "label_boxes",
    "merge_shards",
]
