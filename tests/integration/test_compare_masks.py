"""The comparison of a grid's methods on ground-truth boxes, benchmarks/compare_masks.py."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, write_coco

GRID = {
    "output": "out",
    "seeds": [1, 2],
    "methods": {"class-agnostic": {"config": "a.yaml"}, "better": {"config": "a.yaml"}},
    "table": {"columns": {"AR": "mask_probe_B/AR"}},
}


@pytest.fixture
def folder(tmp_path):
    write_coco(tmp_path / "data", num_images=6)
    (tmp_path / "a.yaml").write_text("SEED: 1\n")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    split = {"with_masks": ["cat", "dog"], "boxes_only": ["cup", "car"]}
    (tmp_path / "pets.json").write_text(json.dumps(split))
    entry = "{json: data/annotations.json, images: data, split: pets.json"
    (tmp_path / "pets.yaml").write_text(
        f"pets_train: {entry}}}\npets_val: {entry}, keep_masks: true}}\n"
    )
    for method, iou in (("class-agnostic", 0.62), ("better", 0.82)):
        for seed in (1, 2):
            cell = tmp_path / "out" / method / f"seed{seed}"
            (cell / "inference").mkdir(parents=True)
            (cell / "done.json").write_text("{}")
            rows = [
                # On A both are perfect, and not asked for.
                {"image_id": i, "annotation": c, "category_id": c, "iou": iou if c > 1 else 1.0}
                for i in range(1, 7)
                for c in range(4)
            ]
            rows = [{**row, "box_iou": 1.0} for row in rows]
            (cell / "inference" / "mask_probe.json").write_text(json.dumps(rows))
    return tmp_path


def compare(folder, *args):
    return subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "benchmarks" / "compare_masks.py"), "grid.yaml"),
            *("--train", "pets_train", "--test", "pets_val", *args),
        ],
        cwd=folder,
        env={**os.environ, "MASKX_DATASETS": "pets.yaml", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_table(folder):
    done = compare(folder)
    assert done.returncode == 0, done.stderr
    rows = {
        cells[0]: cells[1:]
        for line in done.stdout.splitlines()
        if (cells := [c.strip() for c in line.strip("|").split("|")]) and len(cells) > 5
    }
    # 0.62 passes 3 of COCO's 10 thresholds, 0.82 passes 7.
    assert rows["class-agnostic"][:4] == ["2", "62", "30", "30"]
    assert rows["better"] == ["2", "82", "70", "70", "+40.0 [+40.0, +40.0]", "yes"]
    assert rows["whole box"][2] == "100"
    assert float(rows["mean mask of A"][1]) > 99, "the objects fill their boxes"


def test_a_method_without_the_references_seeds_is_left_out(folder):
    for cell in ("better/seed2", "class-agnostic/seed1"):
        path = folder / "out" / cell / "done.json"
        path.rename(path.with_name("failed.json"))
    done = compare(folder)
    assert done.returncode == 0, done.stderr
    assert "'better' is left out: no seed of class-agnostic is done" in done.stderr
    assert "better" not in done.stdout and "whole box" in done.stdout
    assert compare(folder, "--reference", "none").returncode == 2
