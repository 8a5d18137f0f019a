"""From masks on boxes to RLEs of the whole image, without bitmaps of the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.utils.memory import retry_if_cuda_oom
from numpy.typing import NDArray
from torch.nn import functional as F

from .rle_masks import RLEMasks
from .run_lengths import Changes, changes_of_crop, encode_changes

__all__ = ["paste_masks_as_rles"]

# What is sampled in one go on a CPU: the coordinates and the result stay in its cache.
_PIXELS_IN_CACHE = 2**16
# What is pasted in one go elsewhere: some hundred megabytes while it is being sampled.
_PIXELS_ON_DEVICE = 2**25

_Floats = NDArray[np.float32]


def paste_masks_as_rles(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> RLEMasks:
    """
    Encode what detectron2's ``paste_masks_in_image`` pastes, bit by bit the same.

    That function is two: on a CPU it looks at the surroundings of the box only, on a GPU at the
    whole image. The result equals that of the device that the masks are on. On a CPU, only the
    part that detectron2 looks at is ever made. Elsewhere detectron2 itself pastes, a few masks at
    a time, and only where the runs start and end leaves the device.

    Args:
        masks: (R, M, M), in [0, 1].
        boxes: (R, 4), XYXY in pixels of the image, none empty.
        image_size: height and width in pixels.
        threshold: what a pixel of the object has at least, in [0, 1].

    Raises:
        ValueError: if the threshold is negative, which asks detectron2 for grey values.
    """
    if threshold < 0:
        raise ValueError(
            f"the threshold is {threshold}; grey values have no RLE, use one in [0, 1]."
        )
    image_size = int(image_size[0]), int(image_size[1])  # JSON can't hold other numbers
    # Of other types, detectron2's arithmetic is not that of _crop().
    is_float = masks.dtype == boxes.dtype == torch.float32
    on_cpu = masks.device.type == boxes.device.type == "cpu"
    way = _changes_by_crops if is_float and on_cpu else _changes_by_bitmaps
    return RLEMasks(
        encode_changes(list(way(masks, boxes, image_size, threshold)), image_size), image_size
    )


def _changes_by_crops(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], threshold: float
) -> Iterator[Changes]:
    height, width = image_size
    corners = boxes.detach().numpy()
    # One pixel more than the box on every side, as detectron2's _do_paste_mask() has it.
    first = np.maximum(np.floor(corners[:, :2]) - 1, 0).astype(np.int64)
    last = np.minimum(np.ceil(corners[:, 2:]) + 1, [width, height]).astype(np.int64)
    buffer = np.empty(2 * max(_PIXELS_IN_CACHE, height), dtype=np.float32)
    for i, ((x0, y0), (x1, y1)) in enumerate(zip(first.tolist(), last.tolist())):
        with np.errstate(all="ignore"):  # boxes far narrower than a pixel
            x = _coordinates(x0, x1, corners[i, 0], corners[i, 2])
            y = _coordinates(y0, y1, corners[i, 1], corners[i, 3])
        yield changes_of_crop(
            _crop(masks[i, None, None], x, y, threshold, buffer), (x0, y0), height
        )


def _coordinates(first: int, last: int, low: np.float32, high: np.float32) -> _Floats:
    """Pixel centres as ``grid_sample`` wants them: -1 and 1 are the box's edges."""
    # In float32 and in this order, or the last bits are not those of _do_paste_mask().
    centres = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    coordinates: _Floats = (centres - low) / (high - low) * np.float32(2) - np.float32(1)
    return coordinates


def _crop(
    mask: torch.Tensor, x: _Floats, y: _Floats, threshold: float, buffer: _Floats
) -> NDArray[np.bool_]:
    """The mask, (1, 1, M, M), at all x and y, in the form that ``changes_of_crop`` takes."""
    columns = np.zeros((len(x), len(y) + 1), dtype=np.bool_)
    step = max(1, _PIXELS_IN_CACHE // max(len(y), 1))
    for start in range(0, len(x) if len(y) else 0, step):
        part = x[start : start + step]
        # The image's columns are the rows here, because RLE goes column by column.
        grid = buffer[: 2 * len(part) * len(y)].reshape(1, len(part), len(y), 2)
        grid[..., 0] = part[:, None]
        grid[..., 1] = y
        values = F.grid_sample(mask, torch.from_numpy(grid), align_corners=False)
        columns[start : start + step, :-1] = (values[0, 0] >= threshold).numpy()
    return columns


def _changes_by_bitmaps(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], threshold: float
) -> Iterator[Changes]:
    height, width = image_size
    at_once = max(1, _PIXELS_ON_DEVICE // (height * width))
    for some, of_some in zip(masks.split(at_once), boxes.split(at_once)):
        # Retried as detectron2 does where it pastes.
        bitmaps = retry_if_cuda_oom(paste_masks_in_image)(some, of_some, image_size, threshold)
        pixels = F.pad(bitmaps.bool().transpose(1, 2).flatten(1), (1, 0))  # (n, 1 + W·H)
        changed: Any = (pixels[:, 1:] ^ pixels[:, :-1]).nonzero().cpu().numpy()
        bounds = np.searchsorted(changed[:, 0], np.arange(len(some) + 1))
        for start, end in pairwise(bounds):
            yield changed[start:end, 1]
