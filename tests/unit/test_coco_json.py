"""Reading COCO files: the same as detectron2's loader where it is right, and no box lost."""

import json
from pathlib import Path

import pytest
from conftest import write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json as load_stock
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import ClassSplit
from maskx_d2.data import has_mask, register_partial
from maskx_d2.data.coco_json import load_coco_json
from maskx_d2.data.coco_reader import read_categories, read_section

CATEGORIES = {1: "cat", 4: "dog", 7: "cup", 10: "car"}


@pytest.fixture
def coco(tmp_path):
    """Change a small COCO file by a function, and return its path and its image folder."""

    def make(change=lambda data: None):
        json_file, images = write_coco(tmp_path)
        data = json.loads(json_file.read_text())
        change(data)
        json_file.write_text(json.dumps(data))
        return str(json_file), str(images)

    return make


def without_ids(dataset_dicts):
    return [
        {
            **record,
            "annotations": [
                {k: v for k, v in a.items() if k != "id"} for a in record["annotations"]
            ],
        }
        for record in dataset_dicts
    ]


def test_it_gives_what_detectron2_gives(coco):
    def change(data):
        data["images"].reverse()
        data["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [10, 20, 3042]}
        data["annotations"][1]["segmentation"].append([1, 2, 3, 4])
        data["annotations"][2]["keypoints"] = [10, 10, 2, 0, 0, 0]
        data["annotations"][3]["iscrowd"] = 1
        data["annotations"][4]["segmentation"] = []
        data["annotations"][5]["segmentation"] = None
        del data["annotations"][6]["segmentation"]

    json_file, images = coco(change)
    assert without_ids(load_coco_json(json_file, images, CATEGORIES)) == load_stock(
        json_file, images, "a set of no name"
    )
    MetadataCatalog.remove("a set of no name")


def test_it_gives_what_detectron2_gives_on_photographs(photographs):
    json_file = photographs / "coco" / "annotations" / "instances_train2017.json"
    categories = read_categories(json_file)
    ours = load_coco_json(str(json_file), "train2017", categories)
    stock = load_stock(str(json_file), "train2017", "photographs of no name")
    MetadataCatalog.remove("photographs of no name")
    assert without_ids(ours) == stock


def test_a_box_whose_polygons_are_all_too_short_stays(coco):
    json_file, images = coco(
        lambda data: data["annotations"][0].update(segmentation=[[1, 2, 3, 4], [5, 6]])
    )
    boxes = [len(r["annotations"]) for r in load_coco_json(json_file, images, CATEGORIES)]
    assert boxes == [4, 4, 4, 4]
    assert [len(r["annotations"]) for r in load_stock(json_file, images, None)] == [3, 4, 4, 4]


def test_unwanted_masks_are_dropped_and_nothing_else(coco):
    json_file, images = coco()
    full = load_coco_json(json_file, images, CATEGORIES)
    partial = load_coco_json(json_file, images, CATEGORIES, boxes_only={1, 3})
    for record, original in zip(partial, full):
        for annotation, before in zip(record["annotations"], original["annotations"]):
            if before["category_id"] in (1, 3):
                before.pop("segmentation")
            assert annotation == before


@pytest.mark.usefixtures("no_registration_left")
@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_sections_does_not_matter(coco, order):
    json_file, images = coco()
    data = json.loads(Path(json_file).read_text())
    Path(json_file).write_text(json.dumps(dict(list(data.items())[::order])))
    register_coco_instances("pets", {}, json_file, images)
    split = ClassSplit("pets", {"cat", "cup"}, {"dog", "car"})
    register_partial("pets_partial", base="pets", split=split)
    for record in DatasetCatalog.get("pets_partial"):
        assert [has_mask(a) for a in record["annotations"]] == [True, False, True, False]
    assert MetadataCatalog.get("pets").thing_classes == list(CATEGORIES.values())
    assert MetadataCatalog.get("pets_partial").thing_dataset_id_to_contiguous_id[10] == 3


def bad(section, number, **changes):
    def change(data):
        for key, value in changes.items():
            if value is None:
                data[section][number].pop(key)
            else:
                data[section][number][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad("annotations", 5, bbox=None), r"annotation 6 of image 2 needs a 'bbox'"),
        (bad("annotations", 5, bbox=[1, 2, 3]), r"annotation 6 .*four numbers.*\[1, 2, 3\]"),
        (bad("annotations", 5, category_id=5), r"annotation 6 .*category_id 5.*'categories'"),
        (bad("annotations", 5, ignore=1), r"annotation 6 of image 2 is marked 'ignore'"),
        (bad("annotations", 5, iscrowd="1"), r"annotation 6 of image 2: iscrowd is '1'"),
        (bad("annotations", 5, segmentation=[1, 2, 3, 4, 5, 6]), r"annotation 6 .*\[\[x1, y1"),
        (bad("annotations", 5, mask_weight=2), r"annotation 6 of image 2: mask_weight is 2"),
        (bad("annotations", 5, id=3), r"1 annotation ids .*such as 3"),
        (bad("annotations", 5, id="six"), r"annotation six .*integer 'id'"),
        (bad("images", 2, id=1), r"two images have the id 1"),
        (bad("images", 2, id="3"), r"images have the ids 1 and '3'; make all of them numbers"),
        (bad("images", 2, width=None), r"image 3 has no 'width'"),
    ],
)
def test_what_cannot_be_used_is_named(coco, change, message):
    json_file, images = coco(change)
    with pytest.raises(ValueError, match=message):
        load_coco_json(json_file, images, CATEGORIES)


def test_nothing_is_said_of_crowds_by_none(coco):
    def change(data):
        for annotation in data["annotations"]:
            annotation.update(iscrowd=None, ignore=None, area=None)

    loaded = load_coco_json(*coco(change), CATEGORIES)
    assert {a["iscrowd"] for record in loaded for a in record["annotations"]} == {0}


def test_annotations_of_unlisted_images_are_counted_in_a_warning(coco, caplog):
    json_file, images = coco(bad("annotations", 5, image_id=77))
    with caplog.at_level("WARNING", logger="maskx_d2"):
        load_coco_json(json_file, images, CATEGORIES)
    assert "1 annotations belong to images that are not in the file" in caplog.text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it may have been cut off"),
        (b"{", "it may have been cut off"),
        (b'{"annotations": [{"id": 1, "segmentation": NaN}]}', "NaN and Infinity are .*"),
        (b'{"categories": [{"id": 9223372036854775808}]}', "integers are to be below .*"),
        (b'\n {"categories": [{"id": 1', "it may have been cut off"),
        (b'\xef\xbb\xbf{"images": []}', "it begins with a byte order mark; save .*"),
        ('{"images": []}'.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (b"not json", "it is another kind of file; name a COCO JSON file"),
        (b"\x89PNG\r\n\x1a\n\xff", "it is another kind of file; name a COCO JSON file"),
    ],
)
def test_a_file_that_is_not_json_is_said_to_be_none(tmp_path, content, why):
    path = tmp_path / "cut.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cut\.json is not valid JSON: [^b].* bytes\); {why}\.$"):
        list(read_section(path, "images", progress=False))


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "has no 'categories', or an empty list of them"),
        ([{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}], "'cat' and 'dog' share the id 1"),
        ([{"id": 1}], "needs an 'id' and a 'name'"),
        ([{"id": 1, "name": 7}], "needs a whole number as its id and text as its name"),
        ([{"id": "1", "name": "cat"}], "needs a whole number as its id and text as its name"),
        (["cat"], "entry 0 of 'categories' is 'cat'"),
    ],
)
def test_categories_that_cannot_be_used(coco, categories, message):
    json_file, _ = coco(lambda data: data.update(categories=categories))
    with pytest.raises(ValueError, match=message):
        read_categories(json_file, progress=False)


@pytest.mark.usefixtures("no_registration_left")
def test_a_file_with_other_categories_than_registered(coco):
    json_file, images = coco()
    register_coco_instances("pets", {"thing_classes": ["cat", "dog"]}, json_file, images)
    register_partial("pets_partial", base="pets")
    with pytest.raises(ValueError, match=r"registered with 2 categories.*has 4.*'cup'"):
        DatasetCatalog.get("pets_partial")


@pytest.mark.usefixtures("no_registration_left")
def test_ids_that_are_numbered_otherwise_than_in_their_order(coco):
    json_file, images = coco()
    names = list(CATEGORIES.values())
    ids = dict(zip(sorted(CATEGORIES, reverse=True), range(len(names))))
    meta = {"thing_classes": names, "thing_dataset_id_to_contiguous_id": ids}
    register_coco_instances("pets", meta, json_file, images)
    register_partial("pets_partial", base="pets")
    with pytest.raises(ValueError, match=r"'pets': thing_dataset_id_to_contiguous_id does not"):
        DatasetCatalog.get("pets_partial")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [48, 64], "counts": [100, 50]}, "150 pixels long"),
        ({"size": [48, 64], "counts": "T3b1"}, "pixels long"),
        ({"size": [48, 64]}, "counts are None"),
        ({"counts": "T3b1"}, "size is None"),
    ],
)
def test_an_rle_that_cannot_be_read_is_named(coco, segmentation, message):
    json_file, images = coco(lambda data: data["annotations"][4].update(segmentation=segmentation))
    with pytest.raises(ValueError, match=f"annotation 5 of image 2: .*{message}"):
        load_coco_json(json_file, images, CATEGORIES)


def test_an_rle_without_counts_is_a_box(coco):
    empty = {"size": [48, 64], "counts": ""}
    json_file, images = coco(lambda data: data["annotations"][4].update(segmentation=empty))
    annotations = load_coco_json(json_file, images, CATEGORIES)[1]["annotations"]
    assert ["segmentation" in a for a in annotations] == [False, True, True, True]


def test_sizes_of_tables_are_whole_numbers(coco):
    json_file, images = coco(lambda data: data["images"][0].update(height=48.0))
    assert type(load_coco_json(json_file, images, CATEGORIES)[0]["height"]) is int
    for wrong in (48.5, "48", None):
        json_file, images = coco(lambda data: data["images"][0].update(height=wrong))  # noqa: B023
        with pytest.raises(ValueError, match=r"image 1 has a height of .*, not a whole number"):
            load_coco_json(json_file, images, CATEGORIES)


def test_masks_that_were_made_say_so(coco):
    json_file, images = coco(lambda data: data["annotations"][0].update(mask_source="grabcut"))
    first, second, *_ = load_coco_json(json_file, images, CATEGORIES)[0]["annotations"]
    assert first["mask_source"] == "grabcut" and "mask_source" not in second
