#!/usr/bin/env python
"""
What each idea of docs/BEYOND.md costs in ordinary training: time and memory, without optimizer.

A whole R-50-FPN Mask^X learns from photographs of COCO, and each idea is added to it by its own
keys. Times are ratios of medians; all take turns within one process. Memory is the peak above the
model, each in a process of its own. Region proposals are true boxes with jitter, as a trained
network has them; an untrained one would hand no RoIs to the mask head::

    python benchmarks/idea_costs.py
    python benchmarks/idea_costs.py --device cuda --size 800 --images 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import torch
from _trainings import ROOT
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from maskx_d2.data import PartialMaskDatasetMapper, class_split_of, has_mask
from maskx_d2.engine.yaml_main import load_config
from maskx_d2.modeling.mask_rois import ground_truth_rois

CONFIG = str(ROOT / "configs/coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml")
_KEY = "MODEL.MASKX."
_PROJECTION = [_KEY + "BOX_PROJECTION_WEIGHT", "0.3"]
_BACKGROUND = [_KEY + "BOX_BACKGROUND_WEIGHT", "0.3"]
_GN = ["MODEL.ROI_MASK_HEAD.NORM", "GN"]
IDEAS: dict[str, list[str]] = {
    "the paper's": [],
    "dropout": [_KEY + "TRANSFER_DROPOUT", "0.3"],
    "noise": [_KEY + "TRANSFER_NOISE", "0.3"],
    "projection (recommended)": _PROJECTION,
    "background": _BACKGROUND,
    "colours": [_KEY + "BOX_AFFINITY_WEIGHT", "0.3"],
    "projection, background": [*_PROJECTION, *_BACKGROUND],
    "true boxes": [_KEY + "MASK_ROIS", "ground_truth"],
    "hourglass before the convolutions": [_KEY + "MASK_TRUNK", "hourglass", *_GN],
    "masks of 56 × 56": ["MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "28"],
}
PROPOSALS = 1000


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dataset", default="coco_2017_train_voc2nonvoc")
    parser.add_argument("--size", type=int, default=480, help="shorter side in pixels (480)")
    parser.add_argument("--images", type=int, default=1, help="of a step (1)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", choices=IDEAS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(memory(args.memory_of, args)))
        return
    of_step: dict[str, float] = {}
    for name in tqdm(IDEAS, "memory"):
        argv = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
        out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
        of_step[name] = json.loads(out.splitlines()[-1])
    records = images(args)
    steps = {name: step(name, records, args) for name in IDEAS}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in tqdm(range(args.rounds + 1), "rounds"):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if i:  # the first one warms up
                taken[name].append(time.perf_counter() - start)
    base, *_ = IDEAS
    rows = [
        (
            name,
            f"{statistics.median(taken[name]) / statistics.median(taken[base]):.2f}",
            f"{of_step[name]:.2f} GB",
            f"{of_step[name] / of_step[base]:.2f}",
        )
        for name in IDEAS
    ]
    headers = ["", "time, ratio", "memory", "ratio"]
    print(tabulate(rows, headers, "pipe", disable_numparse=True))


def step(name: str, records: list[Any], args: argparse.Namespace) -> Callable[[], None]:
    """Losses and gradients, always of the same images; the GPU is done when it returns."""
    opts = ["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", "", *IDEAS[name]]
    opts += ["INPUT.MIN_SIZE_TRAIN", f"({args.size},)", "INPUT.RANDOM_FLIP", "none"]
    cfg = load_config(CONFIG, opts)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    model.proposal_generator = TrueProposals(model.proposal_generator)
    mapper = PartialMaskDatasetMapper(cfg, is_train=True)
    samples = [mapper(record) for record in records]

    def run() -> None:
        torch.manual_seed(0)  # the same RoIs for all
        model.zero_grad()
        with EventStorage(), torch.autocast(args.device, dtype=torch.bfloat16):
            losses = model(samples)
        sum(losses.values()).backward()
        if args.device == "cuda":
            torch.cuda.synchronize()

    return run


def images(args: argparse.Namespace) -> list[Any]:
    """The first photographs that have both objects with masks and others."""
    split = class_split_of(args.dataset)
    if split is None:
        raise SystemExit(
            f"{args.dataset} has no split; take one such as coco_2017_train_voc2nonvoc"
        )
    found = []
    for record in DatasetCatalog.get(args.dataset):
        if {has_mask(a) for a in record["annotations"]} == {True, False}:
            found.append(record)
            if len(found) == args.images:
                return found
    raise SystemExit(f"{args.dataset} has {len(found)} images with both kinds of objects")


class TrueProposals(nn.Module):
    """A region proposal network with its own cost, in whose place true boxes propose."""

    def __init__(self, rpn: nn.Module) -> None:
        super().__init__()
        self.rpn = rpn

    def forward(self, inputs: Any, features: Any, targets: list[Instances]) -> Any:
        """As an RPN's."""
        _, losses = self.rpn(inputs, features, targets)
        proposals = []
        for target in targets:
            copies = target[torch.randint(len(target), (PROPOSALS,), device=target.gt_boxes.device)]
            (rois,) = ground_truth_rois([copies], jitter=0.3)
            found = Instances(rois.image_size, proposal_boxes=rois.proposal_boxes)
            found.objectness_logits = torch.zeros(PROPOSALS, device=target.gt_boxes.device)
            proposals.append(found)
        return proposals, losses


def memory(name: str, args: argparse.Namespace) -> float:
    """Peak memory in GB of a second step, above what there was before the first."""
    run = step(name, images(args), args)
    if args.device == "cuda":
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e9
    before = status("VmRSS")
    run()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    run()
    return (status("VmHWM") - before) / 1e6


def status(key: str) -> float:
    """A figure of this process in kB, as Linux says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1])


if __name__ == "__main__":
    main()
