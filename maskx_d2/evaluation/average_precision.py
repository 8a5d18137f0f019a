"""Average precision of a ranking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_precision"]


def average_precision(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """
    The mean, over what is to be found, of the precision down to it, ties included.

    This is the area under the curve of precision over recall in steps, as scikit-learn's
    ``average_precision_score`` has it.

    Args:
        scores: (N,).
        labels: (N,), what is to be found.

    Returns:
        In [0, 1]; NaN if nothing is to be found.
    """
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(labels[order])
    # Equal scores have no order among them: all come at the end of their group.
    ends = np.searchsorted(-scores, -scores, side="right") - 1
    precision = hits[ends] / (ends + 1)
    return float(precision[labels[order]].mean())
