"""
GrabCut (Rother et al., SIGGRAPH 2004): an object's mask from its box.

Colours outside the box are background; which of the box's pixels look different from them is
found by graph cuts on a crop around the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .boxes import box_pixels

__all__ = ["grabcut_mask", "require_opencv"]

_MODEL_SIZE = (1, 65)  # of OpenCV's colour models: 5 Gaussians of 13 numbers


def require_opencv() -> Any:
    """
    The module ``cv2``; detectron2 does without, so it may be missing.

    Raises:
        ImportError: if it does not load; the sentence says how to install it.
    """
    try:
        import cv2
    except ImportError as e:
        raise ImportError(
            f"GrabCut needs OpenCV, which does not load ({e}); run: "
            "python -m pip install opencv-python-headless"
        ) from None
    return cv2


def grabcut_mask(
    image: np.ndarray[Any, Any],
    box: Sequence[float],
    *,
    iterations: int = 5,
    margin: float = 1.0,
    max_side: int = 320,
    min_fill: float = 0.1,
    seed: int = 0,
) -> np.ndarray[Any, Any] | None:
    """
    The mask that GrabCut finds in a box. The same arguments give the same mask.

    Args:
        image: uint8 (H, W, 3).
        box: ``[x, y, width, height]`` in pixels.
        iterations: of GrabCut.
        margin: how far around the box the image is looked at, in widths of the box to the left
            and right and heights above and below.
        max_side: a crop whose longer side has more pixels is scaled down to so many.
        min_fill: the smallest share of the box that is taken for an object. GrabCut often loses
            small objects but for some pixels.
        seed: of OpenCV's random numbers, in [0, 2³¹).

    Returns:
        bool (H, W), nothing set outside the box; None if GrabCut fails, as it does where nothing
        is around the box to compare with, or finds nothing, or less than ``min_fill``.

    Raises:
        ImportError: if OpenCV is missing.
        ValueError: if ``image`` is not such an array.
    """
    cv2 = require_opencv()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"GrabCut needs a uint8 (H, W, 3) image, not {image.dtype} {image.shape}; convert it."
        )
    height, width = image.shape[:2]
    pixels = box_pixels(box, height, width)
    if pixels is None:
        return None
    x0, y0, x1, y1 = pixels
    # Some pixels at least, or a small box would have nothing to be compared with.
    margin_x, margin_y = (math.ceil(margin * (b - a)) + 2 for a, b in ((x0, x1), (y0, y1)))
    left, top = max(x0 - margin_x, 0), max(y0 - margin_y, 0)
    crop = image[top : min(y1 + margin_y, height), left : min(x1 + margin_x, width)]
    found = _run(cv2, crop, (x0 - left, y0 - top, x1 - left, y1 - top), iterations, max_side, seed)
    if found is None:
        return None
    mask = np.zeros((height, width), dtype=bool)
    # Scaling may have moved the outline by a pixel; what is outside the box is background.
    mask[y0:y1, x0:x1] = found[y0 - top : y1 - top, x0 - left : x1 - left]
    count = int(mask.sum())
    return mask if count and count >= min_fill * (x1 - x0) * (y1 - y0) else None


def _run(
    cv2: Any,
    crop: np.ndarray[Any, Any],
    box: tuple[int, int, int, int],
    iterations: int,
    max_side: int,
    seed: int,
) -> np.ndarray[Any, Any] | None:
    """GrabCut on a crop, scaled down where it is large; bool of the crop's size, or None."""
    height, width = crop.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = np.ascontiguousarray(crop)
    if scale < 1:
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    x0, y0, x1, y1 = (round(v * scale) for v in box)
    rectangle = (x0, y0, max(x1 - x0, 1), max(y1 - y0, 1))
    labels = np.zeros((size[1], size[0]), dtype=np.uint8)
    background, foreground = np.zeros(_MODEL_SIZE), np.zeros(_MODEL_SIZE)
    cv2.setRNGSeed(seed)
    try:
        cv2.grabCut(
            *(small, labels, rectangle, background, foreground, iterations),
            cv2.GC_INIT_WITH_RECT,
        )
    except cv2.error:  # no background in the crop, or too few pixels for a colour model
        return None
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    if scale < 1:
        found = cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(found, dtype=bool)
