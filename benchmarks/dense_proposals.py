#!/usr/bin/env python
"""
DeepMask over a whole scene at once, against the same model patch by patch.

    python benchmarks/dense_proposals.py
    python benchmarks/dense_proposals.py --device cuda --height 480 --width 640

The model is the one of configs/coco/voc2nonvoc/deepmask_R_50_C4_1x.yaml with random weights. Both
score every place of the scene; the dense scan's time is with the masks of its best places, that of
patches without any. The time of patches is that of a part of them, times how many there are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from maskx_d2 import model_zoo
from maskx_d2.deepmask import DeepMask
from maskx_d2.engine.yaml_main import load_config

CONFIG = "coco/voc2nonvoc/deepmask_R_50_C4_1x.yaml"


def seconds(function: Callable[[], object], device: str) -> float:
    """Of one call."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def places(model: DeepMask, image: Tensor) -> list[Tensor]:
    """The patches of an image at all scales, (L, 3, P, P) each."""
    found = []
    side = model.patch_size + 2 * model.context
    for scale in model.scales:
        size = [max(round(scale * s), 1) for s in image.shape[1:]]
        scaled = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)
        windows = model.scene(scaled[0])[0].unfold(1, side, model.stride)
        windows = windows.unfold(2, side, model.stride)
        found.append(windows.permute(1, 2, 0, 3, 4))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--patches", type=int, default=32, help="that are timed (32)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cfg = load_config(
        model_zoo.get_config_file(CONFIG), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", args.device]
    )
    model = build_model(cfg).eval()
    image = torch.randn(3, args.height, args.width, device=args.device)
    windows = places(model, image)
    number = sum(w.shape[0] * w.shape[1] for w in windows)
    patches = windows[-1].flatten(0, 1)[: args.patches].contiguous()

    def dense() -> object:
        return model.propose(image, (args.height, args.width))

    def patchwise() -> Tensor:
        scores: Tensor = model.score_branch(model.features(patches))
        return scores

    with torch.no_grad():
        seconds(patchwise, args.device), seconds(dense, args.device)  # to warm up
        times = [(seconds(dense, args.device), seconds(patchwise, args.device))]
        for _ in range(args.rounds - 1):
            times.append((seconds(dense, args.device), seconds(patchwise, args.device)))
    each = statistics.median(p for _, p in times) / len(patches)
    whole = statistics.median(d for d, _ in times)
    rows = [
        ("dense, with the masks of the best places", f"{whole:.2f}", "1"),
        ("patch by patch, scores alone", f"{each * number:.1f}", f"{each * number / whole:.0f}"),
    ]
    print(f"{args.height} x {args.width} pixels, {len(model.scales)} scales, {number} patches")
    print(tabulate(rows, ["", "seconds an image", "ratio"], "pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
