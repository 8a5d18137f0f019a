"""The generator of the emoji data sets, datasets/make_emoji.py, on drawings made here."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
from pycocotools.coco import COCO

from maskx_d2.splits import load_split

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
COUNTS = {"train": 20, "val": 2, "test": 2, "test_seen": 1}
NUM_EMOJIS = 60

sys.path.insert(0, str(DATASETS))  # as when the script is run
try:
    script = importlib.import_module("make_emoji")
    categories, drawing, rules, sources, sprites = (
        importlib.import_module(f"emoji_scenes.{name}")
        for name in ("categories", "drawing", "rules", "sources", "sprites")
    )
    box_iou = importlib.import_module("make_shapes").box_iou
finally:
    sys.path.remove(str(DATASETS))


def draw(index: int, style: int) -> np.ndarray:
    """A drawing on a transparent ground: crosses, rings, disks and triangles in many colours."""
    image = np.zeros((64, 64, 4), np.uint8)
    colour = (*(40 + np.array([index * 37, index * 71, index * 113]) % 200).tolist(), 255)
    kind, width = index % 4, 6 + 4 * style
    if kind == 0:
        cv2.line(image, (6, 6), (58, 58), colour, width)
        cv2.line(image, (58, 6), (6, 58), colour, width)
    elif kind == 1:
        cv2.circle(image, (32, 32), 24, colour, width)
    elif kind == 2:
        cv2.circle(image, (32, 32), 28, colour, -1)
    else:
        cv2.fillPoly(image, [np.array([[32, 4], [60, 60], [4, 60]])], colour)
    return image


def list_emojis() -> list[dict[str, Any]]:
    """Things that are categories, and four emojis that are not."""
    emojis = []
    for i in range(NUM_EMOJIS):
        group = categories.GROUPS[i % 5]
        emojis.append(
            {
                "short_name": f"thing_{i}",
                "category": group,
                "subcategory": f"{group} {i // 5 % 3}",
                "sort_order": i,
                "added_in": "0.6" if i < 40 else "12.1",
                "image": f"{i:04x}.png",
                "unified": f"{i:04X}-FE0F",
                "non_qualified": f"{i:04X}",
            }
        )
    for name, group, subgroup, image in (
        ("smile", "Smileys & Emotion", "face", "0000.png"),
        ("clock7", "Travel & Places", "time", "0000.png"),
        ("moon", "Travel & Places", "sky & weather", "0000.png"),
        ("rare", "Objects", "tool", "missing.png"),  # a style has no drawing of it
    ):
        other = {"short_name": name, "category": group, "subcategory": subgroup, "image": image}
        emojis.append(emojis[0] | other)
    return emojis


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fetch_sources leaves, with drawings made here."""
    directory = tmp_path_factory.mktemp("emoji_sources")
    (directory / "emoji.json").write_text(json.dumps(list_emojis()))
    for k, style in enumerate(sources.STYLES):
        (directory / style).mkdir()
        for i in range(NUM_EMOJIS):
            cv2.imwrite(str(directory / style / f"{i:04x}.png"), draw(i, k))
    cv2.imwrite(str(directory / "google" / "missing.png"), draw(0, 0))
    return directory


@pytest.fixture(scope="module")
def make(drawings: Path) -> Any:
    def make_emoji(root: Path, **kwargs: Any) -> Path:
        options = {"sources": drawings, "num_images": COUNTS, "progress": False}
        return script.make_emoji(root, **options | kwargs)

    return make_emoji


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory, make: Any) -> Path:
    """A data set to look at; tests that change one change a copy."""
    return make(tmp_path_factory.mktemp("emoji"))


@pytest.fixture
def copy(emoji: Path, tmp_path: Path) -> Path:
    return shutil.copytree(emoji, tmp_path / emoji.name)


@pytest.fixture(scope="module")
def coco(emoji: Path) -> COCO:
    return COCO(str(emoji / "annotations" / "instances_train.json"))


def read_files(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def read_json(directory: Path, part: str) -> dict[str, Any]:
    return json.loads((directory / "annotations" / f"instances_{part}.json").read_text())


def corners(annotation: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = annotation["bbox"]
    return x, y, x + width, y + height


# ------------------------------------------------------------------------------- determinism


def test_image_depends_on_seed_part_and_number_alone(
    emoji: Path, tmp_path: Path, make: Any
) -> None:
    few = make(tmp_path / "few", num_images={"val": 1, "train": 2})
    for part, count in (("val", 1), ("train", 2)):
        content, longer = (read_json(d, part) for d in (few, emoji))
        assert content["images"] == longer["images"][:count]
        found = content["annotations"]
        assert found == longer["annotations"][: len(found)]
        for image in content["images"]:
            file = f"{part}/{image['file_name']}"
            assert (few / file).read_bytes() == (emoji / file).read_bytes()
    other = make(tmp_path / "other", seed=1, num_images={"val": 1})
    images = [*emoji.rglob("*.png"), *other.rglob("*.png")]
    assert len({path.read_bytes() for path in images}) == sum(COUNTS.values()) + 1


# -------------------------------------------------------------------------------- categories


def test_only_things_with_a_drawing_in_every_style_are_categories(drawings: Path) -> None:
    names = {c["name"] for c in categories.choose_categories(drawings, NUM_EMOJIS)}
    assert names == {f"thing_{i}" for i in range(NUM_EMOJIS)}
    with pytest.raises(ValueError, match="between 2 and 60, got 61"):
        categories.choose_categories(drawings, 61)


def test_small_sets_of_categories_are_the_beginning_of_large_ones(drawings: Path) -> None:
    few, many = (categories.choose_categories(drawings, n) for n in (20, 50))
    assert few == many[:20]
    assert [c["id"] for c in many] == list(range(1, 51))
    assert set(Counter(c["supercategory"] for c in few).values()) == {4}


def test_sub_groups_take_turns_and_old_emojis_come_first(drawings: Path) -> None:
    emojis = [e for e in list_emojis() if categories.is_thing(e)][:NUM_EMOJIS]
    animals = [
        e for e in categories.rank_categories(emojis) if e["category"] == categories.GROUPS[0]
    ]
    assert [e["subcategory"][-1] for e in animals] == ["0", "1", "2"] * 4
    assert [int(e["short_name"][6:]) for e in animals[:3]] == [0, 5, 10]
    assert [e["added_in"] for e in animals] == sorted(e["added_in"] for e in animals)


def test_every_category_that_is_left_out_is_named_once() -> None:
    names = f"{categories._PICTURES} {categories._SIGNS} {categories._TWINS}".split()
    assert len(names) == len(set(names)) == len(categories._LEFT_OUT)


# ------------------------------------------------------------------------------- annotations


def test_masks_are_disjoint_with_boxes_and_areas_that_fit(coco: COCO) -> None:
    annotations = coco.dataset["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    for members in coco.imgToAnns.values():
        masks = mask_utils.decode([a["segmentation"] for a in members])
        assert masks.shape[:2] == (128, 128) and masks.sum(axis=2).max() == 1
        for annotation, mask in zip(members, np.moveaxis(masks, 2, 0)):
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum() > 15
            assert annotation["iscrowd"] == 0
    assert len(coco.imgToAnns) == COUNTS["train"]


def test_masks_cover_the_colour_of_the_drawing(coco: COCO, emoji: Path) -> None:
    for image in coco.loadImgs(coco.getImgIds()[:10]):
        pixels = cv2.imread(str(emoji / "train" / image["file_name"])).astype(float)
        assert pixels.shape == (128, 128, 3)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = cv2.erode(coco.annToMask(annotation), np.ones((3, 3), np.uint8)) > 0
            if mask.sum() > 20:  # one colour each, where the edges are not blended
                assert np.median(pixels[mask].std(axis=0)) < 12


def test_pairs_have_nearly_one_box_and_other_categories(coco: COCO) -> None:
    groups = defaultdict(list)
    for annotation in coco.dataset["annotations"]:
        groups[annotation["image_id"], annotation["pair"]].append(annotation)
    pairs = [members for (_, pair), members in groups.items() if pair]
    assert len(pairs) > 8
    for members in pairs:
        first, second = members
        assert first["category_id"] != second["category_id"]
        assert box_iou(corners(first), corners(second)) >= rules.MIN_PAIR_IOU
    assert any(not pair for _, pair in groups)


def test_held_out_style_is_seen_in_test_alone(emoji: Path, tmp_path: Path, make: Any) -> None:
    licences = {"google": "Apache License 2.0", "openmoji": "CC BY-SA 4.0"}
    for part in COUNTS:
        expected = {"twitter": "CC BY 4.0"} if part == "test" else licences
        content = read_json(emoji, part)
        assert {a["style"] for a in content["annotations"]} <= set(expected)
        assert {li["style"]: li["name"] for li in content["licenses"]} == expected
    assert {a["style"] for a in read_json(emoji, "train")["annotations"]} == set(licences)
    other = make(tmp_path, held_out="google", num_images={"val": 1, "test": 1})
    assert {a["style"] for a in read_json(other, "test")["annotations"]} == {"google"}
    assert read_json(other, "val")["info"]["styles"] == ["openmoji", "twitter"]


@pytest.mark.parametrize("image_size", [64, 200])
def test_objects_scale_with_the_image(tmp_path: Path, make: Any, image_size: int) -> None:
    directory = make(tmp_path, image_size=image_size, num_images={"train": 2})
    for annotation in read_json(directory, "train")["annotations"]:
        assert annotation["segmentation"]["size"] == [image_size, image_size]
        assert 15 * image_size / 128 <= max(annotation["bbox"][2:]) <= 72 * image_size / 128


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.5])
def test_drawing_fills_its_box(tmp_path: Path, aspect: float) -> None:
    image = np.zeros((80, 80, 4), np.uint8)
    height, width = (60, int(60 * aspect)) if aspect < 1 else (int(60 / aspect), 60)
    image[5 : 5 + height, 9 : 9 + width] = 200
    cv2.imwrite(str(tmp_path / "a.png"), image)
    sprite = sprites.read_sprite(tmp_path / "a.png", 0, "google", 128)
    assert sprite.aspect == pytest.approx(aspect, rel=0.03)
    for seed in range(5):
        drawn = drawing.draw_sprite(np.random.default_rng(seed), sprite, 20.0, 30.0, 44.0, 35.0)
        box = sprites.mask_box(drawing.full_mask(drawn, 128))
        assert np.abs(np.subtract(box, (20, 30, 64, 65))).max() <= 2


def test_photographs_are_used_and_kept_apart(tmp_path: Path, make: Any) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(5):  # the last is for val and test
        colour = (255, 0, 0) if i == 4 else (0, 0, 255)
        cv2.imwrite(str(folder / f"{i}.png"), np.full((90, 120, 3), colour, np.uint8))
    directory = make(
        tmp_path, backgrounds=folder, num_images=dict.fromkeys(("train", "val", "test"), 1)
    )
    assert read_json(directory, "train")["info"]["arguments"]["backgrounds"].startswith("5 ")
    for part, channel in (("train", 2), ("val", 0), ("test", 0)):
        pixels = cv2.imread(str(directory / part / "00000000.png"))
        ground = pixels.reshape(-1, 3)[(pixels == np.eye(3)[channel] * 255).all(axis=2).ravel()]
        assert len(ground) > 2000


# ------------------------------------------------------------------------------------ splits


def test_splits_are_read_by_load_split(emoji: Path) -> None:
    names = [c["name"] for c in read_json(emoji, "train")["categories"]]
    split = load_split(emoji / "splits" / "by_group.json")
    with_masks, boxes_only = split.indices(names)
    assert (split.name, len(with_masks), len(boxes_only)) == ("by_group", 8, 32)
    groups = {c["name"]: c["supercategory"] for c in read_json(emoji, "train")["categories"]}
    assert {groups[n] for n in split.with_masks} == {"Animals & Nature"}


def test_split_data_sets_are_registered(
    emoji: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "emoji40").symlink_to(emoji)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    code = (
        "import maskx_d2; from detectron2.data import DatasetCatalog as D, MetadataCatalog as M;"
        "from maskx_d2.data import has_mask;"
        "count = lambda n: sum(has_mask(a) for r in D.get(n) for a in r['annotations']);"
        "names = [n for n in D.list() if n.startswith('emoji40_train_')];"
        "print(len(names), count('emoji40_train'), count('emoji40_train_random_a20_seed1'),"
        "count('emoji40_test_seen_by_group'), count('emoji40_test_seen'),"
        "len(M.get('emoji40_train_random_a20_seed1').class_split.with_masks))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    splits, all_masks, of_a, by_group, seen, size = map(int, done.stdout.split())
    assert (splits, size) == (10, 20)
    assert 0 < of_a < all_masks and by_group == seen > 0


def test_random_splits_of_one_seed_are_nested(tmp_path: Path, make: Any) -> None:
    directory = make(tmp_path, random_a=[5, 12], split_seeds=[0, 4], num_images={"val": 1})
    splits = {p.stem: load_split(p) for p in (directory / "splits").iterdir()}
    assert set(splits) == {"by_group"} | {f"random_a{m}_seed{s}" for m in (5, 12) for s in (0, 4)}
    assert len(splits["random_a5_seed4"].with_masks) == 5
    assert splits["random_a5_seed4"].with_masks < splits["random_a12_seed4"].with_masks
    assert splits["random_a12_seed0"].with_masks != splits["random_a12_seed4"].with_masks


# ----------------------------------------------------------------------------- repeated runs


def test_second_run_changes_nothing_and_says_so(
    copy: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    image = copy / "train" / "00000000.png"
    before = image.stat().st_mtime_ns
    assert make(copy.parent, progress=True) == copy
    assert "up to date" in capsys.readouterr().out
    assert image.stat().st_mtime_ns == before


def test_incomplete_part_is_made_again_with_the_same_bytes(
    emoji: Path, copy: Path, make: Any
) -> None:
    (copy / "val" / "00000001.png").unlink()
    (copy / "test" / "00000000.png").write_bytes(b"")
    (copy / "annotations" / "instances_test.json").write_text('{"info": ')
    make(copy.parent)
    assert read_files(copy) == read_files(emoji)
    assert len(read_files(copy)) == sum(COUNTS.values()) + 4 + 10


def test_missing_rasteriser_is_said_before_anything_is_removed(
    copy: Path, drawings: Path, tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_files(copy)
    svgs = shutil.copytree(drawings, tmp_path / "svgs")
    for path in (svgs / "openmoji").iterdir():
        path.rename(path.with_suffix(".svg"))
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match="pip install resvg-py=="):
        make(copy.parent, sources=svgs, seed=1)
    assert read_files(copy) == before


# ----------------------------------------------------------------------------------- sources


def make_archives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three packages in small, with checksums that fit."""
    folder.mkdir(parents=True)
    emojis = list_emojis()[:NUM_EMOJIS]
    png = cv2.imencode(".png", draw(0, 0))[1].tobytes()
    for style, source in sources.SOURCES.items():
        path = folder / source.archive
        if path.suffix == ".whl":
            with zipfile.ZipFile(path, "w") as wheel:
                for e in emojis:
                    wheel.writestr(f"{source.images}{e['non_qualified']}.svg", "<svg/>")
        else:
            with tarfile.open(path, "w:gz") as tar:
                files = {source.images + e["image"]: png for e in emojis}
                files |= {"package/emoji.json": json.dumps(emojis).encode()}
                files |= {f"package/img/{style}/sheets/64.png": b"not needed"}
                for name, content in files.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        checksum = hashlib.new(source.algorithm, path.read_bytes()).hexdigest()
        monkeypatch.setitem(sources.SOURCES, style, source._replace(checksum=checksum))


def test_archives_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_archives(tmp_path / "archives", monkeypatch)
    sources.fetch_sources(tmp_path, progress=False)
    for style, ending in (("google", ".png"), ("openmoji", ".svg"), ("twitter", ".png")):
        assert len(list((tmp_path / style).iterdir())) == NUM_EMOJIS
        assert sources.find_drawing(tmp_path, style, "0001.png").suffix == ending
    assert len(categories.choose_categories(tmp_path, 40)) == 40


def test_archive_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archives(tmp_path / "archives", monkeypatch)
    archive = tmp_path / "archives" / sources.SOURCES["twitter"].archive
    archive.write_bytes(archive.read_bytes() + b"more")
    with pytest.raises(RuntimeError, match=r"does not have the sha512 checksum .* delete it"):
        sources.fetch_sources(tmp_path, progress=False)
    assert not (tmp_path / "twitter").exists()


def test_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", (tmp_path / "nowhere").as_uri())
    with pytest.raises(RuntimeError, match=r"could not download file://.*npm pack emoji-data"):
        sources.fetch_sources(tmp_path, progress=False)


def test_picture_without_transparency_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 9, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png' is not a drawing on a transparent ground"):
        sprites.read_sprite(tmp_path / "a.png", 0, "google", 128)


# --------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seeds must not be negative"),
        ({"image_size": 63}, "at least 64 pixels"),
        ({"num_images": {"training": 3}}, "unknown part 'training'"),
        ({"num_images": {"train": 0}}, "must be at least 1"),
        ({"held_out": "apple"}, "held_out must be one of"),
        ({"random_a": [40]}, "random_a must be between 1 and 39"),
        ({"categories": 61}, "categories must be between 2 and 60"),
        ({"backgrounds": "nowhere"}, "5 photographs or more"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path, make: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_command_line_and_contact_sheets(
    tmp_path: Path,
    drawings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    sheets = [tmp_path / "scenes.png", tmp_path / "categories.png"]
    options = ["--sources", str(drawings), "--categories", "20", "--size", "64"]
    options += ["--num-train", "1", "--num-val", "1", "--num-test", "1", "--num-test-seen", "1"]
    options += ["--contact-sheet", str(sheets[0]), "--category-sheet", str(sheets[1])]
    monkeypatch.setattr("sys.argv", ["make_emoji.py", *options])
    script.main()
    assert len(read_json(tmp_path / "emoji20", "train")["images"]) == 1
    assert all(cv2.imread(str(sheet)) is not None for sheet in sheets)

    monkeypatch.setattr("sys.argv", ["make_emoji.py", "--size", "8"])
    with pytest.raises(SystemExit):
        script.main()
    assert "at least 64 pixels" in capsys.readouterr().err
