import numpy as np
import pytest

from maskx_d2.data.supervision import SupervisionSummary

MASK = [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]
CLASSES = ("cat", "dog", "cup", "car")


def instance(category, segmentation=None, **more):
    annotation = {"category_id": category, "bbox": [0, 0, 9, 9], **more}
    return annotation if segmentation is None else {**annotation, "segmentation": segmentation}


def summary():
    return SupervisionSummary.from_dataset_dicts(
        [
            {"annotations": [instance(0, MASK), instance(1), instance(2, MASK)]},
            {"annotations": [instance(2), instance(1, [])]},
            {"annotations": [instance(3, MASK, iscrowd=1)]},
            {},
        ],
        CLASSES,
    )


def test_boxes_and_masks_are_counted_by_category_and_crowds_apart():
    found = summary()
    assert found.thing_classes == CLASSES
    np.testing.assert_array_equal(found.boxes, [1, 2, 2, 0])
    np.testing.assert_array_equal(found.masks, [1, 0, 1, 0])
    assert found.sets == ("A", "B", "mixed", "-")
    assert found.num_images == 4
    assert found.images_without_boxes == 2
    assert found.images_without_masks == 1
    assert found.crowds == 1


def test_the_description_says_it_all_in_a_line():
    assert summary().describe("fruit") == (
        "fruit: 4 images, 5 boxes, 2 of them with a mask (40 %). 1 category with masks, 1 with "
        "boxes only, 1 mixed ('cup'), 1 without an instance; 1 image without a mask, 2 without "
        "a box."
    )


def test_a_description_names_some_of_many_mixed_categories():
    names = tuple(f"c{i}" for i in range(9))
    ones = np.ones(9, dtype=np.int64)
    text = SupervisionSummary(names, 2 * ones, ones, 0 * ones, 9, 0, 0).describe("many")
    assert "9 mixed ('c0', 'c1', 'c2', 'c3', 'c4' and 4 more)" in text


def test_a_data_set_without_instances_is_described():
    text = SupervisionSummary.from_dataset_dicts([{}], CLASSES).describe("empty")
    assert "1 image, 0 boxes, 0 of them with a mask." in text


def test_categories_with_image_labels_only_are_set_c():
    found = SupervisionSummary.from_dataset_dicts(
        [
            {"annotations": [instance(0, MASK), instance(1)], "image_labels": [0, 1, 2]},
            {"annotations": [instance(3, MASK, iscrowd=1)], "image_labels": [1, 2, 3]},
        ],
        CLASSES,
    )
    # A label says something only where there is no annotation: the second image has a dog, too.
    np.testing.assert_array_equal(found.labels, [0, 1, 2, 0])
    assert found.sets == ("A", "B", "C", "-")
    assert found.describe("fruit") == (
        "fruit: 2 images, 2 boxes, 1 of them with a mask (50 %). 1 category with masks, 1 with "
        "boxes only, 1 with image labels only (2 labels), 0 mixed, 1 without an instance; 0 images "
        "without a mask, 1 without a box."
    )
    with pytest.raises(ValueError, match=r"'a\.jpg' has the image label 4"):
        SupervisionSummary.from_dataset_dicts(
            [{"file_name": "a.jpg", "image_labels": [4]}], CLASSES
        )


def test_a_category_out_of_range_is_an_error_that_names_the_image():
    record = {"file_name": "a.jpg", "annotations": [instance(4)]}
    with pytest.raises(ValueError, match=r"'a\.jpg' has an annotation of category 4"):
        SupervisionSummary.from_dataset_dicts([record], CLASSES)


def test_one_number_a_category_is_demanded():
    with pytest.raises(ValueError, match="'masks' has the shape"):
        SupervisionSummary(("a", "b"), np.zeros(2), np.zeros(3), np.zeros(2), 0, 0, 0)
