"""Training as a user starts it: train_net.py on a config file, killed, resumed, evaluated."""

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import tiny_cfg

from maskx_d2 import engine

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A folder for DETECTRON2_DATASETS with a few images of the shapes data set."""
    script = REPOSITORY / "datasets" / "make_shapes.py"
    spec = importlib.util.spec_from_file_location("make_shapes", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("datasets")
    module.make_shapes(root, num_images={"train": 24, "val": 6, "test": 6}, progress=False)
    return root


def start(shapes, output, *args):
    command = [
        *(sys.executable, "train_net.py", "--config-file", "configs/shapes/maskx.py", *args),
        *(f"train.output_dir={output}", "train.checkpointer.period=2", "train.log_period=1"),
        # A schedule for a few steps: a learning rate this early must not diverge.
        *("optimizer.lr=0.001", "dataloader.train.num_workers=0"),
    ]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(shapes), "OMP_NUM_THREADS": "2"}
    with open(output / "stdout.txt", "a") as log:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def metrics(output):
    path = output / "metrics.json"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_killed_and_resumed_then_evaluated(shapes, tmp_path):
    run = start(shapes, tmp_path, "train.max_iter=100000")
    deadline = time.time() + 120
    while not (tmp_path / "model_0000003.pth").exists():
        assert run.poll() is None, (tmp_path / "stdout.txt").read_text()[-3000:]
        assert time.time() < deadline
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()

    checkpoint = (tmp_path / "last_checkpoint").read_text()
    done = torch.load(tmp_path / checkpoint, weights_only=False)["iteration"] + 1
    end = done + 3
    resumed = start(shapes, tmp_path, "--resume", f"train.max_iter={end}")
    assert resumed.wait() == 0, (tmp_path / "stdout.txt").read_text()[-3000:]
    iterations = [m["iteration"] for m in metrics(tmp_path) if "loss_mask" in m]
    assert iterations[-3:] == [done, done + 1, done + 2]
    final = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert final["iteration"] == end - 1
    momentum = [s["momentum_buffer"] for s in final["trainer"]["optimizer"]["state"].values()]
    assert all(m.any() for m in momentum[:3])

    evaluated = [m for m in metrics(tmp_path) if "segm_B/AP" in m]
    assert len(evaluated) == 1, "the end of training evaluates once"
    assert {f"{t}{s}/AP50" for t in ("bbox", "segm") for s in ("", "_A", "_B")} <= set(evaluated[0])
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"Set B: \d+ boxes, 0 masks\.", log)

    only = start(
        *(shapes, tmp_path, "--eval-only"),
        f"train.init_checkpoint={tmp_path / 'model_final.pth'}",
    )
    assert only.wait() == 0
    stdout = (tmp_path / "stdout.txt").read_text()
    assert "Evaluation by split 'a27b9'" in stdout
    assert "Warning" not in stdout, "users can't act on the warnings of dependencies"


@pytest.mark.usefixtures("photographs")
@pytest.mark.parametrize("method", ["maskx_rcnn_no_mlp", "class_agnostic", "oracle"])
def test_yaml_configs_on_the_photographs(method, tmp_path, monkeypatch):
    """Trains on real annotations from a yaml file, checkpoints, resumes, evaluates."""
    small = ["MODEL.ROI_HEADS.NUM_CLASSES", 80, "INPUT.MAX_SIZE_TRAIN", 96]
    small += ["INPUT.MAX_SIZE_TEST", 96, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", str(tmp_path)]
    small += ["SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.BASE_LR", 1e-4, "SOLVER.MAX_ITER", 3]
    cfg = tiny_cfg(f"coco/nonvoc2voc/{method}_R_50_FPN_1x.yaml", *small)
    config_file = tmp_path / "config.yaml"
    config_file.write_text(cfg.dump())

    def args(*argv):
        from detectron2.engine import default_argument_parser

        return default_argument_parser().parse_args(["--config-file", str(config_file), *argv])

    monkeypatch.setattr(engine.MaskXTrainer, "test", classmethod(lambda cls, cfg, model: {}))
    engine.main(args())
    assert (tmp_path / "model_final.pth").exists()
    engine.main(args("--resume", "SOLVER.MAX_ITER", "5"))
    iteration = torch.load(tmp_path / "model_final.pth", weights_only=False)["iteration"]
    assert iteration == 4
    monkeypatch.undo()
    results = engine.main(args("--eval-only", "--resume"))
    assert set(results) >= {"bbox", "bbox_A", "bbox_B"}
    # One category of these photographs has no ground truth; it must not spoil the means. A model
    # that predicts nothing at all has nothing but NaN.
    predicted = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())
    for subset in ("bbox", "bbox_A", "bbox_B"):
        assert math.isnan(results[subset]["AP"]) is (not predicted)


def test_usage_errors_are_one_line(capsys):
    for argv, message in (
        ([], "--config-file is required"),
        (["--config-file", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
    ):
        with pytest.raises(SystemExit):
            engine.run(argv)
        assert message in capsys.readouterr().err
