"""Paired differences of two methods and their confidence intervals."""

import numpy as np
import pytest

from maskx_d2.evaluation import paired_difference


def runs(shift, noise, seeds=3, images=60, rng=None):
    """Runs of two methods: images differ much, the methods by ``shift``, seeds by ``noise``."""
    rng = rng or np.random.default_rng(0)
    level = rng.normal(50, 20, images)
    counts = rng.integers(0, 4, images)

    def one(add):
        of_seed = rng.normal(0, noise)
        return {
            i: list(level[i] + add + of_seed + rng.normal(0, 1, counts[i])) for i in range(images)
        }

    return [one(shift) for _ in range(seeds)], [one(0.0) for _ in range(seeds)]


def test_a_shared_level_of_the_images_cancels():
    found = paired_difference(*runs(1.0, 0.0))
    assert 0.7 < found.mean < 1.3
    assert found.low < found.mean < found.high and found.high - found.low < 1.0
    assert found.is_clear


def test_is_the_difference_of_the_means_over_instances():
    found = paired_difference([{1: [3.0, 1.0], 2: [2.0]}], [{1: [1.0, 1.0], 2: [1.0]}])
    assert found.mean == pytest.approx(1.0)
    assert found.low == pytest.approx(1.0), "each image has the same difference per instance"


def test_seeds_may_count_other_instances():
    method = [{1: [3.0, 1.0], 2: [2.0]}, {2: [5.0]}]
    reference = [{1: [1.0, 1.0], 2: [1.0]}, {2: [1.0]}]
    assert paired_difference(method, reference).mean == pytest.approx((2 + 0 + 1 + 4) / 4)


def test_seeds_that_differ_widen_the_interval():
    calm, restless = (paired_difference(*runs(1.0, noise)) for noise in (0.0, 5.0))
    assert restless.high - restless.low > 5 * (calm.high - calm.low)
    assert not restless.is_clear


def test_seeds_that_share_a_detector_count_as_little_as_the_detectors_are():
    # Four seeds, the first two on one detector and the others on another: +0 and +4 of them.
    images = range(30)
    method = [{i: [add] for i in images} for add in (0.0, 0.0, 4.0, 4.0)]
    reference = [{i: [0.0] for i in images}] * 4
    alone, shared = (
        paired_difference(method, reference, groups=groups) for groups in (None, "aabb")
    )
    assert alone.mean == shared.mean == 2.0
    assert (shared.low, shared.high) == (0.0, 4.0), "one in four draws has one detector only"
    several = paired_difference(method, reference, groups=[1, 2, 3, 4])
    assert (several.low, several.high) == (alone.low, alone.high)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [paired_difference(*runs(2.0, 0.0, 1, 40, rng), draws=200) for _ in range(100)]
    covered = sum(f.low <= 2.0 <= f.high for f in found)
    assert 85 <= covered <= 100


@pytest.mark.parametrize(
    ("method", "reference", "message"),
    [
        ([], [], "0 seeds can't be paired with 0"),
        ([{1: [1.0]}], [{1: [1.0]}, {1: [1.0]}], "1 seeds can't be paired with 2"),
        ([{1: [1.0]}], [{2: [1.0]}], "not measured on the same instances"),
        ([{1: [1.0]}], [{1: [1.0, 2.0]}], "not measured on the same instances"),
    ],
)
def test_what_is_no_pair(method, reference, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(method, reference)


def test_a_seed_without_a_group():
    with pytest.raises(ValueError, match="1 groups for 2 seeds"):
        paired_difference([{1: [1.0]}] * 2, [{1: [1.0]}] * 2, groups=["a"])
