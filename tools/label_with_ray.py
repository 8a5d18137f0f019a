#!/usr/bin/env python
"""
``maskx label`` on a Ray cluster: Ray Data hands out the images and starts the models.

The driver keeps the progress, so that a job that was stopped goes on when it is repeated, and
writes the same file that ``maskx label`` would, to the byte on machines of one kind. Paths must be
the same on all machines::

    pip install 'ray[data]'
    RAY_ADDRESS=auto python tools/label_with_ray.py --config-file output/config.yaml \\
        --weights output/model_final.pth --dataset-json boxes.json --image-root images \\
        --output labelled.json --actors 8 --gpus 1
"""

from __future__ import annotations

import argparse
import logging
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from maskx_d2.pseudo_masks import Labeller, Result, Task, label_boxes


class Actor:
    """A process with a model."""

    def __init__(self, labeller: Labeller) -> None:
        self._masks = labeller.load()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """An image's masks; both go as bytes, which Arrow can hold."""
        task = pickle.loads(row["task"])
        return {"result": pickle.dumps(self._masks.make(*self._masks.read(task)))}


def main() -> int:
    """Label; the exit status is 1 if images can't be used."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for option in ("config-file", "weights", "dataset-json", "image-root", "output"):
        parser.add_argument(f"--{option}", required=True, help="as for maskx label")
    parser.add_argument("--actors", type=int, default=1, help="models at work (1)")
    parser.add_argument("--gpus", type=float, default=0, help="of each model; may be a part (0)")
    parser.add_argument("--cpus", type=float, default=1, help="of each model (1)")
    args = parser.parse_args()
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # there is a progress bar
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run_tasks(labeller: Labeller, tasks: list[Task]) -> Iterator[Result]:
        # Small blocks: what is finished is noted soon, and no actor waits long for the last.
        blocks = min(len(tasks), max(16 * args.actors, len(tasks) // 64))
        rows = ray.data.from_items(
            [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=blocks
        )
        results = rows.map(
            Actor,
            fn_constructor_args=(labeller,),
            compute=ActorPoolStrategy(size=args.actors),
            num_gpus=args.gpus,
            num_cpus=args.cpus,
        )
        for row in results.iter_rows():
            yield pickle.loads(row["result"])

    report = label_boxes(
        args.config_file,
        args.weights,
        args.dataset_json,
        args.image_root,
        args.output,
        run_tasks=run_tasks,
    )
    print(f"{args.output}: {dict(report.masks)}, {report.without_mask} instances without a mask")
    for _, error in report.skipped:
        print(error, file=sys.stderr)
    return 1 if report.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
