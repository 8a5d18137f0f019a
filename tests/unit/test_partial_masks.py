import copy

import numpy as np
import pytest

from maskx_d2.data import box_polygon, drop_masks, has_mask

TRIANGLE = [0, 0, 4, 0, 4, 4]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ({}, False),
        ({"segmentation": None}, False),
        ({"segmentation": []}, False),
        ({"segmentation": [[]]}, False),
        ({"segmentation": [[0, 0, 4, 4]]}, False),
        ({"segmentation": [[0, 0, 4, 4], TRIANGLE]}, True),
        ({"segmentation": {"size": [4, 4], "counts": b"xyz"}}, True),
        ({"segmentation": np.zeros((4, 4), dtype=bool)}, True),
    ],
)
def test_has_mask(annotation, expected):
    assert has_mask(annotation) is expected


def test_drop_masks_takes_the_masks_of_the_categories_and_nothing_else():
    dicts = [
        {
            "image_id": 7,
            "annotations": [
                {"category_id": c, "bbox": [c, 0, 4, 4], "segmentation": [TRIANGLE]} for c in (0, 1)
            ],
        },
        {"image_id": 8, "annotations": []},
        {"image_id": 9},
    ]
    before = copy.deepcopy(dicts)
    dropped = drop_masks(dicts, [1])
    assert dropped[0]["annotations"] == [
        {"category_id": 0, "bbox": [0, 0, 4, 4], "segmentation": [TRIANGLE]},
        {"category_id": 1, "bbox": [1, 0, 4, 4]},
    ]
    assert dropped[1:] == before[1:]
    assert dicts == before, "the caller's list is left as it was"


def test_box_polygon():
    assert box_polygon([1, 2, 5, 8]) == [1, 2, 5, 2, 5, 8, 1, 8]


@pytest.mark.parametrize("segmentation", [[1, 2, 3, 4, 5, 6], "polygon", 7, [{"size": [1, 1]}]])
def test_what_is_no_segmentation_is_an_error(segmentation):
    with pytest.raises(ValueError, match=r"neither polygons nor RLE|\[\[x1, y1, x2, y2"):
        has_mask({"segmentation": segmentation})
