"""Average precision of a subset of categories, from COCOeval's precision array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "subset_metrics"]

#: COCO's six AP metrics, in the order of COCOeval's summary.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

_AREA = {"APs": "small", "APm": "medium", "APl": "large"}
_IOU = {"AP50": 0.5, "AP75": 0.75}


def subset_metrics(
    precision: NDArray[np.float64],
    categories: Sequence[int],
    *,
    iou_thresholds: Sequence[float],
    area_labels: Sequence[str],
) -> dict[str, float]:
    """
    COCO's AP metrics over some of the categories.

    They equal those of a COCOeval with ``params.catIds`` restricted to the categories, because a
    category's precision does not depend on the others: one evaluation serves every subset.

    Args:
        precision: ``COCOeval.eval["precision"]``, shape (IoU thresholds, recall thresholds, K,
            area ranges, numbers of detections), -1 where a category has no ground truth.
        categories: positions along the third axis.
        iou_thresholds: ``COCOeval.params.iouThrs``.
        area_labels: ``COCOeval.params.areaRngLbl``.

    Returns:
        Metric name → percent in [0, 100], NaN where none of the categories has ground truth.
    """
    of_subset = precision[..., -1][:, :, list(categories)]
    result = {}
    for metric in METRICS:
        area = list(area_labels).index(_AREA.get(metric, "all"))
        values = of_subset[:, :, :, area]
        if metric in _IOU:
            values = values[np.isclose(iou_thresholds, _IOU[metric])]
        values = values[values > -1]
        result[metric] = 100 * float(values.mean()) if values.size else float("nan")
    return result
