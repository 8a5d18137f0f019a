#!/usr/bin/env python
"""
Where the time of training and of inference goes: this package beside stock detectron2.

Stock is the same model, baked (see docs/DEPLOY.md): a plain class-specific Mask R-CNN that predicts
the same masks. Both read the same photographs, all of whose masks both train on. They take turns at
each image in one process, and medians are shown as a table and a picture::

    python benchmarks/where_time_goes.py --config-file CONFIG --weights CHECKPOINT --picture p.png

CONFIG is the ``config.yaml`` that a training left, of a model without the MLP branch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from matplotlib.pyplot import subplots
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from maskx_d2.data import PartialMaskDatasetMapper
from maskx_d2.deploy import bake
from maskx_d2.engine.yaml_main import load_config
from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.postprocessing import rle_masks

Record = dict[str, Any]
Step = Callable[[Record, "Stopwatch"], None]
STOCK, OURS = "detectron2", "maskx_d2"
# What is measured of a model; what is left of its time is "other", at inference mostly pasting.
PARTS = {
    "backbone": ("backbone", "forward"),
    "RPN": ("proposal_generator", "forward"),
    "box head": ("roi_heads", "_forward_box"),
    "mask branch": ("roi_heads", "_forward_mask"),
}
INFERENCE = ("reading", *PARTS, "pasting", "to COCO results")
TRAINING = ("reading", *PARTS, "other", "backward", "optimizer")


class Stopwatch:
    """Seconds of named parts; a part within a part is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within: list[float] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count what is done within to the part."""
        self._within.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken = time.perf_counter() - start
            self.seconds[part] += taken - self._within.pop()
            if self._within:
                self._within[-1] += taken

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Measure the parts of a model."""
        with ExitStack() as undo:
            for part, (module, method) in PARTS.items():
                owner = getattr(model, module)
                setattr(owner, method, self._timed(part, getattr(owner, method)))
                undo.callback(delattr, owner, method)
            yield

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self(part):
                return function(*args, **kwargs)

        return run


def main() -> None:
    """Measure, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset", default="coco_2017_val")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; medians are shown (5)")
    parser.add_argument("--picture", help="where to draw it")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="of the config: KEY VALUE …")
    args = parser.parse_args()
    cfgs = configs(args)
    models = {way: load(cfg) for way, cfg in cfgs.items()}
    records = [r for r in DatasetCatalog.get(args.dataset) if r["annotations"]][: args.images]
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {cfgs[OURS].MODEL.DEVICE}"
    )
    figures = {}
    for title, parts, step in (("inference", INFERENCE, infer), ("training", TRAINING, train)):
        seconds: dict[str, list[dict[str, float]]] = {way: [] for way in models}
        for i in tqdm(range(args.repeat + 1), title, unit="round", leave=False):
            with ExitStack() as stack:
                steps = {w: stack.enter_context(step(w, models[w], cfgs[w])) for w in models}
                for record in records:  # the ways take turns at each image
                    for way, run in steps.items():
                        clock = Stopwatch()
                        with clock.watch(models[way]):
                            run(record, clock)
                        if i:  # the first round warms up
                            seconds[way].append(clock.seconds)
        figures[title] = {
            way: {part: 1000 * median(s[part] for s in seconds[way]) for part in parts}
            for way in models
        }
        show(title, parts, figures[title])
    if args.picture:
        draw(figures, args.picture)


def configs(args: argparse.Namespace) -> dict[str, CfgNode]:
    """The model's config, and that of the model baked."""
    opts = [*args.opts, "DATASETS.TRAIN", (args.dataset,), "DATASETS.TEST", (args.dataset,)]
    ours = load_config(args.config_file, ["MODEL.WEIGHTS", args.weights, *opts])
    baked = bake(args.config_file, args.weights, tempfile.mkdtemp(), opts=args.opts)
    stock = get_cfg()
    stock.merge_from_file(str(baked.config_file))
    stock.merge_from_list(["MODEL.DEVICE", ours.MODEL.DEVICE, *opts[len(args.opts) :]])
    return {STOCK: stock, OURS: ours}


def load(cfg: CfgNode) -> nn.Module:
    """A model with its weights."""
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


@contextmanager
def infer(way: str, model: nn.Module, cfg: CfgNode) -> Iterator[Step]:
    """From a file to COCO's results."""
    model.eval()
    mapper = DatasetMapper(cfg, is_train=False)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), ExitStack() as stack:
        if way == OURS:
            stack.enter_context(rle_masks(model))
        make = SplitCOCOEvaluator if way == OURS else COCOEvaluator
        evaluator = make(cfg.DATASETS.TEST[0], output_dir=folder)
        evaluator.reset()

        def run(record: Record, clock: Stopwatch) -> None:
            with clock("reading"):
                inputs = [mapper(dict(record))]
            with clock("pasting"):  # and what else the parts are not
                outputs = model(inputs)
            with clock("to COCO results"):
                evaluator.process(inputs, outputs)

        yield run


@contextmanager
def train(way: str, model: nn.Module, cfg: CfgNode) -> Iterator[Step]:
    """From a file to a step of the optimizer."""
    model.train()
    mapper = (PartialMaskDatasetMapper if way == OURS else DatasetMapper)(cfg, is_train=True)
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # each round finds the same model

    def run(record: Record, clock: Stopwatch) -> None:
        torch.manual_seed(record["image_id"])  # the same RoIs for all
        with clock("reading"):
            inputs = [mapper(dict(record))]
        with clock("other"):
            loss = sum(model(inputs).values())
        with clock("backward"):
            optimizer.zero_grad()
            loss.backward()
        with clock("optimizer"):
            optimizer.step()

    with EventStorage():
        yield run


def show(title: str, parts: Sequence[str], figures: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    rows = [
        [part, *(f"{figures[way][part]:.1f} ms" for way in figures), ratio(figures, [part])]
        for part in parts
    ]
    total = [f"{sum(figures[way].values()):.1f} ms" for way in figures]
    rows.append(["**all**", *total, ratio(figures, parts)])
    headers = [f"{title}, each image", *figures, f"{STOCK} / {OURS}"]
    align = ("left", "right", "right", "right")
    print(f"\n{tabulate(rows, headers, 'pipe', colalign=align, disable_numparse=True)}", flush=True)


def ratio(figures: dict[str, dict[str, float]], parts: Sequence[str]) -> str:
    """How many times as long stock takes for these parts."""
    stock, ours = (sum(figures[way][part] for part in parts) for way in (STOCK, OURS))
    return f"{stock / ours:.2f}" if ours else ""


def draw(figures: dict[str, dict[str, dict[str, float]]], path: str) -> None:
    """One bar for each way, made of its parts."""
    figure, axes = subplots(len(figures), 1, figsize=(9, 2.1 * len(figures)))
    for axis, (title, of_ways) in zip(axes, figures.items(), strict=True):
        ways = list(of_ways)[::-1]
        left = [0.0] * len(ways)
        for part in of_ways[OURS]:
            widths = [of_ways[way][part] for way in ways]
            axis.barh(ways, widths, left=left, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set(title=title, xlabel="ms for each image")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
