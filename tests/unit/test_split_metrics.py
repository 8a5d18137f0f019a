import math

import numpy as np
import pytest

from maskx_d2.evaluation import METRICS, subset_metrics

IOU = np.linspace(0.5, 0.95, 10)
AREAS = ["all", "small", "medium", "large"]


def metrics(precision, categories):
    return subset_metrics(precision, categories, iou_thresholds=IOU, area_labels=AREAS)


def test_means_over_the_right_axes():
    precision = np.zeros((10, 101, 4, 4, 3))
    precision[..., 2] = np.arange(4)[None, None, :, None] / 10  # by category
    precision[..., 1, 2] += 0.01  # small
    precision[0] += 0.2  # IoU 0.5
    result = metrics(precision, [1, 3])
    assert tuple(result) == METRICS
    assert result["AP50"] == pytest.approx(40)
    assert result["AP75"] == pytest.approx(20)
    assert result["AP"] == pytest.approx(22)
    assert result["APs"] == pytest.approx(23)
    assert result["APm"] == pytest.approx(22)


def test_a_category_without_ground_truth_is_left_out():
    precision = np.full((10, 101, 3, 4, 3), 0.5)
    precision[:, :, 1] = -1
    assert metrics(precision, [0, 1])["AP"] == pytest.approx(50)
    assert all(math.isnan(v) for v in metrics(precision, [1]).values())
    assert math.isnan(metrics(precision, [])["AP"])
