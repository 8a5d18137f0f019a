#!/usr/bin/env python
"""
What a deeper mask head costs: parameters, multiply-adds of a RoI, time of a training step.

    python benchmarks/mask_trunks.py
    python benchmarks/mask_trunks.py --device cuda --rois 64

The heads are of R-50-FPN's size. Times are ratios to detectron2's head; all take turns within one
process, and medians are compared, because a machine is rarely quiet.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from fvcore.nn import FlopCountAnalysis, parameter_count
from tabulate import tabulate
from torch import Tensor, nn

from maskx_d2.modeling import DeepConvUpsampleHead

CHANNELS = 256
# (name, side of the RoI features, detectron2's convolutions, what else)
HEADS: list[tuple[str, int, int, dict[str, Any]]] = [
    ("detectron2's, 4 convolutions", 14, 4, {}),
    ("1 hourglass before 4 convolutions", 14, 4, {"trunk": "hourglass"}),
    ("1 hourglass", 14, 0, {"trunk": "hourglass"}),
    ("2 hourglasses", 14, 0, {"trunk": "hourglass", "trunk_depth": 2}),
    ("4 bottlenecks", 14, 0, {"trunk": "bottleneck", "trunk_depth": 4}),
    ("16 bottlenecks", 14, 0, {"trunk": "bottleneck", "trunk_depth": 16}),
    ("detectron2's, masks of 56 × 56", 28, 4, {}),
    ("1 hourglass, masks of 56 × 56", 28, 0, {"trunk": "hourglass"}),
]


class Logits(nn.Module):
    """A mask head without loss or inference."""

    def __init__(self, side: int, num_conv: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.head = DeepConvUpsampleHead(
            ShapeSpec(channels=CHANNELS, height=side, width=side),
            num_classes=1,
            conv_dims=[CHANNELS] * (num_conv + 1),
            conv_norm="GN" if options else "",
            **options,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, side, side) → (R, 1, 2 side, 2 side)."""
        logits: Tensor = self.head.layers(x)
        return logits


def seconds(model: nn.Module, x: Tensor) -> float:
    """Of a forward and a backward pass."""
    start = time.perf_counter()
    model(x).sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rois", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    logging.getLogger("fvcore").setLevel(logging.ERROR)  # which operations it does not count
    models = {name: Logits(*spec).to(args.device) for name, *spec in HEADS}
    inputs = {
        name: torch.randn(args.rois, CHANNELS, side, side, device=args.device)
        for name, side, *_ in HEADS
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.rounds + 1):
        for name, model in models.items():
            times[name].append(seconds(model, inputs[name]))
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}  # after warm-up
    base = medians[HEADS[0][0]]
    rows = [
        (
            name,
            f"{parameter_count(model)[''] / 1e6:.2f} M",
            f"{FlopCountAnalysis(model.eval(), inputs[name][:1]).total() / 1e9:.2f} G",
            f"{medians[name] / base:.2f}",
        )
        for name, model in models.items()
    ]
    headers = ("mask head", "parameters", "multiply-adds of a RoI", "training step, ratio")
    print(tabulate(rows, headers, tablefmt="github"))


if __name__ == "__main__":
    main()
