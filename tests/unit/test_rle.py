"""RLE that can't be what it says is found, and any number of masks has areas."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from maskx_d2.data import has_mask
from maskx_d2.data.rle import areas, checked, wrong_runs

SIZE = [6, 8]


def rle(pixels):
    mask = np.zeros(48, dtype=np.uint8)
    mask[5 : 5 + pixels] = 1
    return mask_util.encode(np.asfortranarray(mask.reshape(8, 6).T))


@pytest.mark.parametrize(
    "counts",
    [
        *(rle(9)["counts"], rle(9)["counts"].decode(), [5, 9, 34]),
        *([5.0, 9.0, 34.0], list(np.array([5, 9, 34])), np.array([5, 9, 34])),
    ],
)
def test_ways_to_write_one(counts):
    assert has_mask({"segmentation": {"size": SIZE, "counts": counts}})
    assert checked({"size": SIZE, "counts": counts}) == {"size": SIZE, "counts": rle(9)["counts"]}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": SIZE}, "counts are None"),
        ({"counts": rle(9)["counts"]}, "size is None"),
        ({"size": [6, 0], "counts": [0]}, "not a height and a width"),
        ({"size": SIZE, "counts": [5, 9]}, "14 pixels long"),
        ({"size": SIZE, "counts": [5, -9, 52]}, "not all run lengths"),
        ({"size": SIZE, "counts": [5.5, 8.5, 34]}, "not all run lengths"),
        ({"size": SIZE, "counts": rle(9)["counts"][:1]}, "5 pixels long"),
        ({"size": SIZE, "counts": rle(9)["counts"] + b"1"}, "58 pixels long"),
        ({"size": SIZE, "counts": "1o"}, "cut off"),
        ({"size": SIZE, "counts": "a mask"}, "can't be"),
    ],
)
def test_what_is_none_is_said(segmentation, message):
    with pytest.raises(ValueError, match=message):
        checked(segmentation)


def test_of_many_the_wrong_ones_are_named():
    good = checked(rle(9))
    found = wrong_runs([good, {**good, "counts": good["counts"][:1]}, good])
    assert [i for i, _ in found] == [1]
    assert not wrong_runs([])


@pytest.mark.parametrize("counts", ["", b"", [], np.zeros(0)])
def test_empty_counts_are_no_mask(counts):
    assert not has_mask({"segmentation": {"size": SIZE, "counts": counts}})
    assert has_mask({"segmentation": {"size": SIZE}}), "which can't be read, and is an error"


def test_areas_of_more_masks_than_pycocotools_can_count():
    assert areas([rle(i % 40) for i in range(600)]).tolist() == [i % 40 for i in range(600)]
    assert areas([]).shape == (0,)
