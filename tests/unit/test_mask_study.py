"""The study beyond the paper: whose masks a method sees, and who is compared with whom."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from maskx_d2.engine.roi_cache import CachedRoIs, RoIWriter
from maskx_d2.splits import random_split


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from mask_study import scenes, tables

    yield scenes, tables
    for name in [n for n in sys.modules if n.startswith("mask_study")]:
        del sys.modules[name]


def test_seeds_have_sets_of_their_own(study):
    scenes, tables = study
    names = ("cat", "dog", "cup", "car")

    class Pets(scenes.Scenes):
        classes = names

    halves = {"halves": lambda seed: random_split(names, 2, seed)}
    pets = Pets("", "", ("val",), halves, iterations=0, detectors=1)

    def run(seed, ap, iou_of_b):
        _, b = halves["halves"](seed).indices(names)
        # Image 1 has all four, image 2 the first alone.
        rows = [(1, c, iou_of_b if c in b else 1.0) for c in range(4)]
        rows.append((2, 0, iou_of_b if 0 in b else 1.0))
        return {"val": {"segm_A": {"AP": 50.0}, "segm_B": {"AP": ap}, "rows": rows}}

    figures = {
        "transfer": {0: run(0, 10.0, 0.52), 1: run(1, 12.0, 0.52)},
        "better": {0: run(0, 15.0, 0.97), 1: run(1, 19.0, 0.97)},
        "oracle": {0: run(0, 20.0, 0.97), 1: run(1, 20.0, 0.97)},
    }
    lines = tables.table(figures, "val", pets, "halves", "transfer").splitlines()
    cells = {c[1]: c[2:-1] for c in ([x.strip() for x in line.split("|")] for line in lines)}
    assert cells["transfer"][:4] == ["2", "11.0 ± 1.4", "0.55", "10.0 ± 0.0"]
    assert cells["better"][:4] == ["2", "17.0 ± 2.8", "0.85", "100.0 ± 0.0"]
    assert cells["better"][-2].startswith("+6.0 ±")  # 5 and 7
    assert cells["better"][-1] == "+90.0 [+90.0, +90.0]"
    assert cells["transfer"][-2:] == ["", ""]


def test_recall_can_leave_categories_out_and_is_placed_between_baseline_and_oracle(study):
    scenes, tables = study
    names = ("cat", "dog", "cup", "car")

    class Pets(scenes.Scenes):
        classes = names

    split = random_split(names, 2, 0)
    pets = Pets("", "", ("val",), {"one": lambda seed: split}, iterations=0, detectors=1)
    first, second = split.indices(names)[1]

    def run(iou_of_first, iou_of_second):
        rows = [(1, first, iou_of_first), (1, second, iou_of_second)]
        return {0: {"val": {"segm_A": {"AP": 1.0}, "segm_B": {"AP": 1.0}, "rows": rows}}}

    # An IoU of 0.52 is right at one threshold of ten, 0.72 at five, 0.97 at all.
    figures = {
        "class-agnostic": run(0.52, 0.52),
        "better": run(0.72, 0.97),
        "oracle": run(0.97, 0.97),
    }

    def better(without):
        lines = tables.table(figures, "val", pets, "one", "class-agnostic", without).splitlines()
        (line,) = (line for line in lines if line.startswith("| better"))
        cells = dict(zip(lines[0].split("|"), line.split("|"), strict=True))
        cells = {k.strip(): v.strip() for k, v in cells.items()}
        return cells["mask AR on true boxes, B"], cells["of the gap in AR, B"]

    assert better([]) == ("75.0", "0.72")
    assert better([names[second]]) == ("50.0", "0.44")

    figures["better"][1] = run(0.97, 0.97)[0]
    lines = tables.by_category(figures, "val", pets, "one").splitlines()
    cells = {c[1]: c[2:-1] for c in ([x.strip() for x in line.split("|")] for line in lines)}
    assert cells[names[first]] == ["10.0", "75.0 [50.0, 100.0]", "100.0"]
    assert cells.keys() & {*names} == {names[first], names[second]}, "of B"


@pytest.fixture
def kept(study, tmp_path):
    """Two images' RoIs: of objects of categories 0 to 3 two each, of which each is on the next."""
    from mask_study import rois

    torch.manual_seed(0)
    writer = RoIWriter(tmp_path / "kept" / "rois")
    targets = torch.rand(8, 6 + rois.OTHERS, 4, 4) > 0.5
    features = torch.arange(8.0)[:, None, None, None].expand(8, 3, 2, 2)
    classes = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    writer.write(CachedRoIs(features, targets, classes))
    others = np.full((8, rois.OTHERS), -1)
    others[:, 0] = (classes.numpy() + 1) % 4
    np.save(tmp_path / "kept" / "others.npy", others)
    np.save(tmp_path / "kept" / "objects.npy", np.arange(8) // 2)
    about = {"format": rois.FORMAT, "images": 2}
    (tmp_path / "kept" / "about.json").write_text(json.dumps(about))
    return rois.TrainRoIs(tmp_path / "kept"), targets


def test_masks_that_a_method_must_not_see_are_in_none_of_its_targets(kept):
    rois, targets = kept
    of_a = np.array([True, True, False, False])
    batch = rois.batch(np.arange(8)[::-1], of_a[rois.classes], of_a)
    assert batch.masks.classes.tolist() == [0, 0, 1, 1]
    assert torch.equal(batch.masks.targets, targets[:4, 0])
    assert batch.boxes.classes.tolist() == [2, 2, 3, 3]
    # The box and the colours are there; of other objects those of A alone: 0 is on 3, 3 on 2.
    assert torch.equal(batch.boxes.targets[:, :5], targets[4:, 1:6])
    assert not batch.boxes.targets[:2, 5].any()
    assert torch.equal(batch.boxes.targets[2:, 5], targets[6:, 6])


def test_the_oracle_has_as_many_objects_with_masks_as_a_has(kept):
    rois, _ = kept
    of_a = np.array([True, False, False, False])
    drawn = {tuple(rois.as_many(of_a, seed)) for seed in range(20)}
    assert len(drawn) == 4  # any object, with both of its RoIs
    for has_mask in drawn:
        assert np.array_equal(has_mask[::2], has_mask[1::2]) and sum(has_mask) == 2


def test_what_an_earlier_version_kept_is_not_used(kept, tmp_path):
    from mask_study import rois

    (tmp_path / "kept" / "about.json").write_text(json.dumps({"images": 2}))
    with pytest.raises(SystemExit, match="earlier version"):
        rois.TrainRoIs(tmp_path / "kept")


def test_photographs_to_choose_on_are_none_of_those_to_report(
    study, tmp_path, monkeypatch, no_registration_left
):
    from mask_study import photographs

    json_file, images = write_coco(tmp_path / "data", num_images=7)
    register_coco_instances("pets", {}, str(json_file), str(images))
    monkeypatch.setattr(photographs, "FOLDER", tmp_path / "parts")
    parts = photographs.register_parts("pets")
    found = [{r["image_id"] for r in DatasetCatalog.get(part)} for part in parts]
    whole = {r["image_id"] for r in DatasetCatalog.get("pets")}
    assert [len(ids) for ids in found] == [3, 4]
    assert found[0] | found[1] == whole
    for part, ids in zip(parts, found, strict=True):
        content = json.loads(Path(MetadataCatalog.get(part).json_file).read_text())
        assert {image["id"] for image in content["images"]} == ids
        assert {a["image_id"] for a in content["annotations"]} <= ids
