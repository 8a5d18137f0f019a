"""``maskx pseudo-masks --method wise``: instances of labels, without the real ones."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools import mask as mask_util

from maskx_d2.cli import main
from maskx_d2.data import PartialMaskDatasetMapper, register_partial
from maskx_d2.pseudo_masks import WiseParameters, find_instances, generate_pseudo_masks
from maskx_d2.splits import ClassSplit

pytestmark = pytest.mark.usefixtures("no_registration_left")

SPLIT = ClassSplit("pets", {"cat"}, {"dog"}, {"cup", "car"})
SIZE = (48, 64)
CUP, CAR = 5, 9

# A classifier whose responses are known: how much brighter than 125 twenty pixels are.
CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch.nn import functional as F

from maskx_d2.data import PartialMaskDatasetMapper
from maskx_d2.image_labels import PeakResponseClassifier

class Pixels(Backbone):
    def forward(self, x):
        pooled = F.avg_pool2d(x, 4)
        return {"features": F.avg_pool2d(pooled, 5, stride=1, padding=2)}

    def output_shape(self):
        return {"features": ShapeSpec(channels=3, stride=4)}

model = L(PeakResponseClassifier)(backbone=L(Pixels)(), num_classes=4, pixel_mean=(0.0, 0.0, 0.0))
dataloader = dict(
    test=dict(
        dataset=L(get_detection_dataset_dicts)(names="known"),
        mapper=L(PartialMaskDatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
    )
)
"""

# Is killed after two images, with half a line of progress written.
KILLED = """
import os, signal, sys
from detectron2.data import MetadataCatalog
from maskx_d2.pseudo_masks import find_instances
from maskx_d2.pseudo_masks.progress import ProgressFile
from maskx_d2.splits import ClassSplit

def add(self, image, masks, add=ProgressFile.add):
    if len(self._offsets) == 2:
        self._file.write(b'{"image": 3, "ma')
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, image, masks)

ProgressFile.add = add
split = ClassSplit("pets", {"cat"}, {"dog"}, {"cup", "car"})
find_instances(*sys.argv[1:6], split=split, proposals=sys.argv[6], progress=False)
"""


def disk(x, y, radius=9):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def rle(mask):
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(SIZE), "counts": encoded["counts"].decode()}


def write_data(folder, num_images=4):
    """Images with a cup (red), a car (green), a cat and a dog; the last has a cup by label only."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images, annotations, proposals = [], [], []
    for i in range(num_images):
        picture = rng.normal(90, 4, (*SIZE, 3))
        cup, car = disk(14, 14 + i), disk(46, 30)
        picture[cup] += (120, 0, 0)
        picture[car] += (0, 120, 0)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        images.append({"id": 10 * i, "file_name": f"{i}.png", "height": 48, "width": 64})
        objects = [(1, [1, 1, 5, 5]), (3, [50, 2, 9, 9]), (CUP, [5, 5 + i, 18, 18])]
        if i == num_images - 1:
            images[-1]["image_labels"] = [1, CUP]
            objects.pop()
        for category, box in [*objects, (CAR, [37, 21, 18, 18])]:
            x, y, w, h = box
            annotations.append(
                {
                    "id": 7 + 2 * len(annotations),
                    "image_id": 10 * i,
                    "category_id": category,
                    "bbox": box,
                    "segmentation": [[x, y, x + w, y, x + w, y + h]],
                    "area": 1.5,
                    "iscrowd": 0,
                }
            )
        # Of those that cover the cup, the second is better; the best covers neither.
        for mask, score in ((disk(14, 12 + i, 11), -1.0), (cup, 2.0), (disk(30, 5, 4), 3.0)):
            proposals.append({"image_id": 10 * i, "score": score, "segmentation": rle(mask)})
    names = [{"id": i, "name": n} for i, n in ((1, "cat"), (3, "dog"), (CUP, "cup"), (CAR, "car"))]
    content = {"images": images, "annotations": annotations, "categories": names}
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "proposals.json").write_text(json.dumps(proposals))
    (folder / "classifier.py").write_text(CONFIG)
    # The channels are of cat, dog, cup and car: red is a cup, green a car.
    weight = torch.tensor([[0, 0, 1.0], [0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]])[..., None, None]
    state = {"classifier.weight": weight, "classifier.bias": torch.full((4,), -125.0)}
    card = {"thing_classes": ["cat", "dog", "cup", "car"]}
    torch.save({"model": state, "maskx_d2": card}, folder / "classifier.pth")
    return folder


@pytest.fixture
def data(tmp_path):
    folder = write_data(tmp_path / "data")
    register_coco_instances("known", {"thing_classes": ["cat", "dog", "cup", "car"]}, "", "")
    return folder


def run(folder, output, **kwargs):
    files = (folder / name for name in ("classifier.py", "classifier.pth", "train.json"))
    kwargs = {"split": SPLIT, "proposals": folder / "proposals.json", "progress": False, **kwargs}
    return find_instances(*map(str, files), folder, output, **kwargs)


def load(path):
    return json.loads(Path(path).read_text())


def iou(annotation, mask):
    found = mask_util.decode(annotation["segmentation"]).astype(bool)
    return (found & mask).sum() / (found | mask).sum()


def change(folder, do, name="train.json"):
    content = load(folder / name)
    do(content)
    (folder / name).write_text(json.dumps(content))


def test_labels_get_instances_and_all_else_stays(data, tmp_path):
    report = run(data, tmp_path / "pseudo.json")
    assert (report.masks, report.without_mask, report.skipped) == (
        {"wise": 4, "wise+grabcut": 4},
        0,
        [],
    )
    before, after = load(data / "train.json"), load(tmp_path / "pseudo.json")
    header = after.pop("pseudo_masks")["parameters"]
    assert header["method"] == "wise" and header["grabcut"]["iterations"] == 5
    assert header["split"] == {"name": "pets", "labels_only": ["car", "cup"]}
    assert after["images"] == before["images"] and after["categories"] == before["categories"]
    kept = [a for a in before["annotations"] if a["category_id"] in (1, 3)]
    assert after["annotations"][: len(kept)] == kept
    found = after["annotations"][len(kept) :]
    first = max(a["id"] for a in before["annotations"]) + 1
    assert [a["id"] for a in found] == list(range(first, first + 8))
    for i, (cup, car) in enumerate(zip(found[::2], found[1::2])):
        assert (cup["image_id"], cup["category_id"]) == (10 * i, CUP)
        assert (car["image_id"], car["category_id"]) == (10 * i, CAR)
        assert iou(cup, disk(14, 14 + i)) == 1 and cup["mask_source"] == "wise"
        assert cup["mask_weight"] == cup["score"] > 0.5  # it is a peak above 0
        # No proposal covers the car.
        assert iou(car, disk(46, 30)) > 0.3 and car["mask_source"] == "wise+grabcut"
        for a in (cup, car):
            assert a["iscrowd"] == 0 and 0 <= a["mask_weight"] <= 1
            assert a["bbox"] == mask_util.toBbox(a["segmentation"]).tolist()
            assert a["area"] == mask_util.area(a["segmentation"])
    assert not list(tmp_path.glob("pseudo.json.*"))


def test_b_gets_masks_of_grabcut_and_c_instances_in_either_order(data, tmp_path):
    def grabcut(source, target):
        generate_pseudo_masks(tmp_path / source, data, tmp_path / target, split=SPLIT)

    run(data, tmp_path / "c.json")
    grabcut("c.json", "c_b.json")
    change(data, lambda content: content.update(annotations=of_sets_with_boxes(content)))
    labels = load(data / "train.json")
    for image, labelled in zip(labels["images"], load(tmp_path / "c.json")["images"], strict=True):
        image["image_labels"] = sorted({*labelled.get("image_labels", ()), CUP, CAR})
    (data / "train.json").write_text(json.dumps(labels))
    generate_pseudo_masks(data / "train.json", data, tmp_path / "b.json", split=SPLIT)
    (data / "train.json").write_bytes((tmp_path / "b.json").read_bytes())
    run(data, tmp_path / "b_c.json")
    both, other = load(tmp_path / "c_b.json"), load(tmp_path / "b_c.json")
    methods = [
        (content["pseudo_masks"]["parameters"]["method"], content["pseudo_masks"]["before"])
        for content in (both, other)
    ]
    assert [method for method, _ in methods] == ["grabcut", "wise"]
    assert methods[0][1] == load(tmp_path / "c.json")["pseudo_masks"]
    assert methods[1][1] == load(tmp_path / "b.json")["pseudo_masks"]
    found = [[{**a, "id": 0} for a in content["annotations"]] for content in (both, other)]
    assert found[0] == found[1]
    sources = {(a["category_id"], a.get("mask_source")) for a in both["annotations"]}
    assert sources == {(1, None), (3, "box"), (CUP, "wise"), (CAR, "wise+grabcut")}


def of_sets_with_boxes(content):
    return [a for a in content["annotations"] if a["category_id"] in (1, 3)]


def test_the_real_instances_are_not_read_beyond_their_category(data, tmp_path):
    run(data, tmp_path / "a.json")

    def poison(content):
        for number, a in enumerate(content["annotations"]):
            if a["category_id"] in (CUP, CAR):
                a |= {"bbox": [number, 0, 3, 3], "segmentation": "poison", "area": -1.0}
                if number % 2:
                    del a["bbox"], a["segmentation"]

    change(data, poison)
    run(data, tmp_path / "b.json")
    a, b = (load(tmp_path / name) for name in ("a.json", "b.json"))
    assert a.pop("pseudo_masks") != b.pop("pseudo_masks")  # the hash of the source
    assert a == b

    change(data, lambda content: content["annotations"][2].update(category_id=3))  # control
    run(data, tmp_path / "c.json")
    assert load(tmp_path / "c.json")["annotations"] != a["annotations"]


def test_without_proposals_grabcut_makes_all(data, tmp_path):
    report = run(data, tmp_path / "pseudo.json", proposals=None)
    assert report.masks == {"wise+grabcut": 8}
    assert load(tmp_path / "pseudo.json")["pseudo_masks"]["parameters"]["proposals_sha256"] is None


def test_a_label_has_an_instance_however_small_its_peak_is(data, tmp_path):
    parameters = WiseParameters(min_response=1000.0)
    assert run(data, tmp_path / "pseudo.json", parameters=parameters).without_mask == 0


def test_several_objects_and_one_object_with_several_peaks(data, tmp_path):
    picture = np.asarray(Image.open(data / "0.png")).copy()
    second = disk(16, 37, 7)
    picture[second] += np.array([110, 0, 0], dtype=np.uint8)
    Image.fromarray(picture).save(data / "0.png")
    change(
        data,
        lambda p: p.append({"image_id": 0, "score": 1.0, "segmentation": rle(second)}),
        "proposals.json",
    )
    run(data, tmp_path / "pseudo.json")
    cups = [
        a
        for a in load(tmp_path / "pseudo.json")["annotations"]
        if (a["image_id"], a["category_id"]) == (0, CUP)
    ]
    assert [iou(a, m) for a, m in zip(cups, (disk(14, 14), second), strict=True)] == [1, 1]


def test_a_killed_call_and_two_workers_give_the_same_bytes(data, tmp_path):
    run(data, tmp_path / "whole.json")
    run(data, tmp_path / "workers.json", workers=2)
    whole = (tmp_path / "whole.json").read_bytes()
    assert (tmp_path / "workers.json").read_bytes() == whole
    output = tmp_path / "pseudo.json"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    names = ("classifier.py", "classifier.pth", "train.json", "", "proposals.json")
    files = [data / name for name in names]
    files.insert(4, output)
    killed = subprocess.run([sys.executable, script, *files], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    progress = tmp_path / "pseudo.json.progress.jsonl"
    assert progress.read_bytes().endswith(b'{"image": 3, "ma') and not output.exists()
    for image in (0, 1):  # these are done
        os.unlink(data / f"{image}.png")
    assert run(data, output).skipped == []
    assert output.read_bytes() == whole and not progress.exists()
    assert run(data, output).masks == {"wise": 4, "wise+grabcut": 4}  # not repeated


def test_the_command_and_a_missing_image(data, tmp_path, capsys):
    (data / "split.json").write_text(
        '{"with_masks": ["cat"], "boxes_only": ["dog"], "labels_only": ["cup", "car"]}'
    )
    (data / "0.png").rename(data / "away.png")
    argv = ["pseudo-masks", "--method", "wise", "--dataset-json", data / "train.json"]
    argv += ["--image-root", data, "--output", tmp_path / "p.json", "--workers", 1]
    argv += ["--split", data / "split.json", "--config-file", data / "classifier.py"]
    argv += ["--weights", data / "classifier.pth", "--proposals", data / "proposals.json"]
    argv = [str(a) for a in argv]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert "6 instances, 3 of them proposals, 3 by GrabCut and 0 whole boxes; 2 labels of" in out
    assert f"no file '{data / '0.png'}'" in err
    (data / "away.png").rename(data / "0.png")
    assert main(argv) == 0
    assert "8 instances, 4 of them proposals" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config-file is needed, of the classifier"),
        (["--config-file", "c.py", "--weights", "w.pth"], "--split is needed, whose 'labels_only'"),
        (["--method", "grabcut", "--max-iou", "0.5"], "--max-iou is of --method wise"),
        (
            ["--config-file", "c", "--weights", "w", "--split", "a18b9c9", "--max-iou", "2"],
            "--max-iou is 2.0, but must be between 0 and 1",
        ),
    ],
)
def test_mistakes_in_the_command(data, tmp_path, capsys, argv, message):
    given = ["--dataset-json", data / "train.json", "--image-root", data, "--output"]
    given = [str(a) for a in [*given, tmp_path / "p.json"]]
    with pytest.raises(SystemExit) as stop:
        main(["pseudo-masks", "--method", "wise", *given, *argv])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda c: c["annotations"][0].update(id="a"), "annotation a of image 0 needs an integer"),
        (lambda c: c["annotations"][2].update(category_id=4), "category_id 4, which is not in"),
        (lambda c: c["annotations"][0].update(mask_source="x"), "has a pseudo-mask already"),
        (lambda c: c["annotations"][2].update(mask_source="x"), "has a pseudo-mask already"),
        (lambda c: c["images"][3].update(image_labels=[2]), "image 30: image_labels has 2"),
    ],
)
def test_files_that_cannot_be_used(data, tmp_path, do, message):
    change(data, do)
    with pytest.raises(ValueError, match=message):
        run(data, tmp_path / "pseudo.json")


def test_what_does_not_fit_is_said(data, tmp_path):
    with pytest.raises(ValueError, match="split 'two' has no categories with image labels only"):
        run(data, tmp_path / "p.json", split=ClassSplit("two", {"cat", "cup"}, {"dog", "car"}))
    with pytest.raises(ValueError, match="has no proposal for any of the 4 images"):
        (data / "none.json").write_text("[]")
        run(data, tmp_path / "p.json", proposals=data / "none.json")
    change(data, lambda p: p[4]["segmentation"].update(size=[64, 48]), "proposals.json")
    with pytest.raises(ValueError, match=r"entry 4, of image 10, needs .* of 48 × 64 pixels"):
        run(data, tmp_path / "q.json")
    change(data, lambda c: c["categories"][2].update(name="mug"))
    with pytest.raises(ValueError, match=r"does not know 1 of the 2 .* image labels only: mug"):
        run(data, tmp_path / "r.json", split=ClassSplit("p", {"cat"}, {"dog"}, {"mug", "car"}))


def test_what_it_writes_trains(data, tmp_path):
    run(data, tmp_path / "pseudo.json")
    register_coco_instances("pseudo", {}, str(tmp_path / "pseudo.json"), str(data))
    for name, split, supervised in (
        ("masks", ClassSplit("masks", {"cat", "cup", "car"}, {"dog"}), {0, 2, 3}),
        ("boxes", ClassSplit("boxes", {"cat"}, {"dog", "cup", "car"}), {0}),
    ):
        register_partial(f"pseudo_{name}", base="pseudo", split=split)
        mapper = PartialMaskDatasetMapper(
            is_train=True, augmentations=[], image_format="BGR", use_instance_mask=True
        )
        np.random.seed(0)
        seen = [mapper(record)["instances"] for record in DatasetCatalog.get(f"pseudo_{name}")]
        assert [sorted(s.gt_classes.tolist()) for s in seen] == [[0, 1, 2, 3]] * 4
        assert {int(c) for s in seen for c in s.gt_classes[s.gt_has_mask]} == supervised
