"""Scenes: which objects, and where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from make_shapes import mask_box

from .cast import Cast
from .drawing import Drawn, draw_sprite, full_mask, paint, tint
from .rules import (
    BOX_JITTER,
    MAX_OVERLAP,
    NUM_GROUPS,
    PAIR_SHARE,
    PAIR_SIDE,
    REFERENCE_SIZE,
    SINGLE_SIDE,
)
from .visibility import Instance, is_fair_pair, merge


def render_scene(
    rng: np.random.Generator, cast: Cast, image: np.ndarray
) -> list[tuple[Instance, int]]:
    """
    Draw objects onto a background.

    Args:
        rng: the only source of randomness.
        cast: the sprites that may be used.
        image: a square (H, W, 3) uint8 RGB background, which is drawn upon.

    Returns:
        The objects, in random order, each with the number of its pair, or 0 for a single.
    """
    instances: list[Instance] = []
    while not instances:
        for _ in range(rng.integers(NUM_GROUPS[0], NUM_GROUPS[1] + 1)):
            instances = _add_group(rng, cast, instances, image)
    groups = instances[-1].group + 1
    sizes = [sum(i.group == group for i in instances) for group in range(groups)]
    pairs = np.cumsum(np.equal(sizes, 2)).tolist()
    # Nothing in the annotations' order may tell which object of a pair is in front.
    order = rng.permutation(len(instances)).tolist()
    return [
        (i, pairs[i.group] if sizes[i.group] == 2 else 0) for i in (instances[k] for k in order)
    ]


def _add_group(
    rng: np.random.Generator, cast: Cast, instances: list[Instance], image: np.ndarray
) -> list[Instance]:
    """The objects with those of a new group, which is drawn in front of them if it fits."""
    group = instances[-1].group + 1 if instances else 0
    # Chosen once: among all tries singles, which fit more often, would win.
    pair = bool(len(cast.pairable) and rng.random() < PAIR_SHARE)
    for _ in range(30):
        drawn = _draw_group(rng, cast, pair, instances, len(image))
        merged = merge(instances, drawn, group, image) if drawn else None
        if merged is not None:
            for one in reversed(drawn):  # the one in front comes first
                paint(image, one)
            return merged
    return instances


def _draw_group(
    rng: np.random.Generator,
    cast: Cast,
    pair: bool,
    others: Sequence[Instance],
    image_size: int,
) -> list[Drawn]:
    """A pair, the object in front first, or a single, somewhere in the image; empty if it fails."""
    scale = image_size / REFERENCE_SIZE
    sprites = cast.pick_pair(rng) if pair else [cast.sprites[rng.integers(len(cast.sprites))]]
    side = rng.uniform(*(PAIR_SIDE if pair else SINGLE_SIDE)) * scale
    aspect = np.exp(np.mean([np.log(s.aspect) for s in sprites])) * rng.uniform(0.9, 1.1)
    width, height = side * min(1, aspect), side / max(1, aspect)
    for _ in range(10):
        x, y = rng.uniform(1, image_size - 1 - width), rng.uniform(1, image_size - 1 - height)
        box = (x, y, x + width, y + height)
        if all(_overlap(box, mask_box(other.visible)) <= MAX_OVERLAP for other in others):
            break
    else:
        return []
    for _ in range(3):
        drawn = []
        for sprite in sprites:
            inset = rng.uniform(0, BOX_JITTER * scale if pair else 0, 4)
            left, top, right, bottom = (np.array(box) + inset * (1, 1, -1, -1)).tolist()
            drawn.append(draw_sprite(rng, sprite, left, top, right - left, bottom - top))
        if not pair or is_fair_pair(*(full_mask(d, image_size) for d in drawn), scale):
            return [one._replace(pixels=tint(rng, one.pixels)) for one in drawn]
    return []


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """What two boxes share, as a part of the smaller one."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
