"""A training that was killed and resumed is the training that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, tiny_cfg, write_coco
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager

from maskx_d2 import engine
from maskx_d2.data import register_partial
from maskx_d2.engine.resuming import AtomicWrites

# Starts train_net.py's main, and is killed by itself with a checkpoint half written.
KILLED_WHILE_SAVING = """
import os, signal, sys
import torch
from maskx_d2.engine import run

def save_half(data, file, save=torch.save):
    if data["iteration"] >= 5:
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(data, file)

torch.save = save_half
run(sys.argv[1:])
"""


def train(script, shapes, output, *args):
    command = [
        *(sys.executable, *script, "--config-file", "configs/shapes/maskx.py", "--resume", *args),
        *(f"train.output_dir={output}", "train.checkpointer.period=3", "train.log_period=1"),
        *("train.max_iter=8", "optimizer.lr=0.0001", "dataloader.train.total_batch_size=2"),
        *("dataloader.evaluator.dataset_name=shapes_test_a27b9", "train.eval_period=0"),
    ]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(shapes), "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout + run.stderr


def test_killed_while_saving_and_resumed_equals_uninterrupted(shapes, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, output = train(["train_net.py"], shapes, whole, "dataloader.train.num_workers=0")
    assert status == 0, output[-3000:]

    status, output = train(["-c", KILLED_WHILE_SAVING], shapes, killed)
    assert status == -signal.SIGKILL, output[-3000:]
    assert (killed / "model_0000005.pth.incomplete").exists()
    assert not (killed / "model_0000005.pth").exists()
    assert (killed / "last_checkpoint").read_text() == "model_0000002.pth"

    # The number of worker processes is not the uninterrupted run's: it must not matter.
    status, output = train(["train_net.py"], shapes, killed, "dataloader.train.num_workers=2")
    assert status == 0, output[-3000:]
    one, other = (
        torch.load(folder / "model_final.pth", weights_only=False) for folder in (whole, killed)
    )
    for key, value in one["model"].items():
        assert torch.equal(value, other["model"][key]), key


class _PowerCut(HookBase):
    def after_step(self):
        if self.trainer.iter == 4:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("no_registration_left")
@pytest.mark.parametrize("grouping", [True, False])
def test_resumed_yaml_training_equals_uninterrupted(tmp_path, grouping):
    json_file, images = write_coco(tmp_path / "data", num_images=5)
    data = json.loads(json_file.read_text())
    for image in data["images"][:3]:  # so that both groups of aspect ratios have some
        (images / image["file_name"]).write_bytes(turned(images / image["file_name"]))
        image["width"], image["height"] = image["height"], image["width"]
    for annotation in data["annotations"]:
        annotation["bbox"][2] = min(annotation["bbox"][2], 5)
        if annotation["id"] % 3 == 0:
            del annotation["segmentation"]
    json_file.write_text(json.dumps(data))
    register_coco_instances("pets", {}, str(json_file), str(images))
    register_partial("pets_partial", base="pets")

    def trainer(output, *opts):
        cfg = tiny_cfg(
            "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
            *("DATASETS.TRAIN", ("pets_partial",), "DATASETS.TEST", ()),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", (4,)),
            *("SOLVER.BASE_LR", 0.001, "SOLVER.CHECKPOINT_PERIOD", 3, "SEED", 3),
            *("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.7, 0.7]),
            *("DATALOADER.ASPECT_RATIO_GROUPING", grouping, "OUTPUT_DIR", str(output), *opts),
        )
        Path(output).mkdir(exist_ok=True)
        seed_all_rng(cfg.SEED)  # as default_setup does
        made = engine.MaskXTrainer(cfg)
        made.build_writers = lambda: []
        made.recorded = {}
        made.register_hooks([Recorder()])
        made.resume_or_load(resume=True)
        return made

    whole = trainer(tmp_path / "whole")
    whole.train()

    first = trainer(tmp_path / "cut")
    first.register_hooks([_PowerCut()])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert first.recorded == {i: whole.recorded[i] for i in first.recorded}
    resumed = trainer(tmp_path / "cut", "DATALOADER.NUM_WORKERS", 2)
    assert resumed.start_iter == 3
    resumed.train()
    assert list(resumed.recorded) == [3, 4, 5]
    for iteration, recorded in resumed.recorded.items():
        assert recorded == whole.recorded[iteration], iteration
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


class Recorder(HookBase):
    def after_step(self):
        latest = self.trainer.storage.latest()
        self.trainer.recorded[self.trainer.iter] = {
            key: value for key, (value, _) in latest.items() if "loss" in key or "num_" in key
        }


def turned(path: Path) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(buffer, "png")
    return buffer.getvalue()


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    manager = AtomicWrites(PathManager)
    path = str(tmp_path / "last_checkpoint")
    with manager.open(path, "w") as f:
        f.write("model_0000001.pth")
    with pytest.raises(RuntimeError), manager.open(path, "w") as f:
        f.write("model_00")
        raise RuntimeError("the power went")
    assert manager.exists(path), "everything else is the wrapped manager's"
    with manager.open(path) as f:
        assert f.read() == "model_0000001.pth"
