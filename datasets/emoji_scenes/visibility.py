"""Whether enough of every object is seen, and can be told from what is around it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from make_shapes import box_iou, mask_box

from .drawing import Drawn, full_mask
from .rules import (
    MIN_AREA,
    MIN_CONTRAST,
    MIN_PAIR_IOU,
    MIN_VISIBLE,
    MIN_VISIBLE_SINGLE,
    REFERENCE_SIZE,
    SLIVER,
)
from .sprites import Sprite


class Instance(NamedTuple):
    """An object of a scene: its visible pixels, (H, W) bool, and the area of all its pixels."""

    sprite: Sprite
    group: int
    visible: np.ndarray
    area: int


def is_fair_pair(front: np.ndarray, behind: np.ndarray, scale: float) -> bool:
    """Whether the visible pixels behind, slivers aside, are many and have the front's box."""
    if not (front.any() and behind.any()):
        return False
    sliver = max(2, round(SLIVER * scale))
    visible = (behind & ~front).astype(np.uint8)
    core = cv2.morphologyEx(visible, cv2.MORPH_OPEN, np.ones((sliver, sliver), np.uint8))
    if core.sum() < MIN_VISIBLE * behind.sum() or core.sum() < MIN_AREA * scale**2:
        return False
    boxes = (mask_box(core > 0), mask_box(visible > 0))  # slivers may reach further
    return all(box_iou(box, mask_box(front)) > MIN_PAIR_IOU for box in boxes)


def merge(
    instances: list[Instance], drawn: list[Drawn], group: int, image: np.ndarray
) -> list[Instance] | None:
    """The scene's objects with those of one group in front of them, or None if one is spoilt."""
    masks = [full_mask(d, len(image)) for d in drawn]
    if masks[0].sum() < MIN_AREA * (len(image) / REFERENCE_SIZE) ** 2:
        return None
    union = np.logical_or.reduce(masks)
    merged = [i._replace(visible=i.visible & ~union) for i in instances]
    for other in range(group):
        members = [i for i in merged if i.group == other]
        least = MIN_VISIBLE_SINGLE if len(members) == 1 else MIN_VISIBLE
        if any(m.visible.sum() < least * m.area for m in members):
            return None
        boxes = [mask_box(m.visible) for m in members]
        if len(boxes) == 2 and box_iou(*boxes) < MIN_PAIR_IOU:
            return None
    for index, (one, mask) in enumerate(zip(drawn, masks, strict=True)):
        visible = mask & ~masks[0] if index else mask
        if _contrast(image, one, visible, union) < MIN_CONTRAST:
            return None
        merged.append(Instance(one.sprite, group, visible, int(mask.sum())))
    return merged


def _contrast(image: np.ndarray, drawn: Drawn, visible: np.ndarray, union: np.ndarray) -> float:
    """How much an object differs from what is behind its group's outline, in RGB levels."""
    x0, y0, x1, y1 = mask_box(visible)
    window = np.s_[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2]
    inside = visible[window]
    kernel = np.ones((5, 5), np.uint8)
    around = cv2.dilate(inside.astype(np.uint8), kernel).astype(bool) & ~union[window]
    if not around.any():
        return 255.0
    rim = inside & (cv2.dilate(around.astype(np.uint8), kernel) > 0)
    ys, xs = np.nonzero(rim)
    ys, xs = ys + max(0, y0 - 2) - drawn.y, xs + max(0, x0 - 2) - drawn.x
    colours = drawn.pixels[ys, xs, :3].astype(np.float32)
    return float(np.abs(colours - image[window][around].mean(axis=0)).mean())
