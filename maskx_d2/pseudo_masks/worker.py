"""One image's GrabCut masks, in this process or in a worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from detectron2.data.detection_utils import check_image_size, read_image
from pycocotools import mask as mask_util

from .boxes import whole_box
from .grabcut import grabcut_mask
from .task import Box, Mask, Result, Task, why_unusable

__all__ = ["Parameters", "run_task"]

_SEEDS = 2**31


@dataclass(frozen=True)
class Parameters:
    """
    Parameters of :func:`grabcut_mask`, which see.

    Raises:
        ValueError: if one is out of its range.
    """

    iterations: int = 5
    margin: float = 1.0
    max_side: int = 320
    min_fill: float = 0.1

    def __post_init__(self) -> None:
        for name, fits, range_ in (
            ("iterations", self.iterations >= 1, "at least 1"),
            ("margin", 0 <= self.margin < float("inf"), "0 or more"),
            ("max_side", self.max_side >= 16, "at least 16 pixels"),
            ("min_fill", 0 <= self.min_fill <= 1, "a share between 0 and 1"),
        ):
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {range_}.")


def run_task(task: Task, parameters: Parameters) -> Result:
    """The masks of one image."""
    try:
        image = read_image(task.file_name, format="BGR")
        check_image_size({"height": task.height, "width": task.width}, image)
    except Exception as e:  # image decoders raise what they like
        return Result(task, [], why_unusable(task, e))
    masks = (_mask(np.ascontiguousarray(image), box, parameters) for box in task.boxes)
    return Result(task, [mask for mask in masks if mask is not None])


def _mask(image: np.ndarray[Any, Any], box: Box, parameters: Parameters) -> Mask | None:
    # Seeded by the annotation, so that no other one matters, nor who does it.
    seed = box.annotation_id % _SEEDS
    mask = grabcut_mask(image, box.xywh, **asdict(parameters), seed=seed)
    source = "grabcut"
    if mask is None:
        mask = whole_box(box.xywh, *image.shape[:2])
        if mask is None:
            return None
        source = "box"
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Mask(box.position, rle["counts"].decode("ascii"), {"mask_source": source})
