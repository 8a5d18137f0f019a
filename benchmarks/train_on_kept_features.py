#!/usr/bin/env python
"""
train_net.py that keeps what a frozen FPN makes of each batch, for trainings and tests to come.

Cells of a grid that start from one detector and leave it as it is see the same images. On a CPU
most of their time, but for the first, is spared. In the grid's file::

    command: [python, benchmarks/train_on_kept_features.py, --kept, output/grids/mine/features]

Features are rounded to half precision, 13 MB for an image of 480 x 640 pixels; remove the folder
when the grid is done. An FPN that is trained is as ever.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import torch
from detectron2.modeling.backbone import FPN
from torch import Tensor, nn

from maskx_d2.engine import run


def main() -> None:
    """Train, or test."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--kept", type=Path, required=True)
    args, others = parser.parse_known_args()
    keep_features(args.kept)
    run(others)


def keep_features(folder: Path) -> None:
    """From now on, FPNs without a trained parameter look for their features in a folder."""
    compute = FPN.forward
    names: dict[FPN, str] = {}

    def forward(self: FPN, images: Tensor) -> dict[str, Tensor]:
        if any(p.requires_grad for p in self.parameters()):
            features: dict[str, Tensor] = compute(self, images)
            return features
        if self not in names:
            names[self] = weights_digest(self)
        digest = hashlib.sha1(images.cpu().contiguous().numpy().tobytes())
        file = folder / names[self] / f"{digest.hexdigest()}.pth"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            half = {name: level.half().cpu() for name, level in compute(self, images).items()}
            unfinished = file.with_suffix(f".{os.getpid()}")
            torch.save(half, unfinished)
            unfinished.rename(file)
        kept = torch.load(file, weights_only=True)
        return {name: level.to(images.device).float() for name, level in kept.items()}

    FPN.forward = forward


def weights_digest(module: nn.Module) -> str:
    """A hash of all parameters and buffers."""
    digest = hashlib.sha1()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
