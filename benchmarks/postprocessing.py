#!/usr/bin/env python
"""
From what a model's heads predict of an image to COCO's results, beside stock detectron2.

Both ways take the same boxes and 28 × 28 masks through detectron2's postprocessing and into the
evaluator's list of results, and the lists must be equal. Times are medians of alternating runs in
one process; the peak memory, above that before the first image, is that of a process of its own::

    python benchmarks/postprocessing.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from tabulate import tabulate
from torch.nn import functional as F
from tqdm import tqdm

from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.postprocessing import rle_masks

# Size of the image → that in which detectron2's default test augmentation shows it to a model.
SIZES = {(800, 1333): (800, 1333), (2160, 3840): (750, 1333)}
WAYS = ("detectron2", "maskx_d2")

Results = list[dict[str, Any]]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--device", default="cpu", help="where the predictions are (cpu)")
    # In a process of its own:
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        way, *numbers = args.memory
        print(peak_of(way, *map(int, numbers), args.device))
        return
    cases = [(size, count) for size in SIZES for count in (100, 300)]
    rows = [measure(size, count, args) for size, count in tqdm(cases, unit="case")]
    print(f"\n{args.device}, {args.threads} thread(s), medians of {args.repeat}:\n")
    stock, ours = WAYS
    headers = ["image", "detections", stock, ours, "ratio", f"memory, {stock}", f"memory, {ours}"]
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, stralign="right"))


def measure(size: tuple[int, int], count: int, args: argparse.Namespace) -> list[str]:
    """One row of the table."""
    ways = {way: way_to_results(way) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(args.repeat + 1):
        results = {}
        for way in WAYS if seed % 2 else WAYS[::-1]:
            raw = predictions(size, count, seed, args.device)
            start = time.perf_counter()
            results[way] = ways[way](raw, size)
            times[way].append(time.perf_counter() - start)
        if results[WAYS[0]] != results[WAYS[1]] or not results[WAYS[0]]:
            raise RuntimeError(f"the results of {count} detections at {size}, seed {seed}, differ.")
    stock, ours = (median(times[way][1:]) for way in WAYS)  # the first is to warm up
    memory = [peak_in_a_process(way, size, count, args) for way in WAYS]
    return [
        f"{size[0]} × {size[1]}",
        str(count),
        f"{1e3 * stock:.0f} ms",
        f"{1e3 * ours:.0f} ms",
        f"{stock / ours:.1f}",
        *(f"{megabytes:.0f} MB" for megabytes in memory),
    ]


def peak_in_a_process(
    way: str, size: tuple[int, int], count: int, args: argparse.Namespace
) -> float:
    """What :func:`peak_of` says in a new process."""
    command = [sys.executable, __file__, "--threads", str(args.threads), "--device", args.device]
    process = subprocess.run(
        [*command, "--memory", way, *map(str, (*size, count))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return float(process.stdout.splitlines()[-1])


def peak_of(way: str, height: int, width: int, count: int, device: str) -> float:
    """Peak memory of one image, in MB, without that of the imports."""
    to_results = way_to_results(way)
    raw = predictions((height, width), count, 0, device)
    before = peak_memory()
    to_results(raw, (height, width))
    return peak_memory() - before


def peak_memory() -> float:
    """Of this process so far, in MB; Linux tells, and getrusage() would count the parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(kilobytes) / 1e3


class Heads(GeneralizedRCNN):
    """A model that is only its postprocessing: what its heads predict is set from outside."""

    raw: Instances

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """No image is needed."""
        return argparse.Namespace(tensor=None, image_sizes=[self.raw.image_size])

    def backbone(self, _images: None) -> None:
        """No features are needed."""

    proposal_generator = staticmethod(lambda *_: (None, None))

    def roi_heads(self, *_args: Any) -> tuple[list[Instances], None]:
        """Return the predictions, for the next inference only: they are changed in place."""
        return [self.__dict__.pop("raw")], None


def way_to_results(way: str) -> Callable[[Instances, tuple[int, int]], Results]:
    """Return what turns raw predictions for an image of some size into COCO's results."""
    name = f"nothing_{way}"
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder) / "nothing.json"
        json_file.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
        register_coco_instances(name, {}, str(json_file), folder)
        evaluator_class = COCOEvaluator if way == WAYS[0] else SplitCOCOEvaluator
        evaluator = evaluator_class(name, ("bbox", "segm"), distributed=False)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    model = Heads().eval()

    @torch.no_grad()
    def to_results(raw: Instances, size: tuple[int, int]) -> Results:
        model.__dict__["raw"] = raw
        inputs = [{"image_id": 1, "height": size[0], "width": size[1]}]
        evaluator.reset()
        if way == WAYS[0]:
            evaluator.process(inputs, model(inputs))
        else:
            with rle_masks(model):
                evaluator.process(inputs, model(inputs))
        results: Results = evaluator._predictions[0]["instances"]
        return results

    return to_results


def predictions(size: tuple[int, int], count: int, seed: int, device: str) -> Instances:
    """
    Instances as a model's heads leave them, in the size that the model sees.

    The square root of a box's share of the image is log-normal, so that 41 % of the masks of a
    640 × 480 image are small and 24 % large, as COCO's are, with boxes 1.6 times as large as
    masks. Masks are smooth blobs, about half of the box.
    """
    rng = np.random.default_rng(seed)
    height, width = SIZES[size]
    share = np.exp(rng.normal(np.log(0.097), 1.18, count)).clip(0.005, 0.95)
    aspect = np.exp(rng.normal(0, 0.45, count))
    side = share * np.sqrt(height * width)
    extent = np.minimum(
        np.stack([side * np.sqrt(aspect), side / np.sqrt(aspect)], axis=1), [width - 1, height - 1]
    )
    corner = rng.uniform(0, [width, height] - extent)
    coarse = torch.from_numpy(rng.normal(0.25, 1, (count, 1, 5, 5)).astype(np.float32))
    masks = F.interpolate(6 * coarse, size=(28, 28), mode="bicubic").sigmoid()
    return Instances(
        (height, width),
        pred_boxes=Boxes(torch.from_numpy(np.hstack([corner, corner + extent])).float()),
        scores=torch.from_numpy(rng.random(count)).float(),
        pred_classes=torch.from_numpy(rng.integers(80, size=count)),
        pred_masks=masks,
    ).to(device)


if __name__ == "__main__":
    main()
