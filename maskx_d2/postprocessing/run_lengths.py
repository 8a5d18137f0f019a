"""COCO's run-length encoding of a mask of which only a crop was ever made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

__all__ = ["changes_of_crop", "encode_changes"]

#: Where, in column-major order, an object starts, ends, starts, ...: ascending pixel numbers.
Changes = NDArray[np.int64]


def changes_of_crop(columns: NDArray[np.bool_], corner: tuple[int, int], height: int) -> Changes:
    """
    Where in an image a mask begins and ends that is False outside of a crop.

    Args:
        columns: (w, h + 1), contiguous: the crop's columns, each with a False after its last
            pixel, so that no run goes from one column into the next.
        corner: x and y of the crop's first pixel in the image, in pixels.
        height: of the image, in pixels.

    Returns:
        (2 · number of runs,), see :data:`Changes`.
    """
    inside = columns.reshape(-1)
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    if inside.size and inside[0]:
        edges = np.concatenate([[0], edges])
    column, row = np.divmod(edges, columns.shape[1])
    changes = (corner[0] + column) * height + corner[1] + row
    # A run to the bottom of the image goes on where the next column's begins at the top.
    joined = 2 * np.flatnonzero(changes[1:-1:2] == changes[2::2]) + 1
    return np.delete(changes, [joined, joined + 1]) if joined.size else changes


def encode_changes(changes: Sequence[Changes], image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """
    COCO's compressed RLEs, each the same that ``pycocotools.mask.encode`` makes of the bitmap.

    Args:
        changes: one for each mask.
        image_size: height and width in pixels.

    Returns:
        ``{"size": [height, width], "counts": str}`` for each mask; as text, because JSON can't
        hold bytes and pycocotools reads both.
    """
    if not len(changes):
        return []
    height, width = image_size
    counts = [np.diff(each, prepend=0, append=height * width) for each in changes]
    runs = [
        # pycocotools' encoder has no run of length 0 at the end; only at the start it may.
        {"size": [height, width], "counts": c[:-1] if len(c) > 1 and c[-1] == 0 else c}
        for c in counts
    ]
    rles: list[dict[str, Any]] = mask_util.frPyObjects(runs, height, width)
    return [{**rle, "counts": rle["counts"].decode("ascii")} for rle in rles]
