"""How one drawing is put into an image: tilt, perspective, colour."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .rules import MAX_TILT, PERSPECTIVE
from .sprites import Sprite

# OpenCV counts from the centre of the first pixel, boxes count from its corner.
_FROM_CENTRES = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
_TO_CENTRES = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


class Drawn(NamedTuple):
    """A sprite as drawn: (h, w, 4) uint8 premultiplied RGB and alpha, at x, y of the image."""

    sprite: Sprite
    x: int
    y: int
    pixels: np.ndarray


def draw_sprite(
    rng: np.random.Generator, sprite: Sprite, x: float, y: float, width: float, height: float
) -> Drawn:
    """Tilt, mirror and distort a sprite so that its opaque pixels fill a box."""
    tilt = np.deg2rad(rng.uniform(-MAX_TILT, MAX_TILT))
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    # Mirrored at random because training flips its images, and the test images are not flipped.
    turn[:, 0] *= rng.choice((-1, 1))
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    # The sprite's own aspect is kept while it turns; the stretching to the box comes last.
    corners = ((unit - 0.5) * (sprite.aspect, 1)) @ turn.T
    corners += rng.uniform(-PERSPECTIVE, PERSPECTIVE, (4, 2)) * (sprite.aspect, 1)
    warp = cv2.getPerspectiveTransform(unit, corners.astype(np.float32))
    hull = cv2.perspectiveTransform(sprite.hull[None].astype(np.float64), warp)[0]
    low, high = hull.min(axis=0), hull.max(axis=0)
    left, top = int(np.floor(x)) - 1, int(np.floor(y)) - 1
    scale = np.array([width, height]) / (high - low)
    shift = np.array([x - left, y - top]) - low * scale
    place = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])
    full = sprite.levels[0]
    level = full if max(width, height) > 0.6 * max(full.shape[:2]) else sprite.levels[1]
    # From pixel centres of the sprite to the unit square, and from the image to pixel centres.
    to_unit = np.array([[1 / level.shape[1], 0, 0], [0, 1 / level.shape[0], 0], [0, 0, 1]])
    matrix = _TO_CENTRES @ place @ warp @ to_unit @ _FROM_CENTRES
    size = (int(np.ceil(x + width)) + 1 - left, int(np.ceil(y + height)) + 1 - top)
    return Drawn(sprite, left, top, cv2.warpPerspective(level, matrix, size))


def tint(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Change hue, saturation, contrast and brightness of premultiplied pixels a little."""
    hue, saturation = np.deg2rad(rng.uniform(-8, 8)), rng.uniform(0.75, 1.2)
    gain, offset = rng.uniform(0.8, 1.1), rng.uniform(-12, 12)
    # The rotation about the grey axis, with the colours' distance from it scaled.
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(hue) * (np.eye(3) - grey) + np.sin(hue) * cross
    # Premultiplied colours are brightened in proportion to alpha, which the last column does.
    matrix = np.eye(4)
    matrix[:3, :3] = gain * (grey + saturation * turn)
    matrix[:3, 3] = (offset + 128 * (1 - gain)) / 255
    tinted = cv2.transform(pixels, matrix)  # rounds, and clips to 0 and 255
    return np.minimum(tinted, pixels[:, :, 3:])


def full_mask(drawn: Drawn, image_size: int) -> np.ndarray:
    """All its pixels that are at least half opaque, whatever is in front: (H, W) bool."""
    mask = np.zeros((image_size, image_size), bool)
    window, pixels = _clip(drawn, image_size, image_size)
    mask[window] = pixels[:, :, 3] > 127
    return mask


def paint(image: np.ndarray, drawn: Drawn) -> None:
    """Draw it onto an (H, W, 3) uint8 image."""
    window, pixels = _clip(drawn, *image.shape[:2])
    ground = image[window] * (1 - pixels[:, :, 3:].astype(np.float32) / 255)
    image[window] = np.minimum(np.rint(ground + pixels[:, :, :3]), 255).astype(np.uint8)


def _clip(drawn: Drawn, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of an image that a sprite as drawn covers, and the pixels that are there."""
    rows, columns = drawn.pixels.shape[:2]
    x0, y0 = max(0, drawn.x), max(0, drawn.y)
    x1, y1 = min(width, drawn.x + columns), min(height, drawn.y + rows)
    pixels = drawn.pixels[y0 - drawn.y : y1 - drawn.y, x0 - drawn.x : x1 - drawn.x]
    return (slice(y0, y1), slice(x0, x1)), pixels
