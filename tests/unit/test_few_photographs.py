"""The part of COCO that the documentation's figures are of."""

import json

import pytest
from conftest import REPOSITORY
from detectron2.data.datasets import load_coco_json


@pytest.fixture
def few_photographs(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import few_photographs

    return few_photographs


@pytest.fixture
def coco(tmp_path):
    """Images 1 to 4 are train's, 5 to 8 val's; image i has i annotations."""
    for source, ids in (("train2017", range(1, 5)), ("val2017", range(5, 9))):
        (tmp_path / "coco" / source).mkdir(parents=True)
        content = {
            "info": {},
            "images": [
                {"id": i, "file_name": f"{i:012}.jpg", "height": 9, "width": 9} for i in ids
            ],
            "annotations": [
                {"id": 10 * i + k, "image_id": i, "category_id": 1, "bbox": [0, 0, 4, 4]}
                for i in ids
                for k in range(i)
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (tmp_path / "coco" / "annotations").mkdir(exist_ok=True)
        file = tmp_path / "coco" / "annotations" / f"instances_{source}.json"
        file.write_text(json.dumps(content))
        for i in ids:
            (tmp_path / "coco" / source / f"{i:012}.jpg").write_text(str(i))
    return tmp_path / "coco"


def test_images_may_be_in_the_other_part_of_coco(few_photographs, coco, tmp_path):
    ids = {"train2017": [2, 4], "val2017": [3, 6]}
    counts = few_photographs.cut(ids, coco, tmp_path / "few")
    assert counts == {"train2017": (2, 6), "val2017": (2, 9)}
    for part, chosen in ids.items():
        folder = tmp_path / "few" / "coco"
        records = load_coco_json(
            str(folder / "annotations" / f"instances_{part}.json"), str(folder / part)
        )
        assert [r["image_id"] for r in records] == chosen
        assert [len(r["annotations"]) for r in records] == chosen
        for record in records:
            with open(record["file_name"]) as file:
                assert file.read() == str(record["image_id"])


def test_what_is_missing_is_said(few_photographs, coco, tmp_path):
    with pytest.raises(SystemExit, match=r"1 of 2 images are not in COCO 2017 at .*such as id 77"):
        few_photographs.cut({"train2017": [1, 77]}, coco, tmp_path / "few")
    (coco / "val2017" / "000000000005.jpg").unlink()
    with pytest.raises(SystemExit, match=r"1 images have no file, such as .*000000000005\.jpg"):
        few_photographs.cut({"val2017": [5]}, coco, tmp_path / "few")
    assert not (tmp_path / "few").exists()
    few_photographs.cut({"val2017": [6]}, coco, tmp_path / "few")
    with pytest.raises(SystemExit, match="exists already"):
        few_photographs.cut({"val2017": [6]}, coco, tmp_path / "few")


def test_the_ids_are_those_of_the_photographs(few_photographs, photographs):
    ids = json.loads(few_photographs.IDS.read_text())
    assert {part: len(set(chosen)) for part, chosen in ids.items()} == {
        "train2017": 343,
        "val2017": 194,
    }
    for part, chosen in ids.items():
        with open(photographs / "coco" / "annotations" / f"instances_{part}.json") as file:
            found = [image["id"] for image in json.load(file)["images"]]
        if len(found) == len(chosen):  # and not all of COCO
            assert found == chosen
