"""Data sets that a yaml file names."""

import json
import subprocess
import sys

import pytest
from conftest import write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog

from maskx_d2.data import has_mask
from maskx_d2.data.dataset_file import register_datasets_of_file

pytestmark = pytest.mark.usefixtures("no_registration_left")

FILE = """
pets_train: {json: data/annotations.json, images: data, split: pets.json}
pets_val:
  json: data/annotations.json
  images: data
  split: pets.json
  keep_masks: true
all_pets: {json: data/annotations.json, images: data}
more_pets: {base: all_pets, split: pets.json}
"""


@pytest.fixture
def file(tmp_path):
    write_coco(tmp_path / "data")
    split = {"with_masks": ["cat", "dog"], "boxes_only": ["cup", "car"]}
    (tmp_path / "pets.json").write_text(json.dumps(split))
    path = tmp_path / "pets.yaml"
    path.write_text(FILE)
    return path


def masked(name):
    instances = [a for record in DatasetCatalog.get(name) for a in record["annotations"]]
    assert len(instances) == 16, "no box is lost"
    classes = MetadataCatalog.get(name).thing_classes
    return {classes[a["category_id"]] for a in instances if has_mask(a)}


def test_each_entry_is_a_data_set(file):
    names = register_datasets_of_file(file)
    assert names == ["pets_train", "pets_val", "all_pets", "more_pets"]
    assert masked("pets_train") == masked("more_pets") == {"cat", "dog"}
    assert masked("pets_val") == masked("all_pets") == {"cat", "dog", "cup", "car"}
    assert MetadataCatalog.get("pets_val").class_split.name == "pets"
    assert MetadataCatalog.get("all_pets").get("class_split") is None


def test_a_split_file_may_have_categories_with_image_labels_only(file, tmp_path):
    split = {"with_masks": ["cat", "dog"], "boxes_only": ["cup"], "labels_only": ["car"]}
    (tmp_path / "pets.json").write_text(json.dumps(split))
    register_datasets_of_file(file)
    for name, classes in (("pets_train", 3), ("more_pets", 3), ("pets_val", 4)):
        for record in DatasetCatalog.get(name):
            assert {a["category_id"] for a in record["annotations"]} == set(range(classes))
            assert record["image_labels"] == [0, 1, 2, 3]
        assert MetadataCatalog.get(name).class_split.labels_only == {"car"}
    assert not any("image_labels" in record for record in DatasetCatalog.get("all_pets"))


@pytest.mark.parametrize("given", [None, "elsewhere", "/abs/olute"])
def test_the_folder_of_detectron2s_data_sets(file, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    if given is not None:
        monkeypatch.setenv("DETECTRON2_DATASETS", given)
    file.write_text("a: {json: x.json, images: $DETECTRON2_DATASETS/coco}")
    register_datasets_of_file(file)
    expected = tmp_path / (given or "datasets") / "coco"
    assert MetadataCatalog.get("a_all_masks").image_root == str(expected)
    file.write_text("b: {json: s3://x.json, images: y}")
    register_datasets_of_file(file)
    assert MetadataCatalog.get("b_all_masks").json_file == "s3://x.json"


def test_a_wrong_split_leaves_nothing_registered(file):
    file.write_text("a: {json: x, images: y, split: none.json}")
    with pytest.raises(FileNotFoundError):
        register_datasets_of_file(file)
    assert not [name for name in DatasetCatalog.list() if name.startswith("a_")]


def test_every_command_knows_them(file, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKX_DATASETS", str(file))
    code = "from maskx_d2.cli import main; import sys; sys.exit(main(['check', 'pets_train']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8 masks of set B of split 'pets' will be dropped in training" in done.stdout
    monkeypatch.setenv("MASKX_DATASETS", str(tmp_path / "none.yaml"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"file '{tmp_path}/none.yaml' of MASKX_DATASETS does not exist.\n"
    code = "from maskx_d2.engine import run; run(['--config-file', 'none.yaml'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"file '{tmp_path}/none.yaml' of MASKX_DATASETS does not exist.\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "must map names to data sets"),
        ("a: {json: x", "is no valid yaml"),
        ("a: {base: x}\na: {base: y}", "key 'a' is there twice"),
        ("a: {json: $NO_SUCH/x, images: y}", "names an environment variable that is not set"),
        ("coco_2017_val: {json: x, images: y}", "'coco_2017_val' is registered already"),
        ("a: b", "data set 'a' of file '.*pets.yaml': it must be a mapping with the keys json"),
        ("a: {jsn: x, images: y}", "'jsn' is no key; did you mean 'json'"),
        ("a: {json: x}", "it lacks the key 'images'"),
        ("a: {json: x, base: y}", "a base, and json or images as well"),
        ("a: {json: 3, images: y}", "json must be text, not 3"),
        ("a: {base: x, split: pets.json, keep_masks: 1}", "keep_masks must be true or false"),
        ("a: {base: x, keep_masks: true}", "keep_masks is for data sets with a split"),
        ("a: {base: x, split: none.json}", "split file '.*none.json' does not exist"),
        ("coco_2017_train: {base: x}", "'coco_2017_train' is registered already"),
    ],
)
def test_a_mistake_is_one_sentence(file, content, message):
    file.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        register_datasets_of_file(file)
