"""What ``benchmarks/pseudo_instances.py`` counts as right."""

import sys

import numpy as np
import pytest
from conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import pseudo_instances

    yield pseudo_instances
    sys.modules.pop("pseudo_instances")


def rectangle(category_id, x, y, width, height, **more):
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    box = [x, y, width, height]
    return {
        "image_id": 1,
        "category_id": category_id,
        "bbox": box,
        "segmentation": [corners],
        **more,
    }


def content(*annotations):
    return {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "pear"}, {"id": 2, "name": "mango"}],
        "annotations": list(annotations),
    }


def test_instances_are_paired_one_to_one(benchmark):
    real = content(
        rectangle(2, 0, 0, 20, 20), rectangle(2, 50, 50, 20, 20), rectangle(1, 0, 50, 20, 20)
    )
    made = content(
        rectangle(2, 0, 0, 20, 20, mask_source="wise"),
        rectangle(2, 0, 0, 20, 18, mask_source="wise"),  # of an object that has a better one
        rectangle(2, 50, 50, 20, 8, mask_source="wise+grabcut"),
        rectangle(1, 0, 50, 20, 20),  # another's category
    )
    found = benchmark.compare(made, real, {"mango"})
    np.testing.assert_allclose(found.ious, [1, 0, 0.4])
    assert found.sources.tolist() == ["wise", "wise", "wise+grabcut"]
    figures = benchmark.figures(found)
    assert (figures["instances"], figures["objects"]) == (3, 2)
    assert figures["mean IoU of objects"] == pytest.approx(70)
    recalls = [figures[f"recall {t}"] for t in (0.25, 0.5, 0.75)]
    assert recalls == pytest.approx([100, 50, 50])
    assert figures["precision 0.5"] == pytest.approx(100 / 3)


def test_a_crowd_is_neither_right_nor_wrong(benchmark):
    real = content(rectangle(2, 0, 0, 20, 20), rectangle(2, 40, 40, 60, 60, iscrowd=1))
    made = content(
        rectangle(2, 0, 0, 20, 14, mask_source="wise"),
        rectangle(2, 45, 45, 10, 10, mask_source="wise"),
        rectangle(2, 10, 80, 40, 10, mask_source="wise"),  # a quarter of it in the crowd
    )
    found = benchmark.compare(made, real, {"mango"})
    np.testing.assert_allclose(found.ious, [0.7, 0, 0])
    figures = benchmark.figures(found)
    assert figures["objects"] == 1
    assert figures["precision 0.5"] == 50
    # One in the crowd that touches an object is its partner, but not where it does not fit.
    real["annotations"].append(rectangle(2, 30, 45, 16, 10))
    assert benchmark.figures(benchmark.compare(made, real, {"mango"}))["precision 0.5"] == 50


def test_boxes_are_compared_apart_from_masks(benchmark):
    real = content(rectangle(2, 0, 0, 20, 20), rectangle(2, 40, 40, 60, 60, iscrowd=1))
    made = content(
        rectangle(2, 0, 0, 20, 10, mask_source="wise"),
        rectangle(2, 45, 45, 10, 10, mask_source="wise"),
    )
    made["annotations"][0]["bbox"] = [0, 0, 20, 20]
    assert benchmark.compare(made, real, {"mango"}).ious.tolist() == [0.5, 0]
    assert benchmark.compare(made, real, {"mango"}, boxes=True).ious.tolist() == [1, 0]


def test_an_image_without_an_instance_counts(benchmark):
    found = benchmark.compare(content(), content(rectangle(2, 0, 0, 20, 20)), {"mango"})
    assert benchmark.figures(found)["mean IoU of objects"] == 0


def test_what_there_is_nothing_of(benchmark):
    boxed = rectangle(2, 0, 0, 20, 20)
    del boxed["segmentation"]
    made = content(rectangle(2, 0, 0, 20, 20, mask_source="wise"))
    by_mask = benchmark.figures(benchmark.compare(made, content(boxed), {"mango"}))
    assert by_mask["objects"] == 0 and np.isnan(by_mask["recall 0.5"])
    by_box = benchmark.compare(made, content(boxed), {"mango"}, boxes=True)
    assert benchmark.figures(by_box)["recall 0.75"] == 100
    nothing = benchmark.figures(benchmark.compare(content(), content(boxed), {"mango"}, True))
    assert nothing["recall 0.5"] == 0 and np.isnan(nothing["precision 0.5"])
