"""
How far masks reach, for some thousand masks at a time.

Polygons and RLE are read as COCO has them. Nothing is decoded into pixels.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_api

from .partial_masks import has_counts
from .rle import areas, compressed, shown, wrong_runs

__all__ = ["MaskBatch", "append_numbers"]

_Floats = npt.NDArray[np.float64]

#: (kind of finding, one sentence)
Problem = tuple[str, str]

_MIN_POLYGON_COORDINATES = 6  # three points: fewer enclose no area


def append_numbers(numbers: array[float], values: Any) -> int:
    """
    Append ``values`` if they are numbers, else nothing.

    Returns:
        how many were appended, -1 if ``values`` is something else than a list of numbers.
    """
    start = len(numbers)
    try:
        numbers.extend(values)
    except (TypeError, OverflowError):
        del numbers[start:]
        return -1
    return len(numbers) - start


def _is_upright_rectangle(polygon: array[float]) -> bool:
    """Whether four points, and the first again or not, are the corners of an upright rectangle."""
    if len(polygon) == 10 and polygon[:2] == polygon[8:]:
        polygon = polygon[:8]
    if len(polygon) != 8:
        return False
    corners = set(zip(polygon[::2], polygon[1::2]))
    return len(corners) == 4 and len(set(polygon[::2])) == len(set(polygon[1::2])) == 2


class MaskBatch:
    """
    The masks of a batch of annotations; :meth:`add` each, then :meth:`extents` for all.

    An annotation's number is its position in the batch.

    Attributes:
        rectangles: the numbers of those whose one polygon is an upright rectangle.
    """

    def __init__(self) -> None:
        self.rectangles: list[int] = []
        self._coordinates: array[float] = array("d")
        self._starts: list[int] = []  # where each polygon mask's coordinates start
        self._polygon_numbers: list[int] = []
        self._rles: list[dict[str, Any]] = []
        self._rle_numbers: list[int] = []

    def add(
        self, number: int, segmentation: Any, height: float, width: float
    ) -> tuple[bool, Problem | None]:
        """
        Add an annotation's ``segmentation``.

        Args:
            number: the annotation's position in the batch.
            segmentation: what the annotation has: nothing, polygons, RLE or an (H, W) bitmask.
            height: the image's height, NaN if it is not known.
            width: the image's width, likewise.

        Returns:
            Whether it has a mask in the sense of :func:`~maskx_d2.data.partial_masks.has_mask`,
            and what is wrong with it, if anything is.
        """
        if segmentation is None:
            return False, None
        if isinstance(segmentation, (list, tuple)):
            return self._add_polygons(number, segmentation) if segmentation else (False, None)
        if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
            bitmask = np.asfortranarray(segmentation != 0, dtype=np.uint8)
            segmentation = mask_api.encode(bitmask)
        if isinstance(segmentation, dict):
            if not has_counts(segmentation):
                return False, None
            return self._add_rle(number, segmentation, height, width)
        return False, (
            "malformed_mask",
            f"the segmentation is {shown(segmentation)}, which is neither a list of polygons nor "
            "RLE; leave it out where there is no mask.",
        )

    def _add_polygons(self, number: int, polygons: Any) -> tuple[bool, Problem | None]:
        coordinates = self._coordinates
        start = len(coordinates)
        odd = short = 0
        for polygon in polygons:
            count = append_numbers(coordinates, polygon)
            if count < 0:
                del coordinates[start:]
                return False, (
                    "malformed_mask",
                    f"a polygon is {shown(polygon)}, not a list of numbers; write a segmentation "
                    "as [[x1, y1, x2, y2, x3, y3, ...], ...].",
                )
            if count % 2:
                odd += 1
            elif count < _MIN_POLYGON_COORDINATES:
                short += 1
            else:
                continue
            del coordinates[len(coordinates) - count :]
        usable = len(coordinates) > start
        if usable and len(polygons) == 1 and _is_upright_rectangle(coordinates[start:]):
            self.rectangles.append(number)
        if usable:
            self._starts.append(start)
            self._polygon_numbers.append(number)
        if odd:
            return usable, (
                "odd_polygon",
                f"{odd} of {len(polygons)} polygons have an odd number of coordinates; write "
                "them as x1, y1, x2, y2, ...",
            )
        if not usable:
            return False, (
                "no_usable_polygon",
                "all polygons have fewer than 3 points, for which detectron2's loader drops the "
                "box as well; leave the segmentation out to keep the box.",
            )
        if short:
            return True, (
                "short_polygon",
                f"{short} of {len(polygons)} polygons have fewer than 3 points and are not used.",
            )
        return True, None

    def _add_rle(
        self, number: int, rle: dict[str, Any], height: float, width: float
    ) -> tuple[bool, Problem | None]:
        try:
            readable = compressed(rle)
        except ValueError as e:
            return False, ("malformed_mask", str(e))
        size = readable["size"]
        if (height == height and size[0] != height) or (width == width and size[1] != width):
            return True, (
                "rle_size",
                f"the RLE is for an image of {size[1]} x {size[0]} pixels, but the image has "
                f"{width:.0f} x {height:.0f}.",
            )
        self._rles.append(readable)
        self._rle_numbers.append(number)
        return True, None

    def extents(self, num: int) -> tuple[_Floats, npt.NDArray[np.bool_], list[tuple[int, Problem]]]:
        """
        How far each mask reaches.

        Args:
            num: the number of annotations in the batch.

        Returns:
            (num, 4) the least x and y and the greatest x and y, NaN where there is no mask that
            could be read; (num,) whether a mask has no pixel, and so reaches nowhere; the numbers
            of annotations whose mask turned out to be none, and why.
        """
        extents = np.full((num, 4), np.nan)
        empty = np.zeros(num, dtype=np.bool_)
        problems: list[tuple[int, Problem]] = []
        if self._starts:
            points = np.frombuffer(self._coordinates, dtype=np.float64).reshape(-1, 2)
            starts = np.array(self._starts) // 2
            extents[self._polygon_numbers, :2] = np.minimum.reduceat(points, starts)
            extents[self._polygon_numbers, 2:] = np.maximum.reduceat(points, starts)
            finite = np.isfinite(extents[self._polygon_numbers]).all(axis=1)
            for i in np.flatnonzero(~finite):
                number = self._polygon_numbers[i]
                message = "a polygon has a coordinate that is not finite."
                problems.append((number, ("malformed_mask", message)))
                extents[number] = np.nan
        problems += self._remove_broken_rles()
        if self._rles:
            boxes = np.asarray(mask_api.toBbox(self._rles), dtype=np.float64)
            boxes[:, 2:] += boxes[:, :2]
            numbers = np.array(self._rle_numbers)
            without_pixels = areas(self._rles) == 0
            boxes[without_pixels] = np.nan
            extents[numbers] = boxes
            empty[numbers] = without_pixels
        return extents, empty, problems

    def _remove_broken_rles(self) -> list[tuple[int, Problem]]:
        wrong = dict(wrong_runs(self._rles))
        problems = [(self._rle_numbers[i], ("malformed_mask", wrong[i])) for i in wrong]
        kept = [i for i in range(len(self._rles)) if i not in wrong]
        self._rles = [self._rles[i] for i in kept]
        self._rle_numbers = [self._rle_numbers[i] for i in kept]
        return problems
