"""From what a model predicts to COCO's results, without a bitmap for every detection."""

from .paste import paste_masks_as_rles
from .rle_inference import postprocess_to_rles, rle_inference, rle_masks
from .rle_masks import RLEMasks
from .run_lengths import changes_of_crop, encode_changes

__all__ = [
    "RLEMasks",
    "changes_of_crop",
    "encode_changes",
    "paste_masks_as_rles",
    "postprocess_to_rles",
    "rle_inference",
    "rle_masks",
]
