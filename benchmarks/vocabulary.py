#!/usr/bin/env python
"""
What the number of categories costs: the mask branch and the whole model beside stock detectron2.

Times are medians over rounds in one process, in each of which every way takes its turn. Peak memory
is of one process for each way, above what it had before the step. Prints Markdown::

    python benchmarks/vocabulary.py --plot vocabulary.png   # the mask branch, T and the whole model
    python benchmarks/vocabulary.py --only branch --rois 100 --categories 80 10000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import torch
from detectron2.config import instantiate
from detectron2.model_zoo import get_config
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from matplotlib.pyplot import subplots
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from maskx_d2 import apply_maskx
from maskx_d2.modeling import SupervisedMasksROIHeads

STOCK, AGNOSTIC, OURS, OURS_MLP = "class-specific", "class-agnostic", "Mask^X", "Mask^X + MLP"
BRANCHES = (STOCK, AGNOSTIC, OURS)
FIRST_K = "Mask^X of the fewest categories"
MODELS = (STOCK, AGNOSTIC, OURS, OURS_MLP)
# By R, step and mask branch: K, seconds and MB.
Measured = dict[tuple[int, str, str], list[tuple[int, float, float]]]
MAX_LOGITS_GB = 4.0  # of a class-specific branch, which makes K masks for each RoI


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=("branch", "transfer", "model"), help="one part (all)")
    parser.add_argument("--categories", type=int, nargs="+", default=[80, 1203, 3001, 10000])
    parser.add_argument("--rois", type=int, nargs="+", default=[100, 512])
    parser.add_argument("--repeat", type=int, default=7, help="rounds; the medians are shown (7)")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], help="of the images")
    parser.add_argument("--plot", help="a picture of the mask branch's time and memory")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.memory_of:
        way, categories, rois, training = args.memory_of
        print(json.dumps(memory(way, int(categories), int(rois), training == "1", args.device)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {device_name(args)}\n")
    if args.only in (None, "branch"):
        branch(args)
    if args.only in (None, "transfer"):
        transfer(args)
    if args.only in (None, "model"):
        model(args)


# ------------------------------------------------------------------------------ the mask branch


def branch(args: argparse.Namespace) -> None:
    """Forward and training step of the mask branch, for each number of categories and RoIs."""
    rows = []
    measured: Measured = {}
    for rois in args.rois:
        first: dict[tuple[bool, str], float] = {}
        for categories in args.categories:
            for training in (False, True):
                ways = [w for w in BRANCHES if w != STOCK or fits(categories, rois)]
                steps = {way: branch_step(way, categories, rois, training, args) for way in ways}
                # Beside it, in the same rounds: minutes later the machine may be another.
                steps[FIRST_K] = branch_step(OURS, args.categories[0], rois, training, args)
                seconds = alternate(steps, args.repeat, f"K = {categories}, R = {rois}", args)
                del steps
                megabytes = {w: run_memory(w, categories, rois, training, args) for w in ways}
                for way in BRANCHES:
                    if way not in ways:
                        needed = logits_gb(categories, rois)
                        rows.append([rois, step(training), categories, way, f"{needed:.0f} GB"])
                        continue
                    of_way = measured.setdefault((rois, step(training), way), [])
                    of_way.append((categories, seconds[way], megabytes[way]))
                    base = first.setdefault((training, way), megabytes[way])
                    rows.append(
                        [
                            rois,
                            step(training),
                            categories,
                            way,
                            f"{1000 * seconds[way]:.0f} ms",
                            f"{seconds[way] / seconds[FIRST_K]:.2f}",
                            f"{seconds[way] / seconds[OURS]:.2f}",
                            f"{megabytes[way]:.0f} MB",
                            f"{megabytes[way] / max(base, 1e-09):.2f}",
                            f"{megabytes[way] / max(megabytes[OURS], 1e-09):.2f}",
                        ]
                    )
    k = args.categories[0]
    headers = ["R", "step", "K", "mask branch", "time", f"of Mask^X, K = {k}", "of Mask^X"]
    headers += ["peak memory"]
    show("The mask branch", rows, [*headers, f"of K = {k}", "of Mask^X"])
    if args.plot:
        plot(measured, args.plot)


def plot(measured: Measured, path: str) -> None:
    """Time and peak memory over the number of categories, one column for each R and step."""
    columns = sorted({key[:2] for key in measured})
    figure, axes = subplots(
        2, len(columns), figsize=(3.2 * len(columns), 5.5), sharex=True, sharey="row", squeeze=False
    )
    for column, (rois, of_step) in enumerate(columns):
        for way in BRANCHES:
            points = measured.get((rois, of_step, way), [])
            if not points:
                continue
            categories, seconds, megabytes = zip(*points, strict=True)
            axes[0][column].plot(categories, seconds, "o-", label=way)
            axes[1][column].plot(categories, megabytes, "o-", label=way)
        axes[0][column].set(title=f"{of_step}, {rois} RoIs", xscale="log", yscale="log")
        axes[1][column].set(xlabel="categories", yscale="log")
        axes[1][column].set_xticks(categories, [str(k) for k in categories])
        axes[1][column].minorticks_off()
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("peak memory, MB")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def step(training: bool) -> str:
    """What a step is called in the tables."""
    return "training" if training else "inference"


def logits_gb(categories: int, rois: int) -> float:
    """Of the masks of all categories, as a class-specific branch makes them, in float32."""
    return rois * categories * 28 * 28 * 4 / 1e9


def fits(categories: int, rois: int) -> bool:
    """Whether a class-specific branch is measured."""
    return logits_gb(categories, rois) <= MAX_LOGITS_GB


def roi_heads(way: str, categories: int, device: str) -> nn.Module:
    """Detectron2's R-50-FPN ROI heads, as each way has them."""
    model = get_config("common/models/mask_rcnn_fpn.py").model
    configure(model, way, categories)
    return instantiate(model.roi_heads).to(device)


def configure(model: Any, way: str, categories: int) -> None:
    """Change the description of a Mask R-CNN into that of one of the ways."""
    heads = model.roi_heads
    heads.num_classes = categories
    if way in (OURS, OURS_MLP):
        apply_maskx(model, mlp_branch=way == OURS_MLP)
        return
    heads._target_ = SupervisedMasksROIHeads
    heads.mask_head.num_classes = 1 if way == AGNOSTIC else categories


def branch_step(
    way: str, categories: int, rois: int, training: bool, args: argparse.Namespace
) -> Callable[[], Any]:
    """A step of the mask branch of new ROI heads."""
    heads = roi_heads(way, categories, args.device).train(training)
    return make_branch_step(heads, categories, rois, args.device)


def make_branch_step(
    heads: nn.Module, categories: int, rois: int, device: str
) -> Callable[[], Any]:
    """What is measured: from RoI features to probabilities, or to gradients."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(rois, 256, 14, 14, generator=generator).to(device)
    classes = torch.randint(0, categories, (rois,), generator=generator).to(device)
    instances = Instances((64, 64))
    if not heads.training:
        instances.pred_classes = classes

        @torch.no_grad()
        def infer() -> None:
            heads.mask_head(features, [Instances((64, 64), pred_classes=classes)])

        return infer
    instances.proposal_boxes = Boxes(torch.tensor([[8.0, 8.0, 56.0, 56.0]]).repeat(rois, 1))
    instances.gt_classes = classes
    instances.gt_masks = BitMasks(torch.ones(rois, 64, 64, dtype=torch.bool))
    instances = instances.to(device)

    def train() -> None:
        for parameter in heads.parameters():
            parameter.grad = None
        with EventStorage():
            heads.mask_head(features, [instances])["loss_mask"].backward()

    return train


def run_memory(
    way: str, categories: int, rois: int, training: bool, args: argparse.Namespace
) -> float:
    """:func:`memory`, of a process of its own."""
    command = [sys.executable, __file__, "--device", args.device, "--memory-of"]
    process = subprocess.run(
        [*command, way, str(categories), str(rois), str(int(training))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed is given back
    )
    return float(json.loads(process.stdout.splitlines()[-1]))


def memory(way: str, categories: int, rois: int, training: bool, device: str) -> float:
    """Peak memory in MB of a step, above what there was before it."""
    heads = roi_heads(way, categories, device).train(training)
    # What libraries load in a first step isn't counted; one RoI, as freed memory is used again.
    # Mask^X then has its class weights, (K, C), as a class-specific branch has its predictor.
    make_branch_step(heads, categories, 1, device)()
    run = make_branch_step(heads, categories, rois, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    run()
    return (status("VmHWM") - before) / 1e3


def status(key: str) -> float:
    """A figure of this process, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1])
    raise KeyError(key)


# -------------------------------------------------------------------------------------------- T


def transfer(args: argparse.Namespace) -> None:
    """Class weights at inference: computed anew, and as they are kept."""
    rows = []
    for categories in args.categories:
        heads = roi_heads(OURS, categories, args.device).eval()

        @torch.no_grad()
        def anew(heads: nn.Module = heads) -> None:
            heads.eval()
            heads.class_weights()

        @torch.no_grad()
        def kept(heads: nn.Module = heads) -> None:
            heads.class_weights()

        seconds = alternate({"anew": anew, "kept": kept}, args.repeat, f"T, K = {categories}", args)
        rows.append([categories, *(f"{1000 * seconds[k]:.2f} ms" for k in ("anew", "kept"))])
    show("T at inference", rows, ["K", "computed", "kept from before"])


# ------------------------------------------------------------------------------- the whole model


def model(args: argparse.Namespace) -> None:
    """R-50-FPN with 80 categories: a training step and inference on one image."""
    height, width = args.size
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    target = Instances((height, width))
    corners = torch.rand(8, 2) * torch.tensor([width / 2, height / 2])
    target.gt_boxes = Boxes(torch.cat([corners, corners + 60 + 100 * torch.rand(8, 2)], dim=1))
    target.gt_classes = torch.randint(0, 80, (8,))
    target.gt_masks = BitMasks(torch.rand(8, height, width) > 0.5)
    target.gt_has_mask = torch.ones(8, dtype=torch.bool)
    rows = []
    models = {way: whole_model(way, args.device) for way in MODELS}
    for training in (True, False):
        steps = {
            way: model_step(models[way], {"image": image, "instances": target}, training)
            for way in MODELS
        }
        seconds = alternate(steps, args.repeat, f"R-50-FPN, {step(training)}", args)
        for way in MODELS:
            parameters = sum(p.numel() for p in models[way].parameters()) / 1e6
            rows.append(
                [
                    step(training),
                    way,
                    f"{parameters:.1f} M",
                    f"{seconds[way]:.2f} s",
                    f"{seconds[way] / seconds[AGNOSTIC]:.2f}",
                    f"{seconds[way] / seconds[STOCK]:.2f}",
                ]
            )
    headers = ["step", "R-50-FPN", "parameters", "time", "of class-agnostic", "of class-specific"]
    show(f"The whole model, one image of {height} × {width}, K = 80", rows, headers)


def whole_model(way: str, device: str) -> nn.Module:
    """An untrained R-50-FPN model of 80 categories."""
    description = get_config("common/models/mask_rcnn_fpn.py").model
    configure(description, way, 80)
    description.roi_heads.box_predictor.test_score_thresh = 0.0  # untrained: 100 detections
    description.backbone.bottom_up.freeze_at = 2
    torch.manual_seed(0)  # the same detector for all
    return instantiate(description).to(device)


def model_step(model: nn.Module, sample: dict[str, Any], training: bool) -> Callable[[], Any]:
    """A training step without the optimizer, or inference without pasting the masks."""

    def run() -> None:
        model.train(training)
        torch.manual_seed(0)  # the same RoIs for all
        if not training:
            with torch.no_grad():
                model.inference([sample], do_postprocess=False)
            return
        for parameter in model.parameters():
            parameter.grad = None
        with EventStorage():
            sum(model([sample]).values()).backward()

    return run


# -------------------------------------------------------------------------------------- measuring


def alternate(
    steps: dict[str, Callable[[], Any]], rounds: int, label: str, args: argparse.Namespace
) -> dict[str, float]:
    """Median seconds of each step; in each round every step takes its turn."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in tqdm(range(rounds + 1), label, unit="round", leave=False):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if i:  # the first one warms up
                taken[name].append(time.perf_counter() - start)
    return {name: median(of_step) for name, of_step in taken.items()}


def device_name(args: argparse.Namespace) -> str:
    """What the figures are of."""
    return torch.cuda.get_device_name() if args.device == "cuda" else "CPU"


def show(title: str, rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> None:
    """Print a table."""
    align = [
        "right" if str(r).split(" ")[0].replace(".", "").isdigit() else "left" for r in rows[0]
    ]
    table = tabulate(rows, headers, "pipe", colalign=align, disable_numparse=True)
    print(f"### {title}\n\n{table}\n", flush=True)


if __name__ == "__main__":
    main()
