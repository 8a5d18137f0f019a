"""How many objects are among an image's best proposals: from IoUs to average recall."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROPOSAL_LIMITS", "Overlaps", "average_recalls", "matched_ious"]

#: The numbers of proposals of an image that recall is measured for.
PROPOSAL_LIMITS = (10, 100, 1000)

_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)  # COCO's
_AREAS = {
    "": (0.0, np.inf),
    "s": (0.0, 32.0**2),
    "m": (32.0**2, 96.0**2),
    "l": (96.0**2, np.inf),
}  # both ends belong to a range, as in COCO's


class Overlaps(NamedTuple):
    """
    An image's K proposals, the best first, beside its G objects.

    ``ious`` (K, G) in [0, 1]; ``areas`` (G,) of the objects in square pixels; ``categories`` (G,)
    contiguous.
    """

    ious: NDArray[np.float32]
    areas: NDArray[np.float64]
    categories: NDArray[np.int64]


def matched_ious(ious: NDArray[np.floating]) -> NDArray[np.float64]:
    """
    The IoU of each object with the proposal that is its own.

    Pairs are made greedily, those of the largest IoU first, and a proposal or an object that is
    in one is in no other: as detectron2's recall of box proposals has it.

    Args:
        ious: (K, G).

    Returns:
        (G,), 0 for an object that no proposal is left for, or that none touches.
    """
    left = np.array(ious, dtype=np.float64)
    found = np.zeros(left.shape[1])
    for _ in range(min(left.shape)):
        proposal, target = np.unravel_index(left.argmax(), left.shape)
        if left[proposal, target] <= 0:
            break
        found[target] = left[proposal, target]
        left[proposal] = -1
        left[:, target] = -1
    return found


def average_recalls(
    images: Sequence[Overlaps],
    of_interest: Collection[int] | None = None,
    limits: Sequence[int] = PROPOSAL_LIMITS,
) -> dict[str, float]:
    """
    The share of objects that proposals find, at COCO's IoU thresholds.

    As in detectron2's figures, objects of another size are not there when pairs are made. Those of
    other categories are: a proposal that is theirs finds no object of interest, so what all
    objects have is the mean of what disjoint sets of categories have, weighted by their numbers.

    Args:
        images: of all images, those without proposals (K = 0) among them.
        of_interest: the categories whose objects are counted, all by default.
        limits: how many proposals an image has, the best.

    Returns:
        In percent, NaN where there is no object: for each limit L ``AR@L``, the share of objects
        with an IoU of at least 0.5, 0.55, ..., 0.95, mean over these; and of small, medium and
        large objects ``ARs@L``, ``ARm@L``, ``ARl@L``.
    """
    result = {}
    for limit in limits:
        for name, (low, high) in _AREAS.items():
            found = [_found(image, limit, low, high, of_interest) for image in images]
            ious = np.concatenate([np.zeros(0), *found])
            recall = (ious[:, None] >= _THRESHOLDS - 1e-6).mean() if len(ious) else np.nan
            result[f"AR{name}@{limit}"] = 100 * float(recall)
    return result


def _found(
    image: Overlaps, limit: int, low: float, high: float, of_interest: Collection[int] | None
) -> NDArray[np.float64]:
    of_size = (image.areas >= low) & (image.areas <= high)
    ious = matched_ious(image.ious[:limit, of_size])
    if of_interest is None:
        return ious
    return ious[np.isin(image.categories[of_size], list(of_interest))]
