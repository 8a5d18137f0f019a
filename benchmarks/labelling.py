#!/usr/bin/env python
"""
Where the time of ``maskx label`` goes, image by image, in this process.

::

    python benchmarks/labelling.py --config-file output/config.yaml \\
        --weights output/model_final.pth --dataset-json boxes.json --image-root images --limit 50
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import mean
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import torch
from tabulate import tabulate
from tqdm import tqdm

from maskx_d2.engine import load_model
from maskx_d2.pseudo_masks import Box, ModelMasks, Task, model_masks

WARM_UP = 3  # images


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for option in ("config-file", "weights", "dataset-json", "image-root"):
        parser.add_argument(f"--{option}", required=True, help="as for maskx label")
    parser.add_argument("--limit", type=int, default=50, help="images (50)")
    parser.add_argument("opts", nargs="*", help="overrides of the config, behind --")
    args = parser.parse_args()
    loaded = load_model(args.config_file, args.weights, args.opts)
    tasks, classes = read_tasks(args, loaded.metadata.thing_classes)
    masks = ModelMasks(loaded, classes, {"mask_model": "benchmark"})
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = now()
            result = function(*args, **kwargs)
            seconds[stage][-1] += now() - start
            return result

        return run

    model = loaded.model
    model.backbone.forward = timed("backbone", model.backbone.forward)
    heads = model.roi_heads
    heads.forward_with_given_boxes = timed("mask branch", heads.forward_with_given_boxes)
    model_masks.postprocess_to_rles = timed("paste to RLE", model_masks.postprocess_to_rles)
    for task in tqdm(tasks[: args.limit + WARM_UP], unit="image"):
        for stage in ("read and resize", "backbone", "mask branch", "paste to RLE", "all"):
            seconds[stage].append(0.0)
        start = now()
        model_input = timed("read and resize", masks.read)(task)[1]
        result = masks.make(task, model_input)
        json.dumps(result.masks)
        seconds["all"][-1] = now() - start
        if result.error:
            raise SystemExit(result.error)
    means = {stage: mean(values[WARM_UP:]) for stage, values in seconds.items()}
    means["other"] = 2 * means["all"] - sum(means.values())
    means["all"] = means.pop("all")
    done = tasks[WARM_UP : args.limit + WARM_UP]
    rows = [[s, 1000 * t, f"{100 * t / means['all']:.0f} %"] for s, t in means.items()]
    print(tabulate(rows, ["", "ms an image", "share"], "pipe", floatfmt=".1f"))
    boxes = mean(len(task.boxes) for task in done)
    print(
        f"\n{len(done)} images of {boxes:.1f} boxes, on {model.device}, "
        f"{torch.get_num_threads()} threads"
    )


def now() -> float:
    """Seconds, when all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def read_tasks(args: argparse.Namespace, names: list[str]) -> tuple[list[Task], dict[int, int]]:
    """The images with boxes, as if none had a mask."""
    with open(args.dataset_json, encoding="utf-8") as file:
        content = json.load(file)
    classes = {c["id"]: names.index(c["name"]) for c in content["categories"] if c["name"] in names}
    boxes = defaultdict(list)
    for i, a in enumerate(content["annotations"]):
        if not a.get("iscrowd") and a["category_id"] in classes:
            boxes[a["image_id"]].append(Box(i, a["id"], a["category_id"], a["bbox"]))
    tasks = [
        Task(
            i,
            os.path.join(args.image_root, image["file_name"]),
            image["height"],
            image["width"],
            boxes[image["id"]],
        )
        for i, image in enumerate(content["images"])
        if boxes[image["id"]]
    ]
    return tasks, classes


if __name__ == "__main__":
    main()
