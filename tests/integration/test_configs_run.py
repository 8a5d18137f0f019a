"""Every yaml config trains: narrowed until two iterations take a second."""

import math

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer

YAMLS = [
    n
    for n in model_zoo.list_configs()
    # Base-…: what the others are made of. R_101: the same at another depth.
    if n.startswith("coco/") and n.endswith(".yaml") and "Base-" not in n and "R_101" not in n
]


@pytest.mark.usefixtures("no_registration_left")
@pytest.mark.parametrize("name", YAMLS)
def test_two_iterations(name, tmp_path):
    json_file, images = write_coco(tmp_path / "data")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_partial", base="pets", split=split)
    cfg = tiny_cfg(
        name,
        *("DATASETS.TRAIN", ("pets_partial",), "DATASETS.TEST", ()),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
        *("SOLVER.BASE_LR", 0.001, "OUTPUT_DIR", str(tmp_path)),
    )
    if cfg.MODEL.MASKX.EMBEDDING_FILE:
        cfg.MODEL.MASKX.EMBEDDING_FILE = str(tmp_path / "vectors.pt")
        torch.save(
            {n: torch.randn(5) for n in ("cat", "dog", "cup", "car")}, tmp_path / "vectors.pt"
        )
    trainer = MaskXTrainer(cfg)
    losses = []

    class Recorder(HookBase):
        def after_step(self):
            losses.append(self.trainer.storage.latest()["total_loss"][0])

    trainer.register_hooks([Recorder()])
    trainer.train()
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert (tmp_path / "model_final.pth").exists()
