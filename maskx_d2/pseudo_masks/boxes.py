"""The pixels of a box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_pixels", "whole_box"]


def box_pixels(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int] | None:
    """
    The pixels of a box, at least one each way: those whose centre it holds.

    Args:
        box: ``[x, y, width, height]`` in pixels, as COCO has it.
        height, width: of the image.

    Returns:
        (x0, y0, x1, y1), x1 and y1 excluded, within the image; None if the box has no area or
        lies outside the image.
    """
    x, y, w, h = box
    if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
        return None
    x0 = min(max(math.floor(x + 0.5), 0), width - 1)
    y0 = min(max(math.floor(y + 0.5), 0), height - 1)
    x1 = min(max(math.floor(x + w + 0.5), x0 + 1), width)
    y1 = min(max(math.floor(y + h + 0.5), y0 + 1), height)
    return x0, y0, x1, y1


def whole_box(box: Sequence[float], height: int, width: int) -> NDArray[np.bool_] | None:
    """A mask of all pixels of a box, (height, width); None where :func:`box_pixels` is."""
    pixels = box_pixels(box, height, width)
    if pixels is None:
        return None
    x0, y0, x1, y1 = pixels
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask
