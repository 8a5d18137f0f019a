"""The generator of the synthetic data set, datasets/make_shapes.py."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
from pycocotools.coco import COCO

from maskx_d2.modeling import load_class_embedding
from maskx_d2.splits import SHAPES, TEXTURES, shapes_a27b9

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "make_shapes.py"
COUNTS = {"train": 4, "val": 2, "test": 2}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_shapes_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def make(root: Path, **kwargs: Any) -> Path:
    return script.make_shapes(root, **{"num_images": COUNTS, "progress": False} | kwargs)


def read_files(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def read_json(directory: Path, part: str) -> dict[str, Any]:
    return json.loads((directory / "annotations" / f"instances_{part}.json").read_text())


def mtimes(directory: Path) -> dict[str, int]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with enough images for statements about all categories."""
    return make(tmp_path_factory.mktemp("shapes"), num_images={"train": 100})


@pytest.fixture(scope="module")
def coco(shapes: Path) -> COCO:
    return COCO(str(shapes / "annotations" / "instances_train.json"))


def corners(annotation: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = annotation["bbox"]
    return x, y, x + width, y + height


# ------------------------------------------------------------------------------- determinism


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    files = read_files(first)
    assert len(files) == sum(COUNTS.values()) + 3 + 2  # annotations, attributes
    assert files == read_files(second)


def test_image_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    few = make(tmp_path / "few", num_images={"val": 2})
    many = make(tmp_path / "many", num_images={"train": 1, "val": 5})
    for name in ("00000000.png", "00000001.png"):
        assert (few / "val" / name).read_bytes() == (many / "val" / name).read_bytes()
    annotations = read_json(few, "val")["annotations"]
    assert annotations == read_json(many, "val")["annotations"][: len(annotations)]


def test_seeds_and_parts_give_different_images(tmp_path: Path) -> None:
    files = read_files(make(tmp_path / "a")) | {
        f"other/{name}": content
        for name, content in read_files(make(tmp_path / "b", seed=1)).items()
    }
    images = [content for name, content in files.items() if name.endswith(".png")]
    assert len(images) == len(set(images)) == 2 * sum(COUNTS.values())


# ------------------------------------------------------------------------------- annotations


def test_categories_are_all_textures_on_all_shapes(coco: COCO) -> None:
    categories = coco.loadCats(coco.getCatIds())
    assert [c["id"] for c in categories] == list(range(1, 37))
    names = [c["name"] for c in categories]
    assert set(names) == {f"{t} {s}" for t in TEXTURES for s in SHAPES}
    with_masks, boxes_only = shapes_a27b9(names).indices(names)
    assert (len(with_masks), len(boxes_only)) == (27, 9)


def test_attribute_vectors_are_those_of_the_names(shapes: Path) -> None:
    names = [f"{texture} {shape}" for texture in reversed(TEXTURES) for shape in SHAPES]
    vectors = load_class_embedding(shapes / "attributes.npy", names)
    assert (vectors.sum(dim=1) == 2).all()
    same = vectors @ vectors.T
    for i, name in enumerate(names):
        for j, other in enumerate(names):
            assert same[i, j] == len(set(name.split()) & set(other.split()))


def test_every_category_occurs_and_none_dominates(coco: COCO) -> None:
    counts = Counter(a["category_id"] for a in coco.dataset["annotations"])
    assert set(counts) == set(range(1, 37))
    assert max(counts.values()) < 3 * np.mean(list(counts.values()))


def test_boxes_and_areas_are_those_of_the_masks(coco: COCO) -> None:
    annotations = coco.dataset["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    for annotation in annotations:
        mask = coco.annToMask(annotation)
        assert mask.shape == (128, 128)
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum() > 0
        assert annotation["iscrowd"] == 0


def test_masks_of_an_image_are_disjoint(coco: COCO) -> None:
    for image_id in coco.getImgIds():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        masks = mask_utils.decode([a["segmentation"] for a in annotations])
        assert masks.sum(axis=2).max() == 1


def test_images_are_as_the_annotations_say(coco: COCO, shapes: Path) -> None:
    assert coco.getImgIds() == list(range(1, 101))
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(shapes / "train" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3) == (128, 128, 3)
        assert 2 <= len(coco.getAnnIds(imgIds=image["id"])) <= 8


def test_channels_are_written_in_rgb_order(shapes: Path) -> None:
    image, annotations = script.render_image(np.random.default_rng((0, 0, 0)), 128)
    written = cv2.imread(str(shapes / "train" / "00000000.png"))
    assert (written[:, :, ::-1] == image).all()
    recorded = [a for a in read_json(shapes, "train")["annotations"] if a["image_id"] == 1]
    assert len(annotations) == len(recorded)
    assert all(r | a == r for a, r in zip(annotations, recorded, strict=True))


def test_textures_are_told_by_light_and_dark(coco: COCO, shapes: Path) -> None:
    names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
    for image in coco.loadImgs(coco.getImgIds()[:20]):
        pixels = cv2.imread(str(shapes / "train" / image["file_name"]))
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            colours = np.unique(pixels[coco.annToMask(annotation) > 0], axis=0)
            texture = names[annotation["category_id"]].split()[0]
            tones = {"dark" if c.max() < 75 else "light" if c.min() > 180 else "?" for c in colours}
            assert len(colours) == len(tones)
            assert tones == ({texture} if texture in ("dark", "light") else {"dark", "light"})


# ------------------------------------------------------------------------------------- pairs


def test_most_objects_share_their_box_with_an_object_of_other_shape_and_texture(
    coco: COCO,
) -> None:
    names = {c["id"]: c["name"].split() for c in coco.dataset["categories"]}
    by_image = defaultdict(list)
    for annotation in coco.dataset["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    paired = 0
    for objects in by_image.values():
        for a in objects:
            others = [b for b in objects if b is not a]
            ious = [script.box_iou(corners(a), corners(b)) for b in others]
            partners = [b for b, iou in zip(others, ious, strict=True) if iou > 0.8]
            # An object has one partner or none, and nothing else touches its box.
            assert len(partners) <= 1
            assert sum(iou > 0 for iou in ious) == len(partners)
            for b in partners:
                texture_a, shape_a = names[a["category_id"]]
                texture_b, shape_b = names[b["category_id"]]
                assert texture_a != texture_b and shape_a != shape_b
                assert np.abs(np.subtract(corners(a), corners(b))).max() <= 3
            paired += len(partners)
    assert 0.6 < paired / len(coco.dataset["annotations"]) < 0.85


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_object_behind_is_partly_hidden_but_well_visible(scale: float) -> None:
    rng = np.random.default_rng(0)
    slot = script.Slot(0, 0, int(50 * scale), int(46 * scale), True)
    for _ in range(20):
        front, behind = script.draw_pair(rng, slot, scale)
        assert not (front.visible & behind.visible).any()
        assert behind.visible.sum() > 0.08 * slot.width * slot.height
        iou = script.box_iou(script.mask_box(front.visible), script.mask_box(behind.visible))
        assert iou > script.MIN_PAIR_IOU


def test_all_shapes_are_equally_frequent_in_pairs() -> None:
    chances = script._partner_chances()
    assert np.allclose(chances, chances.T)
    assert np.allclose(chances.sum(axis=1), 1)
    for a, b in script.NEVER_PAIRED:
        assert chances[SHAPES.index(a), SHAPES.index(b)] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_touches_all_sides_of_its_box(shape: str) -> None:
    rng = np.random.default_rng(0)
    for width, height in ((24, 30), (60, 52), (41, 41)):
        mask = script.draw_shape(rng, shape, width, height)
        assert mask.shape == (height, width)
        assert script.mask_box(mask) == (0, 0, width, height)


@pytest.mark.parametrize("image_size", [64, 200])
def test_objects_scale_with_the_image(image_size: int) -> None:
    scale = image_size / 128
    for index in range(5):
        image, annotations = script.render_image(np.random.default_rng(index), image_size)
        assert image.shape == (image_size, image_size, 3)
        assert image.dtype == np.uint8
        for annotation in annotations:
            assert annotation["segmentation"]["size"] == [image_size, image_size]
            sides = annotation["bbox"][2:]
            assert all(18 * scale <= side <= 70 * scale for side in sides)


# ----------------------------------------------------------------------------- repeated runs


def test_second_run_changes_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make(tmp_path)
    before = mtimes(directory)
    assert make(tmp_path, progress=True) == directory == tmp_path / "shapes"
    assert "up to date" in capsys.readouterr().out
    assert mtimes(directory) == before


def test_killed_run_leaves_no_json_and_the_next_one_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_files(make(tmp_path / "whole"))
    # The older data set's JSON files must not outlive its images either.
    directory = make(tmp_path / "killed", seed=1)
    write_png = script._write_png

    def killed_at_second_image(path: Path, image: np.ndarray) -> None:
        if path.name == "00000001.png":
            raise KeyboardInterrupt
        write_png(path, image)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script, "_write_png", killed_at_second_image)
        make(tmp_path / "killed")
    assert not list((directory / "annotations").iterdir())

    make(tmp_path / "killed")
    assert read_files(directory) == expected


@pytest.mark.parametrize(
    "lost", ["annotations/instances_val.json", "val/00000001.png"], ids=["json", "image"]
)
def test_only_an_incomplete_part_is_made_again(tmp_path: Path, lost: str) -> None:
    directory = make(tmp_path)
    expected, before = read_files(directory), mtimes(directory)
    (directory / lost).unlink()
    make(tmp_path)
    assert read_files(directory) == expected
    after = mtimes(directory)
    remade = {name for name in before if after[name] != before[name]}
    assert remade == {name for name in before if "val" in name}


def test_damaged_json_is_made_again(tmp_path: Path) -> None:
    directory = make(tmp_path)
    expected = read_files(directory)
    (directory / "annotations" / "instances_test.json").write_text('{"info": ')
    make(tmp_path)
    assert read_files(directory) == expected


@pytest.mark.parametrize(
    "change", [{"seed": 3}, {"image_size": 96}, {"num_images": {"train": 5, "val": 3, "test": 3}}]
)
def test_other_arguments_make_other_files(tmp_path: Path, change: dict[str, Any]) -> None:
    before = read_json(make(tmp_path), "val")
    after = read_json(make(tmp_path, **change), "val")
    assert before["info"] != after["info"]
    assert after["info"]["version"] == script.VERSION
    assert len(after["images"]) == after["info"]["arguments"]["num_images"]


# --------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must not be negative"),
        ({"image_size": 63}, "at least 64 pixels"),
        ({"num_images": {"training": 3}}, "unknown part 'training'"),
        ({"num_images": {"train": 0}}, "must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    options = ["--num-train", "2", "--num-val", "1", "--num-test", "1", "--image-size", "64"]
    monkeypatch.setattr("sys.argv", ["make_shapes.py", *options])
    script.main()
    assert len(read_json(tmp_path / "shapes", "train")["images"]) == 2

    monkeypatch.setattr("sys.argv", ["make_shapes.py", "--image-size", "8"])
    with pytest.raises(SystemExit):
        script.main()
    assert "at least 64 pixels" in capsys.readouterr().err
