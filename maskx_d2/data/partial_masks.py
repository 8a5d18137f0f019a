"""
Pure functions on dataset dicts whose instances may lack a mask.

They work on detectron2's "standard dataset dicts" and on nothing else: no image is read and no
category split is known here beyond a set of category ids.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .rle import checked

__all__ = [
    "box_polygon",
    "drop_masks",
    "encode_mask",
    "has_counts",
    "has_mask",
    "is_crowd",
    "mask_weight",
    "usable_polygons",
]

_MIN_POLYGON_COORDINATES = 6  # three points: fewer enclose no area


def has_mask(annotation: dict[str, Any]) -> bool:
    """
    Whether an instance annotation carries a mask that can be used.

    A missing key, ``None``, an empty list, polygons that all have fewer than 3 points and an RLE
    dict with empty ``counts`` mean that there is none. Other RLE dicts and (H, W) bitmask arrays
    count as masks; whether an RLE can be read, :func:`~maskx_d2.data.rle.checked` finds out.

    Raises:
        ValueError: if ``segmentation`` is something else.
    """
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return False
    if isinstance(segmentation, (list, tuple)):
        return any(_is_polygon(p) for p in segmentation)
    if isinstance(segmentation, dict):
        return has_counts(segmentation)
    if isinstance(segmentation, np.ndarray):
        return len(segmentation) > 0
    raise ValueError(
        f"the segmentation is {segmentation!r:.40}, neither polygons nor RLE; leave it out where "
        "there is no mask."
    )


def has_counts(rle: dict[str, Any]) -> bool:
    """Whether an RLE dict says anything: some tools write one with empty ``counts`` for a box."""
    return len(rle) > 0 and not ("counts" in rle and _is_empty(rle["counts"]))


def _is_empty(counts: Any) -> bool:
    return isinstance(counts, (str, bytes, list, np.ndarray)) and len(counts) == 0


def is_crowd(annotation: dict[str, Any]) -> bool:
    """
    Whether an annotation is a crowd region: ``iscrowd`` is 1; 0, None or nothing means no.

    Raises:
        ValueError: if ``iscrowd`` is neither a number nor true or false; text would count as true.
    """
    value = annotation.get("iscrowd")
    if value is not None and not isinstance(value, (numbers.Real, np.bool_)):
        raise ValueError(f"iscrowd is {value!r:.40}, neither 0 nor 1; write a number.")
    return bool(value)


def mask_weight(annotation: dict[str, Any]) -> float:
    """
    How much an instance's mask counts in training, in [0, 1]; 1 where nothing is said.

    Raises:
        ValueError: if ``mask_weight`` is something else.
    """
    weight = annotation.get("mask_weight", 1.0)
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not is_number or not 0 <= float(weight) <= 1:
        raise ValueError(
            f"mask_weight is {weight!r:.40}, not a number from 0 to 1; leave it out where the mask "
            "counts in full."
        )
    return float(weight)


def usable_polygons(segmentation: Sequence[Any]) -> list[Any]:
    """Those of the polygons ``[x1, y1, x2, y2, ...]`` that have at least 3 points."""
    return [p for p in segmentation if _is_polygon(p)]


def encode_mask(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """
    An annotation's mask as compressed RLE, whatever it was written as.

    Args:
        segmentation: polygons, RLE (compressed or not), or an (H, W) bitmask; see
            :func:`has_mask`.
        height, width: of the image, in pixels.

    Raises:
        ValueError: if an RLE can't be read, or its runs don't make up its size.
    """
    if isinstance(segmentation, (list, tuple)):
        polygons = mask_util.frPyObjects(usable_polygons(segmentation), height, width)
        rle: dict[str, Any] = mask_util.merge(polygons)
    elif isinstance(segmentation, np.ndarray):
        rle = mask_util.encode(np.asfortranarray(segmentation, dtype=np.uint8))
    else:
        rle = checked(segmentation)
    return rle


def _is_polygon(polygon: Any) -> bool:
    if (
        not hasattr(polygon, "__len__")
        or isinstance(polygon, (str, dict))
        or (len(polygon) and not isinstance(polygon[0], (int, float, np.number)))
    ):
        raise ValueError(
            f"a polygon is {polygon!r:.40}, not a list of numbers; write a segmentation as "
            "[[x1, y1, x2, y2, x3, y3, ...], ...]."
        )
    return len(polygon) >= _MIN_POLYGON_COORDINATES and len(polygon) % 2 == 0


def drop_masks(
    dataset_dicts: Sequence[dict[str, Any]], category_ids: Collection[int]
) -> list[dict[str, Any]]:
    """
    Remove the masks of some categories, and nothing else.

    Args:
        dataset_dicts: detectron2 dataset dicts. They are not modified: what changes is copied,
            because a data set function may hand out the same list each time it is called.
        category_ids: contiguous ids of the categories that lose their masks (set B).

    Returns:
        The same images and boxes in the same order; instances of ``category_ids`` have no
        ``segmentation`` key.
    """
    dropped = frozenset(category_ids)
    return [_drop_masks_of_image(record, dropped) for record in dataset_dicts]


def _drop_masks_of_image(record: dict[str, Any], dropped: frozenset[int]) -> dict[str, Any]:
    annotations = record.get("annotations")
    if not annotations or not any(a["category_id"] in dropped for a in annotations):
        return record
    return {
        **record,
        "annotations": [
            {key: value for key, value in a.items() if key != "segmentation"}
            if a["category_id"] in dropped
            else a
            for a in annotations
        ],
    }


def box_polygon(box: Sequence[float]) -> list[float]:
    """
    The rectangle of an XYXY box as a polygon ``[x1, y1, x2, y2, ...]`` of 4 points.

    It stands in where detectron2's containers demand a mask for every instance of an image; the
    instance is marked as having none and the rectangle reaches no loss.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    return [x0, y0, x1, y0, x1, y1, x0, y1]
