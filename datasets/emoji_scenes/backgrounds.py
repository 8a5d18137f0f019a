"""What is behind the objects: patterns, or crops of photographs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from .rules import REFERENCE_SIZE


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A gradient with noise of several scales and perhaps a pattern: (H, W, 3) uint8."""
    mean = rng.uniform(45, 215, 3) * 0.6 + rng.uniform(45, 215) * 0.4
    corners = (mean + rng.uniform(-40, 40, (4, 3))).reshape(2, 2, 3).astype(np.float32)
    image = cv2.resize(corners, (size, size))
    strength = rng.uniform(3, 22)
    for cells in (4, 9, 20, 45):
        channels = 3 if rng.random() < 0.5 else 1
        noise = rng.standard_normal((cells, cells, channels), dtype=np.float32)
        noise = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
        image += noise.reshape(size, size, channels) * np.float32(strength)
        strength *= rng.uniform(0.4, 0.9)
    kind = rng.integers(4)
    if kind == 0:
        _add_stripes(rng, image)
    elif kind == 1:
        _add_patches(rng, image)
    elif kind == 2:
        _add_strokes(rng, image, mean)
    return np.clip(image, 0, 255).astype(np.uint8)


def _add_stripes(rng: np.random.Generator, image: np.ndarray) -> None:
    """Stripes or checks."""
    size = len(image)
    period, angle = rng.uniform(7, 30) * size / REFERENCE_SIZE, rng.uniform(0, np.pi)
    x, y = np.arange(size), np.arange(size)[:, None]
    u = (x * np.cos(angle) + y * np.sin(angle)) % period < period / 2
    v = (y * np.cos(angle) - x * np.sin(angle)) % period < period / 2
    pattern = u ^ v if rng.random() < 0.5 else u
    image += pattern[:, :, None] * rng.uniform(-28, 28, 3).astype(np.float32)


def _add_patches(rng: np.random.Generator, image: np.ndarray) -> None:
    """Polygons with hard edges."""
    size = len(image)
    for _ in range(rng.integers(3, 12)):
        centre = rng.uniform(0, size, 2)
        points = centre + rng.uniform(-0.35, 0.35, (rng.integers(3, 7), 2)) * size
        patch = np.zeros((size, size), np.uint8)
        cv2.fillPoly(patch, [points.astype(np.int32)], 1)
        image += patch[:, :, None] * rng.uniform(-35, 35, 3).astype(np.float32)


def _add_strokes(rng: np.random.Generator, image: np.ndarray, mean: np.ndarray) -> None:
    for _ in range(rng.integers(6, 25)):
        ends = rng.integers(0, len(image), (2, 2)).tolist()
        colour = (mean + rng.uniform(-60, 60, 3)).tolist()
        cv2.line(image, ends[0], ends[1], colour, int(rng.integers(1, 3)), cv2.LINE_AA)


def crop_photograph(rng: np.random.Generator, path: Path, size: int) -> np.ndarray:
    """A random square of a photograph: (H, W, 3) uint8."""
    photograph = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if photograph is None:
        raise ValueError(f"the background '{path}' is not an image that can be read.")
    height, width = photograph.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(0.5, 1)))
    x, y = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
    crop = photograph[y : y + side, x : x + side, ::-1]
    shrinks = side > size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=method)


def list_photographs(backgrounds: str | os.PathLike[str] | None) -> list[Path]:
    """The photographs in a folder and its sub-folders; none if there is no folder."""
    if backgrounds is None:
        return []
    endings = {".jpg", ".jpeg", ".png"}
    paths = sorted(p for p in Path(backgrounds).rglob("*") if p.suffix.lower() in endings)
    if len(paths) < 5:
        raise ValueError(
            f"backgrounds needs 5 photographs or more, '{backgrounds}' has {len(paths)}."
        )
    return paths


def fingerprint(photographs: Sequence[Path]) -> str | None:
    """What tells one set of photographs from another: number, names and sizes."""
    if not photographs:
        return None
    listing = "".join(f"{p.name} {p.stat().st_size}\n" for p in photographs)
    return f"{len(photographs)} {hashlib.sha256(listing.encode()).hexdigest()[:16]}"


def photographs_of(part: str, photographs: Sequence[Path]) -> list[Path]:
    """Every fifth is kept from "train", the others are for it alone."""
    return [p for i, p in enumerate(photographs) if (i % 5 == 4) == (part != "train")]
