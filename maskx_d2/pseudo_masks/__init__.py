"""Masks made from boxes, and instances made from image labels, for a COCO file that has none."""

from .generate import generate_pseudo_masks
from .grabcut import grabcut_mask
from .job import Report
from .label import Shard, label_boxes, merge_shards
from .model_masks import Labeller, ModelMasks
from .task import Box, Mask, Result, Task
from .wise import find_instances
from .wise_worker import WiseParameters
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
    "WiseParameters",
    "find_instances",
    "generate_pseudo_masks",
    "grabcut_mask",
    "label_boxes",
    "merge_shards",
]
