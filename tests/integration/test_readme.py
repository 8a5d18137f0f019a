"""The worked examples of README.md and docs/DATA.md, exactly as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, write_coco

# For the tests alone: from scratch and small.
SMALL = "MODEL.WEIGHTS  MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 18 SOLVER.MAX_ITER 2"
SMALL += " MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.FPN.OUT_CHANNELS 16"
SMALL += " MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 8"
SMALL += " INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.BASE_LR 1e-6"


def section(page, heading):
    text = (REPOSITORY / page).read_text().split(f"\n## {heading}\n")[1]
    return text.split("\n## ")[0]


@pytest.fixture(autouse=True)
def fruit(tmp_path):
    for part in ("train", "val"):
        json_file, _ = write_coco(
            tmp_path / "fruit" / "images", categories=("apple", "pear", "plum", "cherry")
        )
        json_file.rename(tmp_path / "fruit" / f"{part}.json")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")


def test_without_code(tmp_path):
    text = section("README.md", "Your own data")
    data, commands = re.search(r"```yaml\n(.*?)```.*?```\n(.*?)```", text, re.DOTALL).groups()
    (tmp_path / "fruit_data.yaml").write_text(data)
    split = re.search(r"`fruit_split.json`, `(.*?)`", text).group(1)
    (tmp_path / "fruit_split.json").write_text(split)
    (tmp_path / "train_net.py").symlink_to(REPOSITORY / "train_net.py")
    small = " ".join(f"'{word}'" for word in SMALL.split(" "))
    script = commands.replace("./train_net.py", f"{sys.executable} train_net.py").rstrip()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where `maskx` is
    run = subprocess.run(
        ["bash", "-ec", f"{script} {small}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert "fruit_train: 4 images" in run.stdout  # of `maskx check`
    assert "16 boxes, 8 of them with a mask (50 %). 2 categories with masks, 2 with" in run.stdout
    assert "segm_B" in run.stdout


def test_with_a_script(tmp_path):
    text = section("docs/DATA.md", "In Python")
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", text, flags=re.DOTALL))
    (tmp_path / "train_fruit.py").write_text(blocks["python"])
    (tmp_path / "fruit.yaml").write_text(blocks["yaml"])
    command = [sys.executable, "train_fruit.py", "--config-file", "fruit.yaml"]
    run = subprocess.run(
        [*command, *SMALL.split(" ")], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert "16 boxes, 8 of them with a mask (50 %). 2 categories with masks, 2 with" in run.stdout
    assert "segm_B" in run.stdout
