import json

import numpy as np
import pytest
from conftest import write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import ClassSplit
from maskx_d2.data import PartialMaskDatasetMapper, class_split_of, register_partial
from maskx_d2.data.presets import register_presets

pytestmark = pytest.mark.usefixtures("no_registration_left")

SPLIT = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})


@pytest.fixture
def base(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path)
    register_coco_instances("base", {}, str(json_file), str(images))
    return json_file


@pytest.mark.usefixtures("base")
def test_masks_of_b_never_enter_memory_and_boxes_stay():
    register_partial("base_pets", base="base", split=SPLIT)
    full, partial = DatasetCatalog.get("base"), DatasetCatalog.get("base_pets")
    assert len(full) == len(partial) == 4
    for one, other in zip(full, partial):
        assert len(one["annotations"]) == len(other["annotations"]) == 4
        for a, b in zip(one["annotations"], other["annotations"]):
            assert a["bbox"] == b["bbox"]
            if a["category_id"] in (0, 1):
                assert {**a, "id": b["id"]} == b
            else:
                assert "segmentation" not in b
    assert all("segmentation" in a for r in DatasetCatalog.get("base") for a in r["annotations"])


@pytest.mark.usefixtures("base")
def test_metadata_is_that_of_the_base_with_the_split():
    register_partial("base_pets", base="base", split=SPLIT)
    DatasetCatalog.get("base_pets")
    base, partial = MetadataCatalog.get("base"), MetadataCatalog.get("base_pets")
    for key in ("json_file", "image_root", "thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert partial.get(key) == base.get(key)
    assert class_split_of("base_pets") == SPLIT
    assert class_split_of("base") is None


@pytest.mark.usefixtures("base")
def test_evaluation_data_keeps_its_masks():
    register_partial("base_pets", base="base", split=SPLIT, keep_masks=True)
    assert all(
        "segmentation" in a for r in DatasetCatalog.get("base_pets") for a in r["annotations"]
    )
    assert class_split_of("base_pets") == SPLIT


@pytest.mark.usefixtures("base")
def test_split_as_a_file_or_a_function(tmp_path):
    path = tmp_path / "pets.json"
    path.write_text(json.dumps({"with_masks": ["cat", "dog"], "boxes_only": ["cup", "car"]}))
    register_partial("from_file", base="base", split=str(path))
    register_partial(
        "from_function",
        base="base",
        split=lambda classes: ClassSplit.from_with_masks("pets", ["cat", "dog"], classes),
    )
    for name in ("from_file", "from_function"):
        DatasetCatalog.get(name)
        assert class_split_of(name) == SPLIT


@pytest.mark.usefixtures("base")
def test_a_mistake_can_be_corrected_and_a_name_used_again():
    MetadataCatalog.get("base").thing_classes = ["cat", "dog", "cup", "car"]
    with pytest.raises(ValueError, match="'cta'"):
        register_partial("again", base="base", split=ClassSplit("s", {"cta"}, {"dog"}))
    for split in (SPLIT, SPLIT.swapped("swapped")):
        register_partial("again", base="base", split=split)
        assert class_split_of("again") == split
        for record in DatasetCatalog.get("again"):
            for a in record["annotations"]:
                name = MetadataCatalog.get("again").thing_classes[a["category_id"]]
                assert ("segmentation" in a) is (name in split.with_masks)
        DatasetCatalog.remove("again")


@pytest.mark.usefixtures("base")
def test_a_base_that_is_partial_itself_has_another_split():
    register_partial("first", base="base", split=SPLIT, keep_masks=True)
    register_partial("second", base="first", split=SPLIT.swapped("swapped"))
    assert class_split_of("second").name == "swapped"
    assert MetadataCatalog.get("second").has_masks_of_boxes_only is False


@pytest.mark.usefixtures("base")
def test_the_split_is_known_before_anyone_has_loaded_the_data():
    register_partial("base_pets", base="base", split=SPLIT)
    assert class_split_of("base_pets") == SPLIT


@pytest.mark.usefixtures("no_registration_left")
def test_poisoned_masks_of_b_leave_the_samples_bit_identical(tmp_path):
    """From the JSON file to the training sample, masks of B make no difference."""
    json_file, images = write_coco(tmp_path)
    content = json.loads(json_file.read_text())
    samples = {}
    for poison in (False, True):
        for a in content["annotations"]:
            if poison and a["category_id"] in (7, 10):  # cup and car
                a["segmentation"] = [[0, 0, 60, 0, 60, 40]]
        poisoned = tmp_path / f"{poison}.json"
        poisoned.write_text(json.dumps(content))
        register_coco_instances(f"base{poison}", {}, str(poisoned), str(images))
        register_partial(f"partial{poison}", base=f"base{poison}", split=SPLIT)
        mapper = PartialMaskDatasetMapper(
            is_train=True, augmentations=[], image_format="BGR", use_instance_mask=True
        )
        samples[poison] = [mapper(r)["instances"] for r in DatasetCatalog.get(f"partial{poison}")]
    for clean, poisoned in zip(samples[False], samples[True]):
        assert (
            clean.gt_has_mask.tolist() == poisoned.gt_has_mask.tolist() == [True] * 2 + [False] * 2
        )
        assert clean.gt_boxes.tensor.equal(poisoned.gt_boxes.tensor)
        for a, b in zip(clean.gt_masks.polygons, poisoned.gt_masks.polygons):
            np.testing.assert_array_equal(a, b)


def test_any_registered_data_set_will_do_and_is_not_modified():
    dicts = [{"annotations": [{"category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": [[0] * 6]}]}]
    DatasetCatalog.register("in_memory", lambda: dicts)
    MetadataCatalog.get("in_memory").thing_classes = ["cat", "cup"]
    register_partial("partial", base="in_memory", split=ClassSplit("s", {"cat"}, {"cup"}))
    assert "segmentation" not in DatasetCatalog.get("partial")[0]["annotations"][0]
    assert "segmentation" in dicts[0]["annotations"][0]


def test_bad_input_is_one_clear_sentence(base, tmp_path):
    def load(name, **kwargs):
        register_partial(name, **{"base": "base", "split": SPLIT, **kwargs})
        DatasetCatalog.get(name)

    with pytest.raises(ValueError, match="'base' is registered already"):
        load("base")
    with pytest.raises(KeyError, match="made from 'bsae', which is not registered"):
        load("wrong_base", base="bsae")
    with pytest.raises(ValueError, match=r"names 'cta' \(did you mean 'cat'\?\)"):
        load("unknown", split=ClassSplit("s", {"cta", "dog"}, {"cup", "car"}))
    with pytest.raises(ValueError, match="does not say whether 'car'"):
        load("uncovered", split=ClassSplit("s", {"cat", "dog"}, {"cup"}))
    with pytest.raises(FileNotFoundError, match=r"split file '.*nowhere\.json' does not exist"):
        load("no_split_file", split=str(tmp_path / "nowhere.json"))
    DatasetCatalog.register("nameless", list)
    with pytest.raises(ValueError, match="'nameless' does not name its categories"):
        load("no_names", base="nameless")
    base.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"annotations\.json' \(json_file of 'base'\), which"
    ):
        load("no_json")


def test_presets():
    names = DatasetCatalog.list()
    for base in ("coco_2017_train", "coco_2017_val"):
        for split in ("voc2nonvoc", "nonvoc2voc"):
            metadata = MetadataCatalog.get(f"{base}_{split}")
            assert metadata.class_split.name == split
            assert metadata.has_masks_of_boxes_only is (base == "coco_2017_val")
            assert metadata.json_file == MetadataCatalog.get(base).json_file
    assert {"shapes_train_a27b9", "shapes_val_a27b9", "shapes_test_a27b9"} <= set(names)
    assert {"emoji40_train", "emoji600_test_seen", "coco_2017_train_E5_A60B20"} <= set(names)
    assert {"visual_genome_train", "coco_2017_train_vg3k_coco80"} <= set(names)
    with pytest.raises(AssertionError, match="already registered"):
        register_presets()


def test_coco_presets_on_the_photographs(photographs):
    full = DatasetCatalog.get("coco_2017_train")
    voc = MetadataCatalog.get("coco_2017_train_voc2nonvoc").class_split.with_masks
    classes = MetadataCatalog.get("coco_2017_train").thing_classes
    for name, a_is_voc in (("voc2nonvoc", True), ("nonvoc2voc", False)):
        partial = DatasetCatalog.get(f"coco_2017_train_{name}")
        seen = 0
        for one, other in zip(full, partial):
            for a, b in zip(one["annotations"], other["annotations"]):
                assert a["bbox"] == b["bbox"]
                in_a = (classes[a["category_id"]] in voc) is a_is_voc
                assert ("segmentation" in b) is in_a
                seen += 1
        assert seen == 2974


def test_without_a_split_nothing_is_loaded_to_look_for_one(base, monkeypatch):
    register_partial("base_all", base="base")
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: pytest.fail(f"{name} is loaded"))
    assert class_split_of("base_all") is None
