"""``tools/label_with_ray.py`` writes what ``maskx label`` writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_label import model, pets  # noqa: F401  fixtures

from maskx_d2.cli import main

pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("no_registration_left")
SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "label_with_ray.py"


def test_the_same_file_from_two_actors(model, pets, tmp_path):  # noqa: F811
    json_file, images = map(str, pets)
    (pets[1] / "0.png").unlink()
    args = [*model, "--dataset-json", json_file, "--image-root", images]
    outputs = [tmp_path / name for name in ("here.json", "ray.json")]
    assert main(["label", *args, "--output", str(outputs[0])]) == 1
    argv = [sys.executable, str(SCRIPT), *args, "--output", str(outputs[1]), "--actors", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 1, done.stderr[-3000:]
    assert f"there is no file '{images}/0.png'" in done.stderr
    assert " 3 instances without a mask" in done.stdout
    assert outputs[1].read_bytes() == outputs[0].read_bytes()
