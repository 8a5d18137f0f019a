"""The converter of Visual Genome, datasets/make_visual_genome.py, on files in its format."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from maskx_d2.data.check import check_coco_json

DATASETS = Path(__file__).resolve().parents[2] / "datasets"

sys.path.insert(0, str(DATASETS))  # as when the script is run
try:
    script = importlib.import_module("make_visual_genome")
    conversion, vocabulary = (
        importlib.import_module(f"vg_conversion.{name}") for name in ("conversion", "vocabulary")
    )
finally:
    sys.path.remove(str(DATASETS))

COCO = {c["id"]: c["name"] for c in COCO_CATEGORIES if c["isthing"]}
# Visual Genome's image ids, and COCO's; -1 is another way to say that COCO has it not.
COCO_IDS = {1: 101, 2: 900, 3: None, 4: -1, 5: None, 6: 777}


def thing(synset: str | list[str], x=10, y=10, w=20, h=20) -> dict[str, Any]:
    synsets = [synset] if isinstance(synset, str) else synset
    return {
        "object_id": 7000 + x,
        **{"x": x, "y": y, "w": w, "h": h},
        "names": [s.split(".")[0] for s in synsets],
        "synsets": synsets,
    }


OBJECTS = {
    1: [
        thing("person.n.01"),
        thing("man.n.01", x=40),
        thing("tree.n.01"),
        thing("tree.n.01", x=50),
    ],
    2: [
        thing("person.n.01", x=5),
        thing("plant.n.01"),
        thing("mouse.n.04"),
        thing("mouse.n.04", x=1),
    ],
    3: [thing("mouse.n.01"), thing("tree.n.01"), thing("rare.n.01", x=3)],
    4: [thing("leaf.n.01"), thing("leaf.n.01", x=30), thing("arm.n.01"), thing("arm.n.01", x=30)],
    5: [thing("leaf.n.01")],
    6: [thing("man.n.01")],
}


def write_input(root: Path, objects: dict[int, list] = OBJECTS) -> Path:
    folder = root / "visual_genome"
    folder.mkdir(parents=True, exist_ok=True)
    host = "https://cs.stanford.edu/people/rak248/VG_100K_2"
    images = [
        {"image_id": i, "coco_id": c, "flickr_id": None, "width": 100, "height": 80}
        | {"url": f"{host}/{i}.jpg"}
        for i, c in COCO_IDS.items()
    ]
    (folder / "image_data.json").write_text(json.dumps(images))
    entries = [{"image_id": i, "objects": things} for i, things in objects.items()]
    (folder / "objects.json").write_text(json.dumps(entries))
    coco = root / "coco" / "annotations" / "instances_val2017.json"
    coco.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": i, "name": name} for i, name in COCO.items()]
    coco.write_text(json.dumps({"images": [{"id": 900}, {"id": 901}], "categories": categories}))
    return root


def make(root: Path, **arguments) -> dict[str, Any]:
    arguments = {"num_categories": 84, "num_test": 1, "progress": False} | arguments
    return conversion.make_visual_genome(root, **arguments)


def read(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / "visual_genome" / "annotations" / name).read_text())


def boxes(root: Path, part: str) -> list[tuple[int, str, list[int]]]:
    content = read(root, f"instances_{part}.json")
    names = {c["id"]: c["name"] for c in content["categories"]}
    return [(a["image_id"], names[a["category_id"]], a["bbox"]) for a in content["annotations"]]


def test_no_image_of_cocos_validation_set_is_for_training(tmp_path):
    make(write_input(tmp_path))
    parts = {
        part: [
            (i["id"], i["file_name"]) for i in read(tmp_path, f"instances_{part}.json")["images"]
        ]
        for part in ("train", "val", "test")
    }
    assert parts == {
        "train": [(i, f"VG_100K_2/{i}.jpg") for i in (1, 3, 4, 6)],
        "val": [(2, "VG_100K_2/2.jpg")],
        "test": [(5, "VG_100K_2/5.jpg")],  # the last of those that COCO does not have
    }


def test_images_of_other_coco_files_are_left_out_and_counted(tmp_path):
    write_input(tmp_path)
    (tmp_path / "test.json").write_text('{"images": [{"id": 777}]}')
    account = make(tmp_path, exclude=[tmp_path / "test.json"])
    assert [i["id"] for i in read(tmp_path, "instances_train.json")["images"]] == [1, 3, 4]
    assert account["dropped"][conversion.EXCLUDED] == 1
    assert account["dropped"][conversion.NO_IMAGE] == 0


def test_cocos_categories_come_first_then_the_most_frequent_synsets_in_alphabetical_order(tmp_path):
    make(write_input(tmp_path))
    categories = read(tmp_path, "instances_train.json")["categories"]
    assert {c["id"]: c["name"] for c in categories[:80]} == COCO
    # tree and leaf three times, arm and man twice; mouse.n.01 and rare.n.01 once
    assert [(c["id"], c["name"], c["synset"]) for c in categories[80:]] == [
        (1001, "arm", "arm.n.01"),
        (1002, "leaf", "leaf.n.01"),
        (1003, "man", "man.n.01"),
        (1004, "tree", "tree.n.01"),
    ]
    dicts = load_coco_json(
        str(tmp_path / "visual_genome/annotations/instances_train.json"), "", "vg_categories_test"
    )
    assert [a["category_id"] for a in dicts[0]["annotations"]] == [0, 82, 83, 83]


def test_a_coco_category_has_the_boxes_of_one_synset(tmp_path):
    account = make(write_input(tmp_path), num_categories=86)
    assert boxes(tmp_path, "val") == [
        (2, "person", [5, 10, 20, 20]),
        (2, "potted plant", [10, 10, 20, 20]),
        (2, "mouse", [10, 10, 20, 20]),
        (2, "mouse", [1, 10, 20, 20]),
    ]
    # "mouse" is the more frequent of two synsets; the other goes by its whole name, and a man
    # is not a person.
    train = [(i, name) for i, name, _ in boxes(tmp_path, "train")]
    assert (3, "mouse.n.01") in train
    assert (1, "man") in train
    assert "bicycle" in account["categories_without_boxes"]
    assert "tree" not in account["categories_without_boxes"]


def test_of_equally_frequent_synsets_the_alphabetically_first_is_taken(tmp_path):
    make(write_input(tmp_path), num_categories=85)
    assert "mouse.n.01" in {c["name"] for c in read(tmp_path, "categories.json")["categories"]}
    make(tmp_path, num_categories=82)
    names = [c["name"] for c in read(tmp_path, "categories.json")["categories"]]
    assert names[80:] == ["leaf", "tree"]


def test_nothing_is_lost_silently(tmp_path):
    objects = OBJECTS | {
        1: [
            thing("tree.n.01", x=-5, y=70, w=30, h=30),
            thing([]),
            thing(["tree.n.01", "leaf.n.01"]),
            thing("zoo.n.01"),
            thing("tree.n.01", w=0),
            thing("tree.n.01", h=-3),
            thing("tree.n.01", x=100),
            thing("tree.n.01", x=-5, y=60, w=5),
            thing("leaf.n.01", x=60.5, w=2.5),
            thing("leaf.n.01", x=60.5, w=2.5),
            thing("tree.n.01", x=60.5, w=2.5),
        ],
        99: [thing("tree.n.01")],
    }
    account = make(write_input(tmp_path, objects))
    assert [box for box in boxes(tmp_path, "train") if box[0] == 1] == [
        (1, "tree", [0, 70, 25, 10]),
        (1, "leaf", [60.5, 10, 2.5, 20]),
        (1, "tree", [60.5, 10, 2.5, 20]),
    ]
    assert account["dropped"] == {
        conversion.NO_IMAGE: 1,
        conversion.EXCLUDED: 0,
        conversion.NO_SYNSET: 1,
        conversion.SEVERAL_SYNSETS: 1,
        conversion.NO_CATEGORY: 3,  # zoo, rare and mouse.n.01
        conversion.NO_AREA: 2,
        conversion.OUTSIDE: 2,
        conversion.REPEATED: 1,
    }
    assert account["clipped"] == 1
    kept = sum(part["boxes"] for part in account["parts"].values())
    assert account["objects"] == sum(map(len, objects.values()))
    assert account["objects"] == kept + sum(account["dropped"].values())
    text = conversion.describe(account)
    assert "1  dropped: same category and box as another of the image" in text
    assert f"train: 4 images (0 without a box), {account['parts']['train']['boxes']} boxes" in text
    assert read(tmp_path, "categories.json")["info"] == account


def test_the_files_are_sound_coco_files(tmp_path):
    make(write_input(tmp_path))
    folder = tmp_path / "visual_genome" / "annotations"
    assert sorted(p.name for p in folder.iterdir()) == [
        "categories.json",
        *(f"instances_{part}.json" for part in ("test", "train", "val")),
    ]
    annotation = read(tmp_path, "instances_train.json")["annotations"][0]
    assert annotation == {
        **{"id": 1, "image_id": 1, "category_id": 1, "object_id": 7010},
        **{"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
    }
    report = check_coco_json(folder / "instances_train.json")
    assert not [f for f in report.findings if f.severity == "error"]


def test_the_same_input_gives_the_same_bytes_whatever_the_order_of_objects(tmp_path):
    for name in ("a", "b"):
        make(write_input(tmp_path / name))
    for path in (tmp_path / "a" / "visual_genome" / "annotations").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    make(write_input(tmp_path / "c", dict(reversed(OBJECTS.items()))))
    assert read(tmp_path / "a", "categories.json") == read(tmp_path / "c", "categories.json")


def test_a_run_that_fails_leaves_the_files_as_they_were(tmp_path, monkeypatch):
    make(write_input(tmp_path))
    folder = tmp_path / "visual_genome" / "annotations"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(conversion, "annotate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path, num_categories=83)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# ------------------------------------------------------------------------- a list of categories

COUNTS = Counter({"bag.n.04": 9, "bag.n.06": 8, "bag.n.01": 7, "bag.n.05": 6, "bag.n.09": 1})
COUNTS.update({f"{name.replace(' ', '_')}.n.01": 5 for name in COCO.values()})
COUNTS.update(vocabulary.COCO_SYNSETS.values())
COUNTS.update({"tree.n.01": 3, "tree.n.02": 4, "arm.n.01": 1})
SYNSETS = vocabulary._coco_synsets(COUNTS, COCO)
LEMMAS = [SYNSETS[i].rsplit(".", 2)[0] for i in COCO]


def names_of(names: list[str]) -> list[tuple[str, str]]:
    categories = vocabulary.categories_of_names(names, COUNTS, COCO)
    assert [c.id for c in categories[:80]] == list(COCO)
    assert [c.id for c in categories[80:]] == list(range(1001, 921 + len(categories)))
    return [(c.name, c.synset) for c in categories]


def test_a_list_of_lemmas_is_read_as_the_papers():
    """Lemmas in alphabetical order of the synsets, COCO's by their synset, some more than once."""
    assert LEMMAS[LEMMAS.index("umbrella") + 1 :][:3] == ["bag", "tie", "bag"]
    result = names_of(["__background__", *LEMMAS, "bag", "bag", "oak", "tree"])
    assert [name for name, _ in result[:80]] == list(COCO.values())
    assert result[80:] == [
        ("bag.n.01", "bag.n.01"),
        ("bag.n.05", "bag.n.05"),
        ("oak", ""),  # which Visual Genome does not have
        ("tree", "tree.n.02"),  # the most frequent
    ]


def test_a_list_may_say_which_synset_is_meant():
    handbag = list(COCO.values()).index("handbag")
    first = [*LEMMAS[:handbag], "bag.n.09", *LEMMAS[handbag + 1 :]]
    result = names_of([*first, "tree.n.01", "tree", "bag.n.04"])
    assert result[handbag] == ("handbag", "bag.n.09")
    assert result[80:] == [
        ("tree.n.01", "tree.n.01"),
        ("tree.n.02", "tree.n.02"),
        ("bag", "bag.n.04"),
    ]


def test_the_names_of_a_data_set_make_the_same_categories_again():
    for size in (81, 84, 86):
        categories = vocabulary.choose_categories(COUNTS, COCO, size)
        again = vocabulary.categories_of_names([c.name for c in categories], COUNTS, COCO)
        assert again == categories


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (LEMMAS[:79], "has 79 names, fewer than COCO's 80"),
        (["rider", *LEMMAS[1:]], r"has 'rider' where COCO's 'person' \(synset 'person\.n\.01'\)"),
        ([*LEMMAS, "tree.n.01", "tree.n.01"], r"has the synset 'tree\.n\.01' twice"),
        ([*LEMMAS, "bag.n.04"], r"has the synset 'bag\.n\.04' twice"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error(names, message):
    with pytest.raises(ValueError, match=message):
        names_of(names)


def test_classes_from_a_file(tmp_path):
    write_input(tmp_path)
    path = tmp_path / "classes.json"
    path.write_text(json.dumps([*COCO.values(), "leaf"]))
    account = make(tmp_path, classes=path)
    assert account["categories"] == 81
    assert [name for _, name, _ in boxes(tmp_path, "test")] == ["leaf"]


# -------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("objects.json", None, r"objects\.json' does not exist; download"),
        ("image_data.json", None, r"image_data\.json' does not exist; download"),
        ("objects.json", '[{"image_id": 1, "obj', r"objects\.json is not valid JSON: .*cut off"),
        ("objects.json", "[1]", r"objects\.json: entry 0 is not an object"),
        ("objects.json", '[{"id": 1}]', "entry 0 needs an integer 'image_id'"),
        ("objects.json", "[]", "has no synsets; objects.json of version 1.2 or 1.4"),
        (
            "objects.json",
            '[{"image_id": 1, "objects": [{"x": 1, "y": 1, "w": 1, "h": 1}]}]',
            "an object of image 1 has no 'synsets'; objects.json of version",
        ),
        (
            "objects.json",
            json.dumps([{"image_id": 1, "objects": [thing("tree.n.01") | {"w": "9"}]}]),
            "object 7010 of image 1 needs numbers",
        ),
        ("objects.json", '[{"image_id": 1, "objects": []}]' * 2, "is not valid JSON"),
        (
            "objects.json",
            json.dumps([{"image_id": 1, "objects": []}] * 2),
            "two entries have the image_id 1",
        ),
        ("image_data.json", '[{"image_id": 1}]', "entry 0 has no 'width'; it is not"),
        ("image_data.json", "[]", "has no images"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, message):
    write_input(tmp_path)
    path = tmp_path / "visual_genome" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        make(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "visual_genome" / "annotations" / "categories.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coco_val": "nowhere.json"}, "'nowhere.json' does not exist; it is COCO's"),
        ({"num_categories": 80}, "80 categories were asked for, but there can be from 81 to 86"),
        ({"num_categories": 3001}, "3001 categories were asked for, but there can be from 81"),
        ({"num_test": 4}, "4 test images were asked for, but there are only 3 images"),
        ({"num_test": -1}, "-1 test images were asked for"),
        ({"classes": "nowhere.json"}, "'nowhere.json' can't be read: No such file"),
    ],
)
def test_a_bad_argument_is_one_sentence(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(write_input(tmp_path), **arguments)


def test_other_coco_files_than_expected(tmp_path):
    write_input(tmp_path)
    other = tmp_path / "other.json"
    for content, message in (
        ("[]", "is not a COCO JSON file"),
        ("{", "is not a COCO JSON file"),
        ('{"images": [{"id": 900}]}', "has no categories"),
        ('{"images": [{"id": 5}], "categories": [{"id": 1, "name": "person"}]}', "no image has a"),
    ):
        other.write_text(content)
        with pytest.raises(ValueError, match=message):
            make(tmp_path, coco_val=other)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    write_input(tmp_path)
    argv = ["make_visual_genome.py", "--root", str(tmp_path), "--num-test", "1"]
    monkeypatch.setattr(sys, "argv", [*argv, "--num-categories", "84"])
    script.main()
    assert "17 objects, of which" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        script.main()
    assert "error: 3001 categories were asked for" in capsys.readouterr().err
