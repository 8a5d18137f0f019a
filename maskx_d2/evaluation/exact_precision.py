"""
What faster-coco-eval's precision lacks to be pycocotools' to the last bit.

Pycocotools divides by the number of detections plus 2.2e-16, which is lost in rounding from two
detections on. So only the precision at the very first detection differs, 1 - 2.2e-16 in place of 1,
and it shows where that detection is right and the next one is not: then no later 1 covers it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

__all__ = ["round_as_pycocotools"]

_FIRST = 1.0 / (1.0 + np.spacing(1))


def round_as_pycocotools(
    evaluation: dict[str, Any], params: Any, truth: COCO, detections: COCO, iou_type: str
) -> None:
    """
    Make ``evaluation["precision"]`` what pycocotools would have made of it.

    Args:
        evaluation: ``eval`` of an accumulated evaluation, changed in place. ``precision`` is
            float64 (IoU thresholds, recall thresholds, K, area ranges, maximal detections).
        params: its ``params``, with ``useCats``.
        truth, detections: what was evaluated.
        iou_type: "bbox" or "segm".
    """
    precision = evaluation["precision"]
    found = _by_category(detections, set(params.imgIds))
    instances = _by_category(truth, set(params.imgIds))
    for k, category in enumerate(params.catIds):
        is_one = precision[:, 0, k] == 1.0  # (IoU thresholds, area ranges, maximal detections)
        if not is_one.any():
            continue
        images = _Images(truth, detections, iou_type, params, category)
        for a, area in enumerate(params.areaRng):
            if not is_one[:, a].any():
                continue
            count = sum(_counts(i, area) for i in instances[category])
            first = np.asarray(params.recThrs) <= 1.0 / count  # where recall asks for one detection
            for m, limit in enumerate(params.maxDets):
                undecided = is_one[:, a, m] & ~(precision[:, ~first, k, a, m] == 1.0).any(axis=1)
                if not undecided.any():
                    continue
                order = _ranked(found[category], params.imgIds, limit)
                for t in np.flatnonzero(undecided).tolist():
                    if not _second_is_right(order, images, a, t):
                        entries = precision[t, first, k, a, m]
                        precision[t, first, k, a, m] = np.where(entries == 1.0, _FIRST, entries)


def _by_category(coco: COCO, image_ids: set[int]) -> Mapping[int, list[dict[str, Any]]]:
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in coco.dataset.get("annotations", ()):
        if annotation["image_id"] in image_ids:
            annotations[annotation["category_id"]].append(annotation)
    return annotations


def _counts(instance: Mapping[str, Any], area: Any) -> bool:
    """Whether a detection of the instance is to be right, in this range of areas."""
    return not instance.get("iscrowd") and area[0] <= instance["area"] <= area[1]


def _ranked(found: list[dict[str, Any]], image_ids: Any, limit: int) -> list[tuple[int, int]]:
    """Image and place within it of each detection that counts, the surest first."""
    scores: dict[int, list[float]] = defaultdict(list)
    for detection in found:
        scores[detection["image_id"]].append(-detection["score"])
    places, keys = [], []
    for image_id in image_ids:
        of_image = sorted(scores.get(image_id, ()))[:limit]
        places += [(image_id, i) for i in range(len(of_image))]
        keys += of_image
    return [places[i] for i in np.argsort(keys, kind="mergesort")]


def _second_is_right(order: list[tuple[int, int]], images: _Images, area: int, t: int) -> bool:
    rights = _rights(order, images, area, t)
    next(rights)  # the first, which is right
    return next(rights, False)


def _rights(order: list[tuple[int, int]], images: _Images, area: int, t: int) -> Iterator[bool]:
    """Of each detection that is not ignored, whether it is right."""
    for image_id, place in order:
        result = images[image_id][area]
        if not result["dtIgnore"][t, place]:
            yield bool(result["dtMatches"][t, place])


class _Images(dict[int, list[Any]]):
    """Pycocotools' own matching of a category's detections, of those images that are asked for."""

    def __init__(
        self, truth: COCO, detections: COCO, iou_type: str, params: Any, category: int
    ) -> None:
        super().__init__()
        self._eval = COCOeval(truth, detections, iou_type)
        self._category = category
        for key in ("iouThrs", "recThrs", "maxDets", "areaRng"):
            setattr(self._eval.params, key, getattr(params, key))
        self._eval.params.catIds = [category]

    def __missing__(self, image_id: int) -> list[Any]:
        coco_eval = self._eval
        coco_eval.params.imgIds = [image_id]
        coco_eval._prepare()
        key = image_id, self._category
        coco_eval.ious = {key: coco_eval.computeIoU(*key)}
        self[image_id] = [
            coco_eval.evaluateImg(*key, area, coco_eval.params.maxDets[-1])
            for area in coco_eval.params.areaRng
        ]
        return self[image_id]
