"""Pictures beside each other, each with a heading."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["side_by_side"]

_Picture = NDArray[np.uint8]

_GAP = 4  # pixels


def side_by_side(pictures: Mapping[str, _Picture]) -> _Picture:
    """
    Join pictures of the same height.

    Args:
        pictures: heading → (H, W, 3) uint8, RGB. A heading that does not fit is cut off.

    Returns:
        (H + the heading's height, all widths and gaps, 3) uint8, RGB.
    """
    height = max(len(picture) for picture in pictures.values())
    size = max(14, height // 32)
    top = size + size // 2
    width = sum(picture.shape[1] + _GAP for picture in pictures.values()) - _GAP
    canvas = Image.new("RGB", (width, top + height), "white")
    font = ImageFont.load_default(size)
    x = 0
    for heading, picture in pictures.items():
        strip = Image.new("RGB", (picture.shape[1], top), "white")
        ImageDraw.Draw(strip).text((_GAP, size // 4), heading, "black", font)
        canvas.paste(strip, (x, 0))
        canvas.paste(Image.fromarray(picture), (x, top))
        x += picture.shape[1] + _GAP
    return np.asarray(canvas)
