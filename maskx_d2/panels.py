"""Pictures beside each other, each with a heading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["captioned", "side_by_side"]

_Picture = NDArray[np.uint8]

_GAP = 4  # pixels


def captioned(picture: _Picture, text: str) -> _Picture:
    """
    Write a line into the upper left corner of a picture, whose size stays: frames of a video.

    Args:
        picture: (H, W, 3) uint8, RGB.
        text: what to write.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = _font(_font_size(len(picture)))
    left, top, right, bottom = draw.textbbox((2 * _GAP, 2 * _GAP), text, font=font)
    draw.rectangle((left - _GAP, top - _GAP, right + _GAP, bottom + _GAP), fill="white")
    draw.text((2 * _GAP, 2 * _GAP), text, "black", font)
    return np.asarray(canvas)


def side_by_side(pictures: Mapping[str, _Picture]) -> _Picture:
    """
    Join pictures of the same height.

    Args:
        pictures: heading → (H, W, 3) uint8, RGB. A heading that does not fit is cut off.

    Returns:
        (H + the heading's height, all widths and gaps, 3) uint8, RGB.
    """
    height = max(len(picture) for picture in pictures.values())
    size = _font_size(height)
    top = size + size // 2
    width = sum(picture.shape[1] + _GAP for picture in pictures.values()) - _GAP
    canvas = Image.new("RGB", (width, top + height), "white")
    font = _font(size)
    x = 0
    for heading, picture in pictures.items():
        strip = Image.new("RGB", (picture.shape[1], top), "white")
        ImageDraw.Draw(strip).text((_GAP, size // 4), heading, "black", font)
        canvas.paste(strip, (x, 0))
        canvas.paste(Image.fromarray(picture), (x, top))
        x += picture.shape[1] + _GAP
    return np.asarray(canvas)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's, because Pillow has had one of any size since 10.1 only, and users of older
    # detectron2 need an older Pillow.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


def _font_size(height: int) -> int:
    """Of text on a picture of that many pixels."""
    return max(14, height // 32)
