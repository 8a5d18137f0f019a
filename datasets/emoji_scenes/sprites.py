"""Drawings as they are read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from make_shapes import mask_box

from .sources import find_drawing


class Sprite(NamedTuple):
    """
    One drawing of one category.

    Attributes:
        category: position of the category.
        style: the drawing's style.
        levels: the drawing and its half: (H, W, 4) uint8 arrays, RGB multiplied by alpha.
        hull: the convex hull of its opaque pixels, (P, 2) float x, y from 0 to 1.
        aspect: width by height of the opaque pixels' box.
    """

    category: int
    style: str
    levels: tuple[np.ndarray, np.ndarray]
    hull: np.ndarray
    aspect: float


def read_sprites(
    sources: Path, categories: Sequence[Mapping[str, Any]], styles: Sequence[str], image_size: int
) -> list[Sprite]:
    """All drawings of the categories in some styles, category by category."""
    sprites = []
    for index, category in enumerate(categories):
        for style in styles:
            path = find_drawing(sources, style, category["image"])
            assert path is not None  # choose_categories looked
            sprites.append(read_sprite(path, index, style, image_size))
    return sprites


def read_sprite(path: Path, category: int, style: str, image_size: int) -> Sprite:
    """Read a drawing, PNG or SVG."""
    if path.suffix == ".svg":
        data = np.frombuffer(_rasterise(path, 96 * max(1, -(-image_size // 128))), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    else:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4 or not (image[:, :, 3] > 127).any():
        raise ValueError(f"'{path}' is not a drawing on a transparent ground.")
    alpha = image[:, :, 3]
    x0, y0, x1, y1 = mask_box(alpha > 127)
    # An empty border of two pixels at least, so that edges stay soft when the drawing is warped.
    window = np.pad(image[y0:y1, x0:x1], ((2, 2), (2, 2), (0, 0))).astype(np.float32)
    window[:, :, :3] *= window[:, :, 3:] / 255
    full = np.ascontiguousarray(np.rint(window).astype(np.uint8)[:, :, [2, 1, 0, 3]])
    height, width = full.shape[:2]
    half = cv2.resize(full, (-(-width // 2), -(-height // 2)), interpolation=cv2.INTER_AREA)
    opaque = cv2.convexHull(cv2.findNonZero((full[:, :, 3] > 127).astype(np.uint8)))[:, 0]
    corners = (opaque[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0]
    aspect = (x1 - x0) / (y1 - y0)
    return Sprite(category, style, (full, half), hull / (width, height), aspect)


def _rasterise(path: Path, size: int) -> bytes:
    try:
        import resvg_py
    except ImportError as e:
        raise ImportError(
            "OpenMoji's drawings are SVG files; install what draws them with "
            "`pip install resvg-py==0.5.0`."
        ) from e
    return bytes(
        resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, skip_system_fonts=True)
    )
