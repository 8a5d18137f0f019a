"""Average recall of proposals, beside detectron2's own and by hand."""

import math

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.structures import Boxes, Instances, pairwise_iou

from maskx_d2.evaluation import average_recalls
from maskx_d2.evaluation.proposal_recall import Overlaps, matched_ious


def overlaps(ious, areas=None, categories=None):
    ious = np.array(ious, dtype=np.float32)
    count = ious.shape[1]
    return Overlaps(
        ious,
        np.full(count, 100.0) if areas is None else np.array(areas, dtype=np.float64),
        np.zeros(count, dtype=np.int64) if categories is None else np.array(categories),
    )


def test_pairs_are_one_to_one_and_the_best_come_first():
    # Both objects like proposal 0 best; object 1 more, so object 0 gets what is left.
    np.testing.assert_allclose(matched_ious(np.array([[0.8, 0.9], [0.6, 0.7]])), [0.6, 0.9])
    np.testing.assert_allclose(matched_ious(np.array([[0.8, 0.9]])), [0.0, 0.9])
    np.testing.assert_allclose(matched_ious(np.zeros((0, 2))), [0.0, 0.0])
    np.testing.assert_allclose(matched_ious(np.zeros((3, 2))), [0.0, 0.0])
    assert matched_ious(np.zeros((3, 0))).shape == (0,)


def test_recall_is_the_mean_over_thresholds_and_a_limit_is_on_an_images_proposals():
    images = [overlaps([[0.1], [0.76]]), overlaps(np.zeros((0, 1)))]
    figures = average_recalls(images, limits=(1, 2))
    assert figures["AR@1"] == 0
    assert figures["AR@2"] == pytest.approx(100 * 0.6 / 2)  # 0.5 to 0.75; an image without any
    assert figures["ARs@2"] == figures["AR@2"] and math.isnan(figures["ARl@2"])


def test_a_threshold_that_is_reached_exactly_counts():
    figures = average_recalls([overlaps([[0.5]])], limits=(1,))
    assert figures["AR@1"] == pytest.approx(10)


def test_a_proposal_on_another_category_finds_nothing():
    image = overlaps([[0.9, 0.6]], categories=[0, 1])
    recall = [average_recalls([image], c, limits=(10,))["AR@10"] for c in (None, [0], [1])]
    assert recall == pytest.approx([45, 90, 0])
    assert math.isnan(average_recalls([image], [2], limits=(10,))["AR@10"])


class Annotations:
    """What detectron2's recall asks of a COCO object."""

    def __init__(self, images):
        self.images = images

    def getAnnIds(self, imgIds):  # noqa: N802, N803
        return [imgIds]

    def loadAnns(self, ids):  # noqa: N802
        return self.images[ids[0]]


def test_it_equals_detectron2s_recall_of_box_proposals():
    generator = torch.Generator().manual_seed(3)

    def boxes(count):
        corners = torch.rand(count, 2, generator=generator) * 100
        sides = 4 + torch.rand(count, 2, generator=generator) * 160
        return torch.cat([corners, corners + sides], dim=1)

    predictions, annotations, ours = [], {}, []
    for image_id in range(6):
        truth, score = boxes(5), torch.rand(120, generator=generator)
        proposals = Instances((300, 300))
        proposals.proposal_boxes, proposals.objectness_logits = Boxes(boxes(120)), score
        predictions.append({"image_id": image_id, "proposals": proposals})
        xywh = torch.cat([truth[:, :2], truth[:, 2:] - truth[:, :2]], dim=1)
        areas = (xywh[:, 2] * xywh[:, 3]).tolist()
        annotations[image_id] = [
            {"bbox": b, "area": a, "iscrowd": 0} for b, a in zip(xywh.tolist(), areas)
        ]
        ranked = proposals[score.argsort(descending=True)].proposal_boxes
        ious = pairwise_iou(ranked, Boxes(truth)).numpy()
        ours.append(overlaps(ious, areas))
    figures = average_recalls(ours, limits=(10, 100))
    names = {"": "all", "s": "small", "m": "medium", "l": "large"}
    for limit in (10, 100):
        for suffix, area in names.items():
            expected = _evaluate_box_proposals(
                predictions, Annotations(annotations), area=area, limit=limit
            )["ar"].item()
            assert figures[f"AR{suffix}@{limit}"] == pytest.approx(100 * expected, abs=1e-4)
    assert figures["AR@10"] > 0 and len({round(v, 3) for v in figures.values()}) > 5
