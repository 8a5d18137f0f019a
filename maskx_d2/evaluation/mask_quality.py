"""How good masks are where boxes and categories are given: from IoUs to figures."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

__all__ = ["MASK_QUALITY", "is_right", "mask_quality"]

#: The figures of :func:`mask_quality`, in their order.
MASK_QUALITY = ("IoU", "AR", "AR50", "AR75", "IoU_inst", "AR_inst")

_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)  # COCO's


def is_right(ious: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether IoUs (R,) reach COCO's thresholds 0.5, 0.55, ..., 0.95: bool (R, 10)."""
    right: NDArray[np.bool_] = ious[:, None] >= _THRESHOLDS - 1e-9
    return right


def mask_quality(
    ious: NDArray[np.float64],
    categories: NDArray[np.int64],
    of_interest: Collection[int] | None = None,
) -> dict[str, float]:
    """
    Mean IoU, and the share of instances whose mask is right, at COCO's IoU thresholds.

    Args:
        ious: (R,), IoU in [0, 1] of each instance's mask with its ground truth.
        categories: (R,), the instances' categories.
        of_interest: the categories that count, all by default.

    Returns:
        In percent, NaN where no instance counts:

        - ``IoU``: mean IoU;
        - ``AR``: the share with an IoU of at least 0.5, 0.55, ..., 0.95, mean over these, which
          is COCO's average recall when each ground truth has one detection;
        - ``AR50``, ``AR75``: the same at one threshold;
        - ``IoU_inst``, ``AR_inst``: the mean over instances, where the others are, as COCO's are,
          means over categories.
    """
    if of_interest is not None:
        counts = np.isin(categories, list(of_interest))
        ious, categories = ious[counts], categories[counts]
    if not len(ious):
        return dict.fromkeys(MASK_QUALITY, float("nan"))
    right = is_right(ious)  # (R, 10)
    each = np.column_stack([ious, right.mean(axis=1), right[:, 0], right[:, 5]])  # (R, 4)
    per_category = [each[categories == c].mean(axis=0) for c in np.unique(categories)]
    means = np.concatenate([np.mean(per_category, axis=0), each[:, :2].mean(axis=0)])
    return dict(zip(MASK_QUALITY, (100 * means).tolist()))
