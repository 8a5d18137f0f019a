"""Data sets and training samples in which only some of the instances have a mask."""

from .dataset_mapper import PartialMaskDatasetMapper
from .datasets import class_split_of, log_supervision, register_partial
from .image_labels import keep_labels_only
from .partial_masks import box_polygon, drop_masks, has_mask
from .supervision import SupervisionSummary
from .train_loader import TrainLoader

__all__ = [
    "PartialMaskDatasetMapper",
    "SupervisionSummary",
    "TrainLoader",
    "box_polygon",
    "class_split_of",
    "drop_masks",
    "has_mask",
    "keep_labels_only",
    "log_supervision",
    "register_partial",
]
