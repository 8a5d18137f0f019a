"""The README's worked example, exactly as it is written."""

import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY, write_coco


@pytest.fixture
def blocks():
    """The README's code blocks after "Your own data"."""
    text = (REPOSITORY / "README.md").read_text().split("## Your own data")[1]
    return dict(re.findall(r"```(python|yaml)\n(.*?)```", text, flags=re.DOTALL))


def test_your_own_data(blocks, tmp_path):
    fruit = tmp_path / "fruit"
    for part in ("train", "val"):
        json_file, _ = write_coco(fruit / "images", categories=("apple", "pear", "plum", "cherry"))
        json_file.rename(fruit / f"{part}.json")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "train_fruit.py").write_text(blocks["python"])
    (tmp_path / "fruit.yaml").write_text(blocks["yaml"])
    # For the test alone: from scratch and small.
    overrides = "MODEL.WEIGHTS  MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 18 SOLVER.MAX_ITER 2"
    overrides += " MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.FPN.OUT_CHANNELS 16"
    overrides += " MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 8"
    overrides += " INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.BASE_LR 1e-6"
    command = [sys.executable, "train_fruit.py", "--config-file", "fruit.yaml"]
    run = subprocess.run(
        [*command, *overrides.split(" ")], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert "16 boxes, 8 of them with a mask (50 %). 2 categories with masks, 2 with" in run.stdout
    assert "segm_B" in run.stdout
