"""Average precision of labels."""

import math

import numpy as np
import pytest
import torch
from conftest import write_coco
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import ClassSplit
from maskx_d2.data import register_partial
from maskx_d2.evaluation import ImageLabelEvaluator, average_precision


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.9, 0.8, 0.7], [1, 0, 1], (1 + 2 / 3) / 2),
        ([0.7, 0.9, 0.8], [1, 1, 0], (1 + 2 / 3) / 2),  # in any order
        ([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 1], (1 / 3 + 1 / 2) / 2),  # ties are one step
        ([0.5, 0.5, 0.1], [0, 1, 0], 1 / 2),
        ([0.3, 0.2], [1, 1], 1.0),
    ],
)
def test_average_precision_by_hand(scores, labels, expected):
    found = average_precision(np.array(scores), np.array(labels, dtype=bool))
    assert found == pytest.approx(expected)


def test_nothing_to_find_has_no_precision():
    assert math.isnan(average_precision(np.array([0.5, 0.1]), np.zeros(2, dtype=bool)))


@pytest.mark.usefixtures("no_registration_left")
def test_all_and_each_set(tmp_path):
    json_file, images = write_coco(tmp_path, num_images=3)
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat"}, {"dog", "cup"}, {"car"})
    register_partial("pets_c", base="pets", split=split)
    records = DatasetCatalog.get("pets_c")
    evaluator = ImageLabelEvaluator("pets_c")
    # Each image has all four labels, but a data set may lose instances: here the first its dogs.
    evaluator._labels = {r["image_id"]: set(r["image_labels"]) for r in records}
    evaluator._labels[records[0]["image_id"]] = {0, 3}
    evaluator.reset()
    for i, record in enumerate(records):
        scores = torch.tensor([0.5, 0.9 - 0.1 * i, 0.1 * i, 0.3])
        evaluator.process([{"image_id": record["image_id"]}], [{"image_scores": scores}])
    results = evaluator.evaluate()
    dog, cup = 100 * (1 / 2 + 2 / 3) / 2, 100
    assert results["image_labels_A"]["AP"] == results["image_labels_C"]["AP"] == 100
    assert results["image_labels_B"]["AP"] == pytest.approx((dog + cup) / 2)
    assert results["image_labels"]["AP"] == pytest.approx((200 + dog + cup) / 4)
    assert results["image_labels"]["AP-dog"] == pytest.approx(dog)


@pytest.mark.usefixtures("no_registration_left")
def test_the_labels_of_c_are_those_of_the_data_set(tmp_path):
    json_file, images = write_coco(tmp_path, num_images=2)
    register_coco_instances("pets", {}, str(json_file), str(images))
    for name, keep in (("train", False), ("val", True)):
        split = ClassSplit("pets", {"cat"}, {"dog"}, {"cup", "car"})
        register_partial(name, base="pets", split=split, keep_masks=keep)
        assert list(ImageLabelEvaluator(name)._labels.values()) == [{0, 1, 2, 3}] * 2
