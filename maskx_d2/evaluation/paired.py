"""Whether one method's masks are better than another's, or whether it is chance."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PairedDifference", "paired_difference"]

#: Image id → the values of its instances, always the same instances in the same order.
ValuesOfImages = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class PairedDifference:
    """
    A mean over instances with one method less that with another.

    Attributes:
        mean: the difference.
        low, high: the ends of its confidence interval.
    """

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the confidence interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    method: Sequence[ValuesOfImages],
    reference: Sequence[ValuesOfImages],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """
    The difference of two methods that were measured on the same instances with the same seeds.

    Its confidence interval is a percentile bootstrap that draws seeds and, for each draw, images,
    both with replacement: it covers the chance in training and in the choice of test images.
    With one seed it covers the images alone, and with few, say five, it is some tenth too narrow.
    Seeds may count other instances, where each has a set B of its own.

    Args:
        method, reference: for each seed, what each instance of each image has, such as its IoU.
        groups: for each seed, what it shares with others, such as the detector that they begin
            with: groups are drawn first, then seeds of each. None: seeds have nothing in common.
        confidence: of the interval.
        draws: of the bootstrap.
        seed: of its random numbers.

    Raises:
        ValueError: if the two don't have the same seeds, and for each the same images and
            instances; if there are more or fewer groups than seeds.
    """
    if len(method) != len(reference) or not method:
        raise ValueError(
            f"{len(method)} seeds can't be paired with {len(reference)}; give both methods' runs "
            "of the same seeds."
        )
    if groups is not None and len(groups) != len(method):
        raise ValueError(f"{len(groups)} groups for {len(method)} seeds; give each seed's group.")
    images = sorted(set().union(*reference))
    differences, numbers = [], []
    for one, other in zip(method, reference):
        if {i: len(v) for i, v in one.items()} != {i: len(v) for i, v in other.items()}:
            raise ValueError("the runs were not measured on the same instances.")
        differences.append([sum(one.get(i, ())) - sum(other.get(i, ())) for i in images])
        numbers.append([len(other.get(i, ())) for i in images])
    sums: NDArray[np.float64] = np.array(differences)  # (seeds, images)
    counts: NDArray[np.float64] = np.array(numbers, dtype=np.float64)
    shared = list(range(len(sums))) if groups is None else list(groups)
    members = [[i for i, g in enumerate(shared) if g == group] for group in dict.fromkeys(shared)]
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for k in range(draws):
        of_seeds = _drawn(members, rng)
        of_images = rng.integers(len(images), size=len(images))
        drawn = np.ix_(np.array(of_seeds), of_images)
        means[k] = sums[drawn].sum() / max(counts[drawn].sum(), 1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return PairedDifference(float(sums.sum() / counts.sum()), float(low), float(high))


def _drawn(groups: Sequence[Sequence[int]], rng: np.random.Generator) -> list[int]:
    """As many groups as there are, with replacement, and as many of each one's members."""
    drawn = (groups[i] for i in rng.integers(len(groups), size=len(groups)))
    return [g[i] for g in drawn for i in rng.integers(len(g), size=len(g))]
