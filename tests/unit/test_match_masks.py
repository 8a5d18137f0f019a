"""Data sets with as many masks as set A has: datasets/match_masks.py."""

import importlib.util
import json
import subprocess
import sys

from conftest import REPOSITORY, write_coco

SCRIPT = REPOSITORY / "datasets" / "match_masks.py"


def masked(content):
    return [
        (a["image_id"], a["category_id"]) for a in content["annotations"] if "segmentation" in a
    ]


def test_as_many_masks_of_all_categories(tmp_path):
    json_file, _ = write_coco(tmp_path / "data", num_images=20)
    split = tmp_path / "pets.json"
    split.write_text(json.dumps({"with_masks": ["cat"], "boxes_only": ["dog", "cup", "car"]}))
    output = tmp_path / "out" / "matched.json"
    command = [sys.executable, str(SCRIPT), "--dataset", str(json_file), "--split", str(split)]
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, check=True
    )
    assert "20 of 80 masks, as many as set A has" in done.stdout
    content, original = (json.loads(p.read_text()) for p in (output, json_file))
    assert len(masked(content)) == 20 and len({c for _, c in masked(content)}) == 4
    for a, b in zip(content["annotations"], original["annotations"]):
        assert a.items() <= b.items() and set(b) - set(a) <= {"segmentation"}


def test_seeds_and_crowds(tmp_path):
    spec = importlib.util.spec_from_file_location("match_masks", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    json_file, _ = write_coco(tmp_path, num_images=10)
    content = json.loads(json_file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    one, other, again = (script.match_masks(content, {"cat", "dog"}, seed) for seed in (0, 1, 0))
    assert one[1] == 19, "the crowd is a cat"
    assert masked(one[0]) == masked(again[0]) != masked(other[0])
    assert (1, 1) in masked(one[0]) and len(masked(one[0])) == 20, "a crowd keeps its region"


def test_the_data_set_is_not_written_over(tmp_path):
    json_file, _ = write_coco(tmp_path / "data")
    before = json_file.read_bytes()
    split = tmp_path / "pets.json"
    split.write_text(json.dumps({"with_masks": ["cat"], "boxes_only": ["dog", "cup", "car"]}))
    command = [sys.executable, str(SCRIPT), "--dataset", str(json_file), "--split", str(split)]
    done = subprocess.run([*command, "--output", str(json_file)], capture_output=True, text=True)
    assert done.returncode == 2 and "masks would be lost" in done.stderr
    assert json_file.read_bytes() == before
