import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from maskx_d2.splits import (
    COCO_VOC_CLASSES,
    SHAPES,
    SHAPES_CLASSES,
    TEXTURES,
    ClassSplit,
    coco_a20b30c30,
    coco_nonvoc2voc,
    coco_random_splits,
    coco_voc2nonvoc,
    load_split,
    random_split,
    shapes_a18b9c9,
    shapes_a27b9,
)

CLASSES = ["cat", "dog", "cup", "car"]


def test_indices_follow_the_order_of_the_data_set():
    split = ClassSplit("s", {"car", "cat"}, {"dog", "cup"})
    assert split.indices(CLASSES) == ([0, 3], [1, 2])
    assert split.indices(CLASSES[::-1]) == ([0, 3], [1, 2])
    assert split.swapped("t") == ClassSplit(
        "t", frozenset({"dog", "cup"}), frozenset({"cat", "car"})
    )


def test_categories_of_which_only_image_labels_are_known():
    split = ClassSplit("s", {"car"}, {"dog"}, {"cup", "cat"})
    assert split.indices(CLASSES) == ([3], [1])
    assert split.labels_only_indices(CLASSES) == [0, 2]
    assert split.indices_of_sets(CLASSES) == {"A": [3], "B": [1], "C": [0, 2]}
    assert [split.set_of(c) for c in CLASSES] == ["C", "B", "C", "A"]
    # Nobody meets an empty set C.
    without = ClassSplit("s", {"car", "cat"}, {"dog", "cup"})
    assert without.labels_only_indices(CLASSES) == []
    assert list(without.sets) == list(without.indices_of_sets(CLASSES)) == ["A", "B"]


def test_swapping_leaves_c_where_it_is():
    split = ClassSplit("s", {"car"}, {"dog"}, {"cup", "cat"})
    assert split.swapped() == ClassSplit("s_swapped", {"dog"}, {"car"}, {"cup", "cat"})
    assert split.swapped().swapped("s") == split


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (ClassSplit("s", {"cat", "dgo"}, {"cup", "car"}), r"'dgo' \(did you mean 'dog'\?\)"),
        (ClassSplit("s", {"cat"}, {"cup", "car"}), r"does not say whether 'dog'"),
        (ClassSplit("s", {"cat"}, {"cup"}, {"car"}), r"does not say whether 'dog'.*labels_only"),
        (ClassSplit("s", {"cat"}, {"cup", "car"}, {"dgo"}), r"'dgo' \(did you mean 'dog'\?\)"),
    ],
)
def test_a_split_that_does_not_fit_is_an_error_that_names_the_categories(split, message):
    with pytest.raises(ValueError, match=message):
        split.indices(CLASSES)


def test_a_category_belongs_to_one_set():
    with pytest.raises(ValueError, match="'dog' in with_masks and in boxes_only"):
        ClassSplit("s", {"cat", "dog"}, {"dog"})
    with pytest.raises(ValueError, match="'cat' in with_masks and in labels_only"):
        ClassSplit("s", {"cat", "dog"}, {"cup"}, {"cat"})
    with pytest.raises(ValueError, match="'cup' in boxes_only and in labels_only"):
        ClassSplit("s", {"cat", "dog"}, {"cup"}, {"cup"})
    with pytest.raises(ValueError, match=r"labels_only must be a collection.*'cup'"):
        ClassSplit("s", {"cat", "dog"}, set(), "cup")
    with pytest.raises(KeyError, match="does not name 'car'"):
        ClassSplit("s", {"cat", "dog"}, {"cup"}).set_of("car")
    with pytest.raises(ValueError, match="with_masks is empty"):
        ClassSplit("s", set(), {"dog"})
    with pytest.raises(ValueError, match="not the single string 'cat'"):
        ClassSplit("s", "cat", {"dog"})


def test_from_with_masks_takes_the_rest_as_boxes_only():
    split = ClassSplit.from_with_masks("s", ["dog"], CLASSES)
    assert split.boxes_only == {"cat", "cup", "car"}
    with pytest.raises(ValueError, match="'dgo'"):
        ClassSplit.from_with_masks("s", ["dgo"], CLASSES)


def test_coco_presets_are_the_voc_categories_of_the_paper():
    classes = MetadataCatalog.get("coco_2017_train").thing_classes
    # Contiguous ids as in the authors' code.
    voc = [0, 1, 2, 3, 4, 5, 6, 8, 14, 15, 16, 17, 18, 19, 39, 56, 57, 58, 60, 62]
    with_masks, boxes_only = coco_voc2nonvoc(classes).indices(classes)
    assert with_masks == voc
    assert sorted(with_masks + boxes_only) == list(range(80))
    assert coco_nonvoc2voc(classes).indices(classes) == (boxes_only, with_masks)
    assert len(COCO_VOC_CLASSES) == 20


def test_shapes_preset_shows_each_shape_and_texture_with_masks():
    split = shapes_a27b9(SHAPES_CLASSES)
    with_masks, boxes_only = split.indices(SHAPES_CLASSES)
    assert (len(with_masks), len(boxes_only)) == (27, 9)
    for words in zip(*(name.split() for name in SHAPES_CLASSES)):
        for word in set(words):
            assert any(word in name.split() for name in split.with_masks)


def test_split_file_round_trip(tmp_path):
    path = tmp_path / "farm.json"
    path.write_text(json.dumps({"with_masks": ["cat"], "boxes_only": ["dog"]}))
    assert load_split(path) == ClassSplit("farm", frozenset({"cat"}), frozenset({"dog"}))
    path.write_text(
        json.dumps({"with_masks": ["cat"], "boxes_only": ["dog"], "labels_only": ["zebra"]})
    )
    assert load_split(path) == ClassSplit("farm", {"cat"}, {"dog"}, {"zebra"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"with_masks": ["cat"], "boxes_onyl": []}', "unknown key 'boxes_onyl'; did you mean"),
        ('{"with_masks": ["cat"]}', "needs the key 'boxes_only'"),
        ('{"with_masks": "cat", "boxes_only": []}', "needs the key 'with_masks' with a list"),
        ('{"with_masks": ["cat", "cat"], "boxes_only": []}', "lists 'cat' twice"),
        ('{"with_masks": ["cat"], "boxes_only": ["cat"]}', "'cat' in with_masks and"),
        (
            '{"with_masks": ["cat"], "boxes_only": [], "labels_only": "cup"}',
            "needs the key 'labels_only' with a list",
        ),
        ('{"with_masks": ["cat"], ', "is not valid JSON"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_bad_split_files_are_errors_that_name_the_file(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_split(path)
    assert str(path) in str(error.value)


def test_missing_split_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load_split(tmp_path / "nowhere.json")


def test_the_papers_25_random_splits():
    splits = coco_random_splits()
    assert len(splits) == 25
    names = [f"class {i}" for i in range(80)]
    rng = np.random.RandomState(3)  # np.random.seed(3) of the authors' code
    for trial in range(1, 6):
        for size in (20, 30, 40, 50, 60):
            chosen = rng.choice(80, size, replace=False)
            split = splits[f"E{trial}_A{size}B{80 - size}"](names)
            assert split.with_masks == {names[i] for i in chosen}
            assert split.name == f"E{trial}_A{size}B{80 - size}"
    # Pinned: a change of numpy's legacy generator would change what the names mean.
    a, _ = splits["E1_A20B60"](names).indices(names)
    assert a[:6] == [6, 8, 9, 12, 13, 27]
    with pytest.raises(ValueError, match="80 categories, but the data set has 3"):
        splits["E1_A20B60"](names[:3])


def test_random_split_of_any_data_set():
    names = [f"class {i}" for i in range(10)]
    split = random_split(names, 4, seed=1)
    assert len(split.with_masks) == 4 and split.with_masks | split.boxes_only == set(names)
    assert split == random_split(names, 4, seed=1)
    assert split.with_masks != random_split(names, 4, seed=2).with_masks
    assert split.name == "random_a4_seed1"
    for size in (0, 10, -1):
        with pytest.raises(ValueError, match="from 1 to 9"):
            random_split(names, size, seed=1)


def test_presets_with_image_labels():
    split = shapes_a18b9c9(SHAPES_CLASSES)
    assert {k: len(v) for k, v in split.sets.items()} == {"A": 18, "B": 9, "C": 9}
    assert split.boxes_only == shapes_a27b9(SHAPES_CLASSES).boxes_only
    assert {name.split()[0] for name in split.with_masks} == set(TEXTURES)
    assert {name.split()[1] for name in split.with_masks} == set(SHAPES)
    names = [f"other {i}" for i in range(60)] + sorted(COCO_VOC_CLASSES)
    sets = coco_a20b30c30(names).indices_of_sets(names)
    assert sets["A"] == list(range(60, 80))
    assert sets["B"] == list(range(0, 60, 2)) and sets["C"] == list(range(1, 60, 2))
