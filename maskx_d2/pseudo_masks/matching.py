"""
From peaks of a category's response to its instances: arithmetic on masks and response maps.

Shape shorthand: P peaks, S proposals, H×W pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_covering", "response_box", "unlike"]


def best_covering(
    masks: NDArray[np.bool_], scores: Sequence[float], point: tuple[float, float], reach: float
) -> int | None:
    """
    The proposal of a peak: of those that cover it, the one with the highest score.

    This is how "Where are the Masks" chooses (Laradji et al., BMVC 2019).

    Args:
        masks: (S, H, W).
        scores: of objectness.
        point: x and y of the peak, in pixels.
        reach: how far from there a pixel of the mask may be, in x and y: half of what a feature
            is wide, because a peak is no finer.

    Returns:
        Its position; None if there is none.
    """
    height, width = masks.shape[1:]
    (x0, x1), (y0, y1) = (
        (min(max(math.floor(v - reach), 0), side - 1), min(math.ceil(v + reach), side))
        for v, side in zip(point, (width, height))
    )
    near = masks[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].any(axis=(1, 2))
    covering = np.flatnonzero(near)
    if not len(covering):
        return None
    return int(covering[np.argmax(np.asarray(scores)[covering])])


def response_box(response: NDArray[np.floating], scale: float = 1.0) -> list[float]:
    """
    The box that, filled evenly, has the mean and the spread of a response.

    Args:
        response: (H, W), not negative; one without anything is taken for even.
        scale: by which its sides are multiplied before it is clipped to the image.

    Returns:
        ``[x, y, width, height]`` in pixels, at least one pixel each way, within the image.
    """
    if not response.sum() > 0:
        response = np.ones_like(response)
    sides = []
    for axis, size in ((0, response.shape[1]), (1, response.shape[0])):
        shares = response.sum(axis=axis, dtype=np.float64)
        shares /= shares.sum()
        places = np.arange(size) + 0.5
        mean = float(shares @ places)
        spread = math.sqrt(float(shares @ (places - mean) ** 2))
        half = max(scale * math.sqrt(3) * spread, 0.5)  # a uniform distribution's
        start = min(max(mean - half, 0.0), size - 1.0)
        sides.append((start, max(min(mean + half, float(size)) - start, 1.0)))
    (x, width), (y, height) = sides
    return [x, y, width, height]


def unlike(ious: NDArray[np.floating], max_iou: float) -> list[int]:
    """
    Non-maximum suppression of masks.

    Args:
        ious: (P, P) of masks, the best first.
        max_iou: a mask with a larger IoU with a better one that stays is dropped.

    Returns:
        The positions of those that stay, ascending.
    """
    kept: list[int] = []
    for i in range(len(ious)):
        if all(ious[i, j] <= max_iou for j in kept):
            kept.append(i)
    return kept
