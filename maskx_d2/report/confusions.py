"""Which categories a detector takes for which."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

__all__ = ["Confusion", "confusions"]


@dataclass(frozen=True)
class Confusion:
    """
    Attributes:
        true, predicted: names; ``predicted`` is None where nothing was found.
        count: instances of ``true`` whose best box is of ``predicted``.
        share: of all instances of ``true``, in [0, 1].
    """

    true: str
    predicted: str | None
    count: int
    share: float


def confusions(
    records: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    names: Sequence[str],
    *,
    min_iou: float = 0.5,
    min_score: float = 0.3,
) -> list[Confusion]:
    """
    For each true box the highest-scoring detection on it; what that says of its category.

    Args:
        records: a data set's dicts. Crowds don't count.
        detections: see :class:`Measured`.
        names: of the categories.
        min_iou: of a detection's box with the true one, to be on it.
        min_score: of a detection that counts.

    Returns:
        All wrong pairs, the most frequent first.
    """
    by_image = defaultdict(list)
    for found in detections:
        if found["score"] >= min_score:
            by_image[found["image_id"]].append(found)
    pairs: Counter[tuple[int, int | None]] = Counter()
    totals: Counter[int] = Counter()
    for record in records:
        truth = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        found = sorted(by_image[record["image_id"]], key=lambda d: -d["score"])
        totals.update(a["category_id"] for a in truth)
        if not truth:
            continue
        true_boxes = np.array(
            [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS) for a in truth],
            dtype=np.float64,
        )
        found_boxes = np.array([d["bbox"] for d in found], dtype=np.float64).reshape(-1, 4)
        ious = (
            mask_util.iou(found_boxes, true_boxes, [0] * len(truth))
            if len(found)
            else np.zeros((0, len(truth)))
        )
        for annotation, on_it in zip(truth, (np.asarray(ious) >= min_iou).T):
            # Two objects may share a box: one that is right is not confused with the other.
            classes = [found[i]["category_id"] for i in np.flatnonzero(on_it)]
            if annotation["category_id"] not in classes:
                pairs[annotation["category_id"], classes[0] if classes else None] += 1
    return [
        Confusion(names[true], None if predicted is None else names[predicted], n, n / totals[true])
        for (true, predicted), n in pairs.most_common()
    ]
