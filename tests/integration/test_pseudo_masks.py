"""``maskx pseudo-masks``: real masks stay, kills leave no trace, and what it writes trains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools import mask as mask_util

from maskx_d2.cli import main
from maskx_d2.data import PartialMaskDatasetMapper, has_mask, register_partial
from maskx_d2.pseudo_masks import Parameters, generate_pseudo_masks, rewrite
from maskx_d2.splits import ClassSplit

SPLIT = ClassSplit("pets", {"cat"}, {"dog"})
SIZE = (48, 64)

pytestmark = pytest.mark.usefixtures("no_registration_left")

# Does half the job with two workers, and is killed with half a line of progress written.
KILLED = """
import multiprocessing, os, signal, sys
from maskx_d2.pseudo_masks import generate_pseudo_masks
from maskx_d2.pseudo_masks.progress import ProgressFile
from maskx_d2.splits import ClassSplit

def add(self, image, masks, add=ProgressFile.add):
    if len(self._offsets) == 2:
        self._file.write(b'{"image": 3, "ma')
        self._file.flush()
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, image, masks)

if __name__ == "__main__":
    ProgressFile.add = add
    split = ClassSplit("pets", {"cat"}, {"dog"})
    generate_pseudo_masks(*sys.argv[1:], split=split, workers=2, progress=False)
"""


def write_disks(folder, num_images=5):
    """Images with a disk of a cat, one of a dog, a dog that no one can see, and a crowd of dogs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    images, annotations = [], []
    for i in range(num_images):
        picture = rng.normal(90, 8, (*SIZE, 3))
        for center in (14, 46):
            picture[(x - center) ** 2 + (y - 20) ** 2 < 100] += (60, -40, 20)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        images.append({"id": 10 * i, "file_name": f"{i}.png", "height": 48, "width": 64, "x": i})
        square = [[36.25, 10.5, 56.125, 10.5, 56.125, 30, 36.25, 30]]
        for category, box, mask, crowd in (
            (1, [4, 10, 20, 20], [[4.5, 10, 24, 10, 24, 30.75]], 0),
            (7, [36, 10, 20, 20], square, 0),
            (7, [24, 38, 12, 8], [], 0),
            (7, [0, 0, 64, 48], {"size": list(SIZE), "counts": [5, 9, 3058]}, 1),
        ):
            annotations.append(
                {
                    "id": len(annotations) + 100,
                    "image_id": 10 * i,
                    "segmentation": mask,
                    "category_id": category,
                    "bbox": box,
                    "iscrowd": crowd,
                    "note": "ä",
                }
            )
    content = {
        "info": {"year": 2017.50, "list": [1, 2]},
        "licenses": [],
        "images": images,
        "annotations": sorted(annotations, key=lambda a: a["id"] % 4),  # not by image
        "own key": [[1], None, 12345],
        "n": 1234567890123456,
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    json_file = folder / "train.json"
    json_file.write_text(json.dumps(content, indent=1))
    return json_file, folder


@pytest.fixture
def disks(tmp_path):
    return write_disks(tmp_path / "data")


def run(json_file, folder, output, **kwargs):
    kwargs = {"split": SPLIT, "progress": False, **kwargs}
    return generate_pseudo_masks(json_file, folder, output, **kwargs)


def by_id(path):
    return {a["id"]: a for a in json.loads(Path(path).read_text())["annotations"]}


def change(json_file, do):
    content = json.loads(json_file.read_text())
    do(content)
    json_file.write_text(json.dumps(content))


def test_a_file_must_have_no_box_of_what_has_image_labels_only(disks, tmp_path):
    split = ClassSplit("grades", {"cat"}, set(), {"dog"})
    for changed in (lambda content: None, of_no_source, crowds_of_dogs_only):
        change(disks[0], changed)
        with pytest.raises(
            ValueError, match=r"annotation 10\d of image .* labels_only.* take them"
        ):
            run(*disks, tmp_path / "pseudo.json", split=split)
        assert not (tmp_path / "pseudo.json").exists()
    change(disks[0], lambda content: content["annotations"].__delitem__(slice(None)))
    change(disks[0], lambda content: content["images"][0].update(image_labels=[7]))
    assert run(*disks, tmp_path / "pseudo.json", split=split).masks == {}
    assert json.loads((tmp_path / "pseudo.json").read_text())["images"][0]["image_labels"] == [7]


def of_no_source(content):
    for annotation in content["annotations"]:
        annotation["mask_source"] = None


def crowds_of_dogs_only(content):
    content["annotations"] = [
        a for a in content["annotations"] if a["category_id"] == 1 or a["iscrowd"]
    ]


def test_b_gets_masks_and_all_else_stays(disks, tmp_path):
    report = run(*disks, tmp_path / "pseudo.json")
    assert (report.masks, report.without_mask, report.skipped) == ({"box": 5, "grabcut": 5}, 0, [])
    before = json.loads(disks[0].read_text())
    after = json.loads((tmp_path / "pseudo.json").read_text())
    header = after.pop("pseudo_masks")
    assert header["parameters"]["method"] == "grabcut" and header["parameters"]["iterations"] == 5
    assert header["parameters"]["split"] == {"name": "pets", "boxes_only": ["dog"]}
    assert header["instances"] == {"masks": {"box": 5, "grabcut": 5}, "without_mask": 0}
    assert list(after) == list(before)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for old, new in zip(before.pop("annotations"), after.pop("annotations"), strict=True):
        if old["category_id"] == 1 or old["iscrowd"]:
            assert new == old
            continue
        source, segmentation = new.pop("mask_source"), new.pop("segmentation")
        old.pop("segmentation")
        assert new.pop("area") == mask_util.area(segmentation)  # the file had none
        assert new == old
        assert segmentation["size"] == list(SIZE) and isinstance(segmentation["counts"], str)
        mask = mask_util.decode(segmentation).astype(bool)
        if source == "grabcut":
            disk = (x - 46) ** 2 + (y - 20) ** 2 < 100
            assert (mask & disk).sum() / (mask | disk).sum() > 0.95
        else:
            assert source == "box" and mask.sum() == 12 * 8 and mask[38:46, 24:36].all()
    assert after == before
    assert not list(tmp_path.glob("pseudo.json.*"))


def test_what_stays_is_the_same_text(disks, tmp_path):
    text = disks[0].read_text()
    text = text.replace("2017.5,", "2.01750e3 ,").replace('"ä"', '"\\u00e4"', 1)
    text = text.replace("4.5,", "4.50,").replace("\n", "\r\n")
    disks[0].write_bytes(text.encode())
    run(*disks, tmp_path / "pseudo.json")
    after = (tmp_path / "pseudo.json").read_bytes().decode()
    assert "2.01750e3 ," in after and after.count("4.50,") == 5
    images = text[text.index('"id": 0') : text.index('"id": 40')].split("},")
    assert len(images) == 5 and all(image.strip(" \r\n{") in after for image in images)


def test_real_masks_of_b_are_not_used(disks, tmp_path):
    run(*disks, tmp_path / "a.json")

    def distort(content):
        for a in content["annotations"]:
            if a["category_id"] == 7 and not a["iscrowd"]:
                a["segmentation"] = [[1, 1, 9, 1, 9, 9]]

    change(disks[0], distort)
    run(*disks, tmp_path / "b.json")
    assert by_id(tmp_path / "a.json") == by_id(tmp_path / "b.json")


def test_without_a_split_only_missing_masks_are_made(disks, tmp_path):
    report = run(*disks, tmp_path / "pseudo.json", split=None)
    assert sum(report.masks.values()) == 5
    before, after = by_id(disks[0]), by_id(tmp_path / "pseudo.json")
    for i, old in before.items():
        if has_mask(old):
            assert after[i] == old
        else:
            assert after[i]["mask_source"] == "box" and has_mask(after[i])


def test_pieces_of_any_size_make_the_same_file(disks, tmp_path, monkeypatch):
    run(*disks, tmp_path / "a.json")
    for size in (1, 7, 100):
        monkeypatch.setattr(rewrite, "_PIECE", size)
        run(*disks, tmp_path / f"{size}.json")
        assert (tmp_path / f"{size}.json").read_bytes() == (tmp_path / "a.json").read_bytes()


# ---------------------------------------------------------------------------- kills


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_call_goes_on_to_the_same_bytes_and_leaves_no_worker(disks, tmp_path):
    run(*disks, tmp_path / "whole.json")
    output = tmp_path / "pseudo.json"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    log = tmp_path / "log.txt"  # a pipe would stay open as long as a worker lives
    with log.open("w") as file:
        killed = subprocess.run(
            [sys.executable, script, *disks, output], stdout=file, stderr=file, check=False
        )
    assert killed.returncode == -signal.SIGKILL, log.read_text()
    workers = [int(pid) for pid in log.read_text().splitlines()[0].split()]
    assert not output.exists()
    progress = tmp_path / "pseudo.json.progress.jsonl"
    assert progress.read_bytes().endswith(b'{"image": 3, "ma')
    # Two finished images are not done again: without their files they are still there.
    finished = [json.loads(line)["image"] for line in progress.read_text().splitlines()[1:3]]
    for image in finished:
        (disks[1] / f"{image}.png").unlink()
    assert run(*disks, output).skipped == []
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not progress.exists()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while not all(gone(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.1)


def test_progress_cut_off_anywhere_goes_on_to_the_same_bytes(disks, tmp_path, monkeypatch):
    output, progress = tmp_path / "pseudo.json", tmp_path / "pseudo.json.progress.jsonl"
    monkeypatch.setattr(Path, "unlink", lambda path: None)  # killed before it is removed
    run(*disks, output)
    monkeypatch.undo()
    whole, lines = output.read_bytes(), progress.read_bytes()
    image = (disks[1] / "4.png").read_bytes()
    for length in [*range(0, len(lines), len(lines) // 12), len(lines) - 1, len(lines)]:
        for calls in (1, 2):
            progress.write_bytes(lines[:length])
            if calls == 2:  # the first stops before the last image
                output.unlink()
                (disks[1] / "4.png").unlink()
                run(*disks, output)
                (disks[1] / "4.png").write_bytes(image)
            run(*disks, output)
            assert output.read_bytes() == whole
    assert not progress.exists()


def test_a_kill_while_the_output_is_written_leaves_none(disks, tmp_path, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    output = tmp_path / "pseudo.json"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(*disks, output)
    assert not output.exists()
    run(*disks, output)
    assert len(by_id(output)) == 20


def test_a_finished_call_is_not_repeated(disks, tmp_path):
    report = run(*disks, tmp_path / "pseudo.json")
    for image in disks[1].glob("*.png"):
        image.unlink()
    assert run(*disks, tmp_path / "pseudo.json") == report


# ------------------------------------------------------------------------- bad images


def test_bad_images_are_named_and_skipped_and_done_when_corrected(disks, tmp_path, capsys):
    json_file, folder = disks
    run(*disks, tmp_path / "whole.json")
    good = {i: (folder / f"{i}.png").read_bytes() for i in (0, 1, 3)}
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(good[1][:2000])
    Image.new("RGB", (48, 64)).save(folder / "3.png")
    (tmp_path / "split.json").write_text('{"with_masks": ["cat"], "boxes_only": ["dog"]}')
    output = tmp_path / "pseudo.json"
    argv = [
        *("pseudo-masks", "--method", "grabcut", "--dataset-json", json_file, "--image-root"),
        *(folder, "--output", output, "--split", tmp_path / "split.json", "--workers", "1"),
    ]
    for _ in range(2):
        assert main([str(a) for a in argv]) == 1
        out, err = capsys.readouterr()
        assert "2 GrabCut masks, 2 whole boxes" in out and "6 instances still without" in out
        assert "3 images can't be used" in err and f"no file '{folder / '0.png'}'" in err
        assert "1.png' can't be read (" in err
        assert "3.png' has 48 × 64 pixels, but the JSON file says 64 × 48." in err
    assert json.loads(output.read_text())["pseudo_masks"]["skipped_images"] == [0, 10, 30]
    for a in by_id(output).values():
        if a["image_id"] in (0, 10, 30) and a["category_id"] == 7 and not a["iscrowd"]:
            assert "segmentation" not in a and "mask_source" not in a
    for i, data in good.items():
        (folder / f"{i}.png").write_bytes(data)
    assert main([str(a) for a in argv]) == 0
    assert by_id(output) == by_id(tmp_path / "whole.json")


def test_instances_without_a_pixel_or_an_image_have_no_mask(disks, tmp_path):
    def break_two(content):
        dogs = [a for a in content["annotations"] if a["category_id"] == 7 and not a["iscrowd"]]
        dogs[0]["bbox"] = [10, 10, 0, 5]
        dogs[1]["image_id"] = 77

    change(disks[0], break_two)
    report = run(*disks, tmp_path / "pseudo.json")
    assert report.without_mask == 2 and report.skipped == []
    dogs = [
        a
        for a in by_id(tmp_path / "pseudo.json").values()
        if a["category_id"] == 7 and not a["iscrowd"]
    ]
    assert sum("segmentation" not in a for a in dogs) == 2


# --------------------------------------------------------------------------- mistakes


def test_real_masks_are_never_overwritten(disks, tmp_path):
    json_file, folder = disks
    text = json_file.read_bytes()
    with pytest.raises(ValueError, match="file with the real masks, which are never overwritten"):
        run(json_file, folder, json_file)
    (tmp_path / "link.json").symlink_to(json_file)
    with pytest.raises(ValueError, match="never overwritten"):
        run(json_file, folder, tmp_path / "link.json")
    for content in (text, b"\xff\xfe", b"", b'["pseudo_masks"]'):
        (tmp_path / "val.json").write_bytes(content)
        with pytest.raises(ValueError, match="has masks that may be real, so it is not overwr"):
            run(json_file, folder, tmp_path / "val.json")
        assert (tmp_path / "val.json").read_bytes() == content
    assert json_file.read_bytes() == text


def test_other_parameters_are_refused(disks, tmp_path):
    output = tmp_path / "pseudo.json"
    (disks[1] / "0.png").unlink()
    run(*disks, output)
    with pytest.raises(ValueError, match=r"pseudo\.json' exists and has other parameters"):
        run(*disks, output, parameters=Parameters(iterations=2))
    output.unlink()
    for changed, message in (
        ({"parameters": Parameters(iterations=2)}, "with iterations 5, not 2; go on with the same"),
        ({"split": None}, "with split {'name': 'pets'.*, not None"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*disks, output, **changed)
    change(disks[0], lambda content: content["info"].update(year=1))
    with pytest.raises(ValueError, match="with source_sha256"):
        run(*disks, output)


def test_a_damaged_progress_file_and_one_in_use(disks, tmp_path):
    progress = tmp_path / "pseudo.json.progress.jsonl"
    progress.write_text("notes\nof mine\n")
    with pytest.raises(ValueError, match=r"jsonl, line 1: not a line of this job's progress"):
        run(*disks, tmp_path / "pseudo.json")
    assert progress.read_text() == "notes\nof mine\n"
    progress.unlink()
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, progress], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ValueError, match="is in use: another call writes the same output"):
            run(*disks, tmp_path / "pseudo.json")
        other.stdin.close()


def set_of(number, **changes):
    return lambda content: content["annotations"][number].update(changes)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (set_of(6, bbox=[1, 2, 3]), r"annotation 105 of image 10 needs a 'bbox' of four numbers"),
        (set_of(6, id="six"), r"annotation six of image 10 needs an integer 'id'"),
        (set_of(0, category_id=5), r"annotation 100 of image 0 has category_id 5, which is not"),
        (set_of(0, mask_source="grabcut"), r"annotation 100 .* has a pseudo-mask already"),
        (set_of(1, mask_source="grabcut"), r"annotation 104 .* has a pseudo-mask already"),
        (lambda c: c.update(pseudo_masks={}), r"has a 'pseudo_masks' that is not of `maskx"),
        (lambda c: c["images"][1].pop("width"), r"image 10 has no 'width'"),
        (lambda c: c["images"][1].update(id=0), r"two images have the id 0"),
        (lambda c: c["categories"].append({"id": 8, "name": "cow"}), r"'cow' of the data set"),
    ],
)
def test_files_that_cannot_be_used(disks, tmp_path, do, message):
    change(disks[0], do)
    with pytest.raises(ValueError, match=message):
        run(*disks, tmp_path / "pseudo.json")
    assert not (tmp_path / "pseudo.json").exists()


def test_a_file_that_is_cut_off_is_one_sentence(disks, tmp_path, capsys):
    disks[0].write_text(disks[0].read_text()[:-100])
    argv = ["--image-root", str(disks[1]), "--output", str(tmp_path / "pseudo.json")]
    assert main(["pseudo-masks", "--dataset-json", str(disks[0]), *argv]) == 1
    assert "it may have been cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--iterations", "0"], "--iterations is 0, but must be at least 1"),
        (["--margin", "-1"], "--margin is -1.0, but must be 0 or more"),
        (["--max-side", "3"], "--max-side is 3, but must be at least 16 pixels"),
        (["--min-fill", "nan"], "--min-fill is nan, but must be a share between 0 and 1"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--method", "magic"], "invalid choice: 'magic'"),
        (["--split", "no.json"], "does not exist; presets are voc2nonvoc"),
        (["--image-root", "/no/folder"], "'/no/folder' does not exist"),
        (["--dataset", "no_such"], "neither a registered data set nor a file"),
        (["--dataset", "own"], "is not a COCO JSON file"),
    ],
)
def test_mistakes_in_the_command_are_exit_status_2(disks, tmp_path, capsys, argv, message):
    DatasetCatalog.register("own", list)
    given = ["--dataset-json", disks[0], "--image-root", disks[1], "--output", tmp_path / "p.json"]
    with pytest.raises(SystemExit) as stop:
        main(["pseudo-masks", *(str(a) for a in given), *argv])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("p.json*"))


# --------------------------------------------------------------------------- training


def test_what_it_writes_loads_and_trains(disks, tmp_path):
    json_file, folder = disks
    register_coco_instances("pets", {}, str(json_file), str(folder))
    register_partial("pets_partial", base="pets", split=SPLIT)
    output = str(tmp_path / "new" / "folder" / "pseudo.json")
    argv = ["--dataset", "pets_partial", "--output", output, "--workers", "1"]
    assert main(["pseudo-masks", *argv]) == 0
    assert json.loads(Path(output).read_text())["pseudo_masks"]["parameters"]["split"] is not None
    register_coco_instances("pseudo", {}, output, str(folder))
    register_partial("pseudo_partial", base="pseudo")
    partial = PartialMaskDatasetMapper(
        is_train=True, augmentations=[], image_format="BGR", use_instance_mask=True
    )
    stock = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    real = by_id(output)
    for name, mapper in (("pseudo", stock), ("pseudo_partial", partial)):
        for record in DatasetCatalog.get(name):
            annotations = [a for a in record["annotations"] if not a["iscrowd"]]
            instances = mapper(record)["instances"]
            assert len(instances) == 3
            masks = instances.gt_masks.tensor
            assert masks.shape == (3, *SIZE)
            if name == "pseudo_partial":
                assert instances.gt_has_mask.tolist() == [True, True, True]
                for mask, annotation in zip(masks, annotations):
                    segmentation = real[annotation["id"]]["segmentation"]
                    if isinstance(segmentation, dict):
                        assert (mask.numpy() == mask_util.decode(segmentation)).all()
