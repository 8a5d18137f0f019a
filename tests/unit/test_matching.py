"""From peaks to instances, on toy proposals."""

import numpy as np
import pytest

from maskx_d2.pseudo_masks.matching import best_covering, response_box, unlike


def boxes(*corners, size=(20, 30)):
    masks = np.zeros((len(corners), *size), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners):
        mask[y0:y1, x0:x1] = True
    return masks


def test_the_best_of_those_that_cover_the_peak():
    masks = boxes((0, 0, 10, 10), (2, 2, 8, 8), (15, 0, 25, 10))
    scores = [0.1, 0.5, 3.0]
    assert best_covering(masks, scores, (5.0, 5.0), 0) == 1
    assert best_covering(masks, scores, (9.5, 9.5), 0) == 0  # the second ends before it
    assert best_covering(masks, scores, (20.0, 5.0), 0) == 2
    assert best_covering(masks, scores, (12.5, 5.0), 0) is None
    assert best_covering(masks[:0], [], (5.0, 5.0), 4) is None


def test_a_peak_is_no_finer_than_its_feature():
    ring = boxes((0, 0, 12, 12))
    ring[0, 3:9, 3:9] = False
    assert best_covering(ring, [1.0], (6.0, 6.0), 2) is None
    assert best_covering(ring, [1.0], (6.0, 6.0), 4) == 0
    corner = boxes((28, 18, 30, 20))
    assert best_covering(corner, [1.0], (31.0, 21.0), 1) == 0  # a feature may reach beyond
    assert best_covering(corner, [1.0], (32.0, 24.0), 4) == 0


@pytest.mark.parametrize("corners", [(4, 3, 21, 17), (0, 0, 30, 20), (7, 5, 8, 6)])
def test_an_even_response_gives_its_own_box(corners):
    x0, y0, x1, y1 = corners
    found = response_box(boxes(corners)[0].astype(np.float32))
    assert found == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.2)


def test_a_box_is_enlarged_about_its_middle_within_the_image():
    found = response_box(boxes((10, 2, 14, 8))[0].astype(np.float32), 2.0)
    assert found == pytest.approx([8, 0, 8, 11], abs=0.4)


def test_a_few_pixels_far_away_hardly_matter_and_nothing_is_the_whole_image():
    response = 1000.0 * boxes((10, 8, 16, 14))[0]
    x, y, w, h = response_box(response)
    response[0, 0] = 1.0
    assert response_box(response) == pytest.approx([x, y, w, h], abs=0.1)
    assert response_box(np.zeros((20, 30))) == pytest.approx([0, 0, 30, 20], abs=0.1)


def test_of_masks_that_are_alike_the_best_stays():
    ious = np.array([[1, 0.4, 0.2], [0.4, 1, 0.9], [0.2, 0.9, 1]])
    assert unlike(ious, 0.3) == [0, 2]  # the second is gone, so the third has no rival
    assert unlike(ious, 0.5) == [0, 1]
    assert unlike(ious, 1.0) == [0, 1, 2]
    assert unlike(np.zeros((0, 0)), 0.3) == []
