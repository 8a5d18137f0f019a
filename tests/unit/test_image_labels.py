"""Categories of which only image labels are known: their boxes reach no training."""

import copy
import json

import pytest
from conftest import write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import ClassSplit
from maskx_d2.data import PartialMaskDatasetMapper, keep_labels_only, register_partial
from maskx_d2.data.coco_json import load_coco_json

CATEGORIES = {1: "cat", 4: "dog", 7: "cup", 10: "car"}
SPLIT = ClassSplit("pets", {"cat", "dog"}, {"cup"}, {"car"})
UNLISTED = [{"image_id": 9, "annotations": []}, {"image_id": 10, "image_labels": [3]}]


def images():
    def annotation(category_id, **more):
        return {"category_id": category_id, "bbox": [0, 0, 9, 9], "iscrowd": 0, **more}

    return [
        {"image_id": 7, "annotations": [annotation(3), annotation(0), annotation(3)]},
        {"image_id": 8, "annotations": [annotation(3, iscrowd=1)], "image_labels": [1]},
        *copy.deepcopy(UNLISTED),
    ]


def test_instances_of_c_go_and_every_image_says_what_is_in_it():
    given = images()
    kept = keep_labels_only(given, {3})
    assert given == images()
    assert [r["image_id"] for r in kept] == [7, 8, 9, 10]
    assert [[a["category_id"] for a in r["annotations"]] for r in kept] == [[0], [], [], []]
    assert [r["image_labels"] for r in kept] == [[0, 3], [1, 3], [], [3]]
    assert keep_labels_only(kept, {3}) == kept


def test_without_categories_only_labels_are_added():
    for before, after in zip(images(), keep_labels_only(images())):
        assert after.pop("image_labels") is not None
        before.pop("image_labels", None)
        assert after == {"annotations": [], **before}


@pytest.fixture
def coco(tmp_path):
    """A COCO file of four images with one object of each category; ``change`` may change it."""

    def make(change=lambda data: None):
        json_file, folder = write_coco(tmp_path)
        data = json.loads(json_file.read_text())
        change(data)
        json_file.write_text(json.dumps(data))
        return str(json_file), str(folder)

    return make


def say(labels):
    """Image 2 says ``labels`` and has a cat alone."""

    def change(data):
        data["images"][1]["image_labels"] = labels
        data["annotations"] = [
            a for a in data["annotations"] if a["image_id"] != 2 or a["category_id"] == 1
        ]

    return change


def test_a_file_may_say_labels_itself(coco):
    records = load_coco_json(*coco(say([10, 7, 10])), CATEGORIES)
    assert [r["image_labels"] for r in records] == [[0, 1, 2, 3], [0, 2, 3], *[[0, 1, 2, 3]] * 2]
    assert [len(r["annotations"]) for r in records] == [4, 1, 4, 4]


def test_a_file_without_labels_has_none(coco):
    assert not any("image_labels" in r for r in load_coco_json(*coco(), CATEGORIES))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 5], r"annotations\.json: image 2: image_labels has 5, which is no category's id"),
        ([True], r"image 2: image_labels has True, which"),
        (["car"], r"image 2: image_labels has 'car', which"),
        ([[1]], r"image 2: image_labels has \[1\], which"),
        ("car", r"image 2: image_labels is 'car', not a list of category ids such as \[1, 7\]"),
    ],
)
def test_labels_that_cannot_be_used_are_named(coco, labels, message):
    with pytest.raises(ValueError, match=message):
        load_coco_json(*coco(say(labels)), CATEGORIES)


def test_an_image_of_nothing_but_c_stays(coco):
    def only_a_car(data):
        data["annotations"] = [a for a in data["annotations"] if a["category_id"] == 10]

    records = load_coco_json(*coco(only_a_car), CATEGORIES, labels_only={3})
    assert [(r["annotations"], r["image_labels"]) for r in records] == [([], [3])] * 4


@pytest.mark.usefixtures("no_registration_left")
def test_boxes_of_c_are_not_in_a_training_set_and_in_an_evaluation_set(coco):
    json_file, folder = coco(lambda data: data["images"][0].update(image_labels=[1]))
    register_coco_instances("base", {}, json_file, folder)
    register_partial("train", base="base", split=SPLIT)
    register_partial("val", base="base", split=SPLIT, keep_masks=True)
    for record in DatasetCatalog.get("train"):
        annotations = [(a["category_id"], "segmentation" in a) for a in record["annotations"]]
        assert annotations == [(0, True), (1, True), (2, False)]
        assert record["image_labels"] == [0, 1, 2, 3]
    for record in DatasetCatalog.get("val"):
        assert [a["category_id"] for a in record["annotations"] if "segmentation" in a] == [
            *range(4)
        ]
        assert record["image_labels"] == [0, 1, 2, 3]


@pytest.mark.usefixtures("no_registration_left")
def test_data_sets_in_memory_lose_their_boxes_of_c_too():
    dicts = images()
    DatasetCatalog.register("in_memory", lambda: dicts)
    MetadataCatalog.get("in_memory").thing_classes = list(CATEGORIES.values())
    register_partial("train", base="in_memory", split=SPLIT)
    register_partial("val", base="in_memory", split=SPLIT, keep_masks=True)
    assert DatasetCatalog.get("train") == keep_labels_only(images(), {3})
    assert DatasetCatalog.get("val") == keep_labels_only(images())
    assert dicts == images()


@pytest.mark.usefixtures("no_registration_left")
def test_wherever_the_objects_of_c_are_the_samples_are_the_same(tmp_path):
    """From the JSON file to the training sample, boxes and masks of C make no difference."""
    json_file, folder = write_coco(tmp_path)
    content = json.loads(json_file.read_text())
    samples = {}
    for poison in (False, True):
        for a in content["annotations"]:
            if poison and a["category_id"] == 10:
                a["bbox"], a["segmentation"] = [0, 0, 60, 40], [[0, 0, 60, 0, 60, 40]]
        poisoned = tmp_path / f"{poison}.json"
        poisoned.write_text(json.dumps(content))
        register_coco_instances(f"base{poison}", {}, str(poisoned), str(folder))
        register_partial(f"partial{poison}", base=f"base{poison}", split=SPLIT)
        mapper = PartialMaskDatasetMapper(
            is_train=True, augmentations=[], image_format="BGR", use_instance_mask=True
        )
        samples[poison] = [mapper(r) for r in DatasetCatalog.get(f"partial{poison}")]
    for one, another in zip(samples[False], samples[True]):
        assert one["image_labels"] == another["image_labels"] == [0, 1, 2, 3]
        clean, other = one["instances"], another["instances"]
        assert clean.gt_classes.tolist() == other.gt_classes.tolist() == [0, 1, 2]
        assert clean.gt_boxes.tensor.equal(other.gt_boxes.tensor)
        assert clean.gt_has_mask.equal(other.gt_has_mask)
