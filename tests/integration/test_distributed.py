"""Two processes on CPU, one of which sees no mask: no hang, and equal gradients on both."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from conftest import REPOSITORY, make_batch, make_targets, tiny_cfg, write_coco
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

OPTIONS = {
    "maskx": ("MODEL.MASKX.MLP_BRANCH", True),
    "class-agnostic": (
        *("MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads"),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
    ),
}


def step(rank, folder, options):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    cfg = tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *options)
    model = DistributedDataParallel(build_model(cfg), broadcast_buffers=False)
    has_mask = [True, False] if rank == 0 else [False, False]
    with EventStorage():
        losses = model(make_batch(make_targets(has_mask, [0, 1])))
        sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.module.named_parameters() if p.requires_grad}
    torch.save((losses["loss_mask"].item(), gradients), f"{folder}/{rank}.pth")
    distributed.destroy_process_group()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_rank_without_masks(tmp_path, options):
    mp.spawn(step, args=(str(tmp_path), options), nprocs=2)
    (loss, gradients), (loss_without, others) = (
        torch.load(tmp_path / f"{rank}.pth") for rank in range(2)
    )
    assert loss > 0
    assert loss_without == 0
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, others[name]), name
        if "mask_head" in name or "weight_transfer" in name:
            assert gradient.any(), name


def test_train_net_in_two_processes_without_gpus(tmp_path):
    write_coco(tmp_path / "data", num_images=6)
    split = {"with_masks": ["cat", "dog"], "boxes_only": ["cup", "car"]}
    (tmp_path / "pets.json").write_text(json.dumps(split))
    entry = "{json: data/annotations.json, images: data, split: pets.json"
    (tmp_path / "pets.yaml").write_text(
        f"pets_train: {entry}}}\npets_val: {entry}, keep_masks: true}}\n"
    )
    names = ("DATASETS.TRAIN", ("pets_train",), "DATASETS.TEST", ("pets_val",))
    steps = ("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.STEPS", ())
    cfg = tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *names, *steps)
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path / "run"), "TEST.MASK_PROBE", True])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    command = [sys.executable, "train_net.py", "--num-gpus", "2", "--config-file"]
    done = subprocess.run(
        [*command, str(tmp_path / "config.yaml")],
        cwd=REPOSITORY,
        env={**os.environ, "MASKX_DATASETS": str(tmp_path / "pets.yaml"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    # Each process evaluated half of the images.
    rows = json.loads((tmp_path / "run" / "inference" / "mask_probe.json").read_text())
    assert len({(r["image_id"], r["annotation"]) for r in rows}) == len(rows) == 6 * 4
    assert (tmp_path / "run" / "model_final.pth").exists()
