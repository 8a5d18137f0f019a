#!/usr/bin/env python
"""
What the mask head costs at inference: detectron2's K masks a RoI, or one; precision; compilation.

    python benchmarks/mask_head.py
    python benchmarks/mask_head.py --device cuda --rois 100

Each line is a ratio to detectron2's head with 80 categories. All variants take turns within one
process, and medians are compared, because a machine is rarely quiet.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from tabulate import tabulate
from torch import Tensor

from maskx_d2.modeling import PerRoIConvUpsampleHead

CONV_DIMS = [256] * 5  # detectron2's four convolutions and the transposed one
INPUT = ShapeSpec(channels=256, height=14, width=14)


def stock(num_classes: int, device: str) -> Callable[[Tensor], Tensor]:
    """Detectron2's head: K masks for each RoI, of which one is picked."""
    head = MaskRCNNConvUpsampleHead(INPUT, num_classes=num_classes, conv_dims=CONV_DIMS)
    head.eval().to(device)

    def run(x: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=x.device)
        return head.layers(x)[rows, rows % num_classes].sigmoid()

    return run


def selection(num_classes: int, device: str, mlp_branch: bool = False) -> Callable[..., Tensor]:
    """The mask of each RoI's own category."""
    head = PerRoIConvUpsampleHead(
        INPUT, num_classes=num_classes, conv_dims=CONV_DIMS, mlp_branch=mlp_branch
    )
    head.eval().to(device)

    def run(x: Tensor) -> Tensor:
        return head.layers(x, torch.arange(len(x), device=x.device) % num_classes).sigmoid()

    return run


def in_bfloat16(run: Callable[[Tensor], Tensor], device: str) -> Callable[[Tensor], Tensor]:
    """Under autocast."""

    def wrapped(x: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return run(x)

    return wrapped


def seconds(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Of one call."""
    start = time.perf_counter()
    run(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rois", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--skip-compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    variants = {f"detectron2's, K = {k}": stock(k, args.device) for k in (80, 1203, 3001)}
    variants |= {f"per RoI, K = {k}": selection(k, args.device) for k in (80, 3001)}
    variants["per RoI, K = 80, MLP branch"] = selection(80, args.device, mlp_branch=True)
    plain = variants["per RoI, K = 80"]
    variants["per RoI, K = 80, bfloat16"] = in_bfloat16(plain, args.device)
    if not args.skip_compile:
        variants["per RoI, K = 80, torch.compile"] = torch.compile(plain, dynamic=True)
    x = torch.randn(args.rois, 256, 14, 14, device=args.device)
    first = {name: seconds(run, x) for name, run in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, run in variants.items():
            times[name].append(seconds(run, x))
    medians = {name: statistics.median(t) for name, t in times.items()}
    reference = next(iter(medians.values()))
    rows = [
        [name, f"{1000 * m:.1f}", f"{m / reference:.2f}", f"{first[name]:.1f}"]
        for name, m in medians.items()
    ]
    print(tabulate(rows, ["", "median, ms", "ratio", "first call, s"], tablefmt="github"))


if __name__ == "__main__":
    main()
