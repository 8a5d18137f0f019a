"""Data sets and training samples in which only some of the instances have a mask."""

from .dataset_mapper import PartialMaskDatasetMapper
from .datasets import class_split_of, register_partial
from .partial_masks import box_polygon, drop_masks, has_mask

__all__ = [
    "PartialMaskDatasetMapper",
    "box_polygon",
    "class_split_of",
    "drop_masks",
    "has_mask",
    "register_partial",
]
