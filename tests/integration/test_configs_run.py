"""Every config trains: narrowed until two iterations take a second."""

import json
import math

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer, lazy_main, run

CONFIGS = model_zoo.list_configs()
PETS = ("cat", "dog", "cup", "car")
VITDET = "recommended/maskx_rcnn_vitdet_b.py"
#: What narrows it, as tiny_cfg() narrows yaml configs.
TINY_VITDET = (
    *("model.backbone.net.depth=2", "model.backbone.net.window_block_indexes=[0]"),
    *("model.backbone.net.embed_dim=32", "model.backbone.net.num_heads=2"),
    *("model.backbone.square_pad=64", "model.roi_heads.batch_size_per_image=16"),
    *(f"dataloader.train.mapper.augmentations.1.target_{side}=64" for side in ("height", "width")),
    *("dataloader.train.mapper.augmentations.2.crop_size=[64,64]", "train.init_checkpoint=''"),
)
#: Those of photographs, as they are, but smaller and without ImageNet's weights.
TINY_PHOTOGRAPHS = (
    *(f"dataloader.train.mapper.augmentations.0.{k}=64" for k in ("short_edge_length", "max_size")),
    "train.init_checkpoint=''",
)


@pytest.fixture(autouse=True)
def pets(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path / "data", categories=PETS)
    register_coco_instances("pets", {"thing_classes": list(PETS)}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_partial", base="pets", split=split)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n.endswith(".yaml")])
def test_two_iterations(name, tmp_path):
    cfg = tiny_cfg(
        name,
        *("DATASETS.TRAIN", ("pets_partial",), "DATASETS.TEST", ()),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
        *("SOLVER.BASE_LR", 0.001, "OUTPUT_DIR", str(tmp_path)),
        *("MODEL.DEEPMASK.PATCHES_PER_IMAGE", 2, "MODEL.DEEPMASK.RANK", 4),
        *("MODEL.DEEPMASK.CONV_DIM", 8, "MODEL.DEEPMASK.SCORE_DIMS", [8, 8]),
        *("MODEL.IMAGE_LABELS.NUM_CLASSES", 4, "MODEL.RESNETS.RES5_DILATION", 1),
    )
    if cfg.MODEL.MASKX.EMBEDDING_FILE:
        cfg.MODEL.MASKX.EMBEDDING_FILE = str(tmp_path / "vectors.pt")
        torch.save({n: torch.randn(5) for n in PETS}, tmp_path / "vectors.pt")
    trainer = MaskXTrainer(cfg)
    losses = []

    class Recorder(HookBase):
        def after_step(self):
            losses.append(self.trainer.storage.latest()["total_loss"][0])

    trainer.register_hooks([Recorder()])
    trainer.train()
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize("name", [n for n in CONFIGS if n.endswith(".py")])
def test_two_iterations_of_a_lazy_config(name, tmp_path, monkeypatch):
    opts = [
        *("dataloader.train.dataset.names=pets_partial", "dataloader.train.num_workers=0"),
        *("dataloader.train.total_batch_size=2", "dataloader.test.dataset.names=pets_partial"),
        *("train.max_iter=2", "train.log_period=1", "train.device=cpu", "train.amp.enabled=False"),
        f"train.output_dir={tmp_path / 'run'}",
        *(TINY_VITDET if name == VITDET else ()),
        *(TINY_PHOTOGRAPHS if name.startswith("photographs/") else ()),
    ]
    model = model_zoo.get_config(name).model
    roi_heads = model.get("roi_heads") or {}  # which only detectors have
    if "num_classes" in model:
        opts.append("model.num_classes=4")
    if "num_classes" in roi_heads:
        opts.append("model.roi_heads.num_classes=4")
    embedding = roi_heads.get("class_embedding")
    if embedding is not None and "dataset_name" in embedding.thing_classes:
        opts.append("model.roi_heads.class_embedding.thing_classes.dataset_name=pets")
    elif embedding is not None:
        opts.append("model.roi_heads.class_embedding.thing_classes=[cat,dog,cup,car]")
    if embedding is not None and "path" in embedding:
        torch.save({n: torch.randn(5) for n in PETS}, tmp_path / "vectors.pt")
        opts.append(f"model.roi_heads.class_embedding.path={tmp_path / 'vectors.pt'}")
    monkeypatch.setattr(lazy_main, "_evaluate", lambda cfg, model: {})
    run(["--config-file", model_zoo.get_config_file(name), *opts])
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    losses = [json.loads(line)["total_loss"] for line in lines]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert (tmp_path / "run" / "model_final.pth").exists()
