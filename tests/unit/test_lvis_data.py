"""LVIS's files and splits: as detectron2 reads them, without what no training may see."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta, register_lvis_instances
from detectron2.data.datasets.lvis import load_lvis_json as load_stock
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from maskx_d2 import ClassSplit
from maskx_d2.data import class_split_of, has_mask, register_partial
from maskx_d2.data.lvis import lvis_coco, lvis_frequent
from maskx_d2.data.lvis_json import load_lvis_json

pytestmark = pytest.mark.usefixtures("no_registration_left")
V1 = get_lvis_instances_meta("lvis_v1")["thing_classes"]
FREQUENCY = {c["synonyms"][0]: c["frequency"] for c in LVIS_CATEGORIES}


def write_lvis(folder, **changes):
    """Two images of COCO's two folders with three objects each, in LVIS v1's categories."""
    url = "http://images.cocodataset.org"
    shared = {"height": 50, "width": 60}
    images = [
        {"id": 9, "coco_url": f"{url}/val2017/000000000009.jpg", **shared}
        | {"neg_category_ids": [3, 4], "not_exhaustive_category_ids": []},
        {"id": 5, "coco_url": f"{url}/train2017/000000000005.jpg", **shared}
        | {"neg_category_ids": [], "not_exhaustive_category_ids": [793]},
    ]
    annotations = [
        {"id": 10 * image["id"] + k, "image_id": image["id"], "category_id": category_id}
        | {"bbox": [2, 3, 20, 20], "area": 400, "segmentation": [[2, 3, 22, 3, 22, 23]]}
        for image in images
        for k, category_id in enumerate((793, 1203, 1))  # person; zucchini; aerosol can
    ]
    keys = ("id", "name", "frequency", "synset")
    categories = [{k: c[k] for k in keys} for c in LVIS_CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories, **changes}
    file = folder / "lvis.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_it_gives_what_detectron2_gives(tmp_path):
    pytest.importorskip("lvis", reason="needs the package lvis (pip install --no-deps lvis==0.5.3)")
    file = write_lvis(tmp_path)
    categories = dict(enumerate(V1, start=1))
    ours = load_lvis_json(file, f"{tmp_path}/", categories)
    for record in ours:
        for annotation in record["annotations"]:
            del annotation["id"], annotation["iscrowd"]
    assert ours == load_stock(file, f"{tmp_path}/", "lvis_v1_like")
    assert ours[1]["file_name"] == f"{tmp_path}/val2017/000000000009.jpg"


def test_labels_of_images(tmp_path):
    file = Path(write_lvis(tmp_path))
    content = json.loads(file.read_text())
    content["images"][1]["image_labels"] = [2, 1]
    file.write_text(json.dumps(content))
    records = load_lvis_json(str(file), f"{tmp_path}/", dict(enumerate(V1, start=1)))
    assert [r["image_labels"] for r in records] == [[0, 1, 792, 1202], [0, 792, 1202]]
    content["images"][1]["image_labels"] = [0]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lvis\.json: image 5: image_labels has 0"):
        load_lvis_json(str(file), f"{tmp_path}/", dict(enumerate(V1, start=1)))


def test_a_registered_data_set_without_the_masks_of_b(tmp_path):
    file = write_lvis(tmp_path)
    register_lvis_instances("toy", get_lvis_instances_meta("lvis_v1"), file, str(tmp_path))
    register_partial("toy_coco", base="toy", split=lvis_coco)
    assert class_split_of("toy_coco").name == "coco", "known without reading the file"
    records = DatasetCatalog.get("toy_coco")
    assert [r["image_id"] for r in records] == [5, 9]
    assert records[0]["not_exhaustive_category_ids"] == [793]
    assert records[1]["neg_category_ids"] == [3, 4]
    for record in records:
        categories = [V1[a["category_id"]] for a in record["annotations"]]
        assert categories == ["person", "zucchini", "aerosol_can"]
        assert [has_mask(a) for a in record["annotations"]] == [True, False, False]
    metadata = MetadataCatalog.get("toy_coco")
    assert metadata.evaluator_type == "lvis" and metadata.json_file == file
    assert metadata.thing_dataset_id_to_contiguous_id[793] == 792


def test_categories_of_ones_own(tmp_path):
    categories = [{"id": i, "name": f"c{i}", "frequency": "f"} for i in (1, 793, 1203)]
    file = write_lvis(tmp_path, categories=categories)
    register_lvis_instances("own", {}, file, str(tmp_path))
    split = ClassSplit("s", {"c793"}, {"c1", "c1203"})
    register_partial("own_split", base="own", split=split)
    records = DatasetCatalog.get("own_split")
    assert [a["category_id"] for a in records[0]["annotations"]] == [1, 2, 0]
    assert MetadataCatalog.get("own_split").thing_classes == ["c1", "c793", "c1203"]


@pytest.mark.parametrize("key", ["id", "height", "coco_url"])
def test_an_image_that_cannot_be_used_is_named(tmp_path, key):
    image = {"id": 5, "height": 5, "width": 5, "coco_url": "http://host/val2017/5.jpg"}
    del image[key]
    file = write_lvis(tmp_path, images=[image])
    expected = "neither 'coco_url' nor 'file_name'" if key == "coco_url" else f"no '{key}'"
    with pytest.raises(ValueError, match=rf"lvis\.json: image (5|None) has {expected}"):
        load_lvis_json(file, str(tmp_path), {1: "a"})


def test_sizes_are_whole_pixels(tmp_path):
    image = {"id": 5, "height": 5.0, "width": 5, "file_name": "5.jpg"}
    file = write_lvis(tmp_path, images=[image], annotations=[])
    (record,) = load_lvis_json(file, str(tmp_path), {1: "a"})
    assert type(record["height"]) is int
    file = write_lvis(tmp_path, images=[{**image, "width": 5.5}])
    with pytest.raises(ValueError, match=r"image 5 has a width of 5\.5, not a whole number"):
        load_lvis_json(file, str(tmp_path), {1: "a"})


def test_two_images_of_one_id_are_refused(tmp_path):
    image = {"id": 5, "height": 5, "width": 5, "file_name": "5.jpg"}
    file = write_lvis(tmp_path, images=[image, image])
    with pytest.raises(ValueError, match="two images have the id 5"):
        load_lvis_json(file, str(tmp_path), {1: "a"})


def test_the_split_by_coco():
    split = lvis_coco(V1)
    assert (len(split.with_masks), len(split.boxes_only)) == (79, 1124)
    # Called otherwise by COCO: tie, couch, potted plant, tv, hair drier, cow (synset beef.n.01).
    others = {"necktie", "sofa", "flowerpot", "television_set", "hair_dryer", "cow"}
    assert others | {"person", "handbag", "suitcase"} <= split.with_masks
    assert {"sausage", "shoe", "bun"} <= split.boxes_only, "there is no hot dog"
    assert {FREQUENCY[c] for c in split.with_masks} == {"f"}


def test_the_split_by_frequency():
    split = lvis_frequent(V1)
    assert (len(split.with_masks), len(split.boxes_only)) == (405, 461 + 337)
    assert {FREQUENCY[c] for c in split.boxes_only} == {"c", "r"}


def test_splits_take_the_names_of_the_file_and_of_nothing_else():
    names = [c["name"] for c in sorted(LVIS_CATEGORIES, key=lambda c: c["id"])]
    assert names != V1
    assert len(lvis_frequent(names).with_masks) == 405
    with pytest.raises(ValueError, match=r"split 'coco' is of LVIS v1's .* don't have 'hot dog'"):
        lvis_coco(["person", "hot dog"])


def test_the_presets_know_their_splits_and_need_no_data():
    for part, keeps in (("train", False), ("val", True)):
        for name, size in (("coco", 79), ("frequent", 405)):
            metadata = MetadataCatalog.get(f"lvis_v1_{part}_{name}")
            assert len(metadata.class_split.with_masks) == size
            assert metadata.has_masks_of_boxes_only is keeps
            assert metadata.evaluator_type == "lvis"
            assert metadata.json_file.endswith(f"lvis/lvis_v1_{part}.json")
        assert class_split_of(f"lvis_v1_{part}_all") is None
    with pytest.raises(FileNotFoundError, match="lvis_v1_train_coco"):
        DatasetCatalog.get("lvis_v1_train_coco")
