"""
How fast COCO's evaluation is with pycocotools and with faster-coco-eval, on made-up detections.

    python benchmarks/coco_evaluation.py --images 5000 --detections 100 --repeat 3

One process, the two in turn, medians. The time is that of evaluate() and accumulate(), without
reading the files.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import time
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskx_d2.evaluation.coco_engine import IS_FAST, new_cocoeval

HEIGHT, WIDTH = 480, 640
CATEGORIES = range(1, 81)


def make(num_images: int, per_image: int, seed: int = 0) -> tuple[dict[str, Any], list[Any]]:
    """Ground truth of 7 octagons an image, and detections of which each has 4 near it."""
    rng = np.random.default_rng(seed)
    images = [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(num_images)]
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image in images:
        boxes, categories = random_boxes(rng, 7), rng.choice(CATEGORIES, 7)
        for box, category in zip(boxes, categories):
            shared = {"image_id": image["id"], "category_id": int(category), "bbox": box.tolist()}
            area = float(box[2] * box[3])
            annotations.append(
                {"id": len(annotations) + 1, "iscrowd": 0, "area": area, **shared}
                | {"segmentation": rle(box)}
            )
        near = np.repeat(boxes, 4, axis=0) * rng.uniform(0.9, 1.1, (28, 4))
        found = np.concatenate([near, random_boxes(rng, max(per_image - 28, 0))])[:per_image]
        labels = np.concatenate([np.repeat(categories, 4), rng.choice(CATEGORIES, len(found))])
        for box, category in zip(found, labels):
            detections.append(
                {"image_id": image["id"], "category_id": int(category), "bbox": box.tolist()}
                | {"score": float(rng.random()), "segmentation": rle(box)}
            )
    categories_ = [{"id": c, "name": str(c)} for c in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories_}, detections


def random_boxes(rng: np.random.Generator, count: int) -> Any:
    """(count, 4), x, y, width, height in pixels."""
    size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - size), size], axis=1)


def rle(box: Any) -> Any:
    """An octagon in the box."""
    angles = np.arange(8) * np.pi / 4
    x = box[0] + box[2] * (0.5 + 0.5 * np.cos(angles))
    y = box[1] + box[3] * (0.5 + 0.5 * np.sin(angles))
    polygon = np.stack([x, y], axis=1).ravel().tolist()
    return mask_util.frPyObjects([polygon], HEIGHT, WIDTH)[0]


def timed(make_eval: Any, truth: COCO, detections: COCO, task: str) -> tuple[float, float, Any]:
    """Wall clock and CPU time in seconds, and the precision."""
    # The evaluations write into what they are given.
    truth, detections = copy.deepcopy(truth), copy.deepcopy(detections)
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval = make_eval(truth, detections, task)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return time.perf_counter() - wall, time.process_time() - cpu, coco_eval.eval["precision"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    if not IS_FAST:
        parser.error("faster-coco-eval is not installed; run: pip install faster-coco-eval")
    dataset, results = make(args.images, args.detections)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
    for task in ("bbox", "segm"):
        drop = "bbox" if task == "segm" else "segmentation"
        with contextlib.redirect_stdout(io.StringIO()):
            found = truth.loadRes([{k: v for k, v in d.items() if k != drop} for d in results])
        times: dict[str, list[tuple[float, float]]] = {"pycocotools": [], "faster-coco-eval": []}
        precisions = {}
        for _ in range(args.repeat):
            for name, make_eval in zip(times, (COCOeval, new_cocoeval)):
                wall, cpu, precisions[name] = timed(make_eval, truth, found, task)
                times[name].append((wall, cpu))
        slow, fast = precisions.values()
        for name, measured in times.items():
            wall, cpu = (statistics.median(t) for t in zip(*measured))
            print(f"{task} {name}: {wall:.1f} s wall clock, {cpu:.1f} s CPU", flush=True)
        print(f"{task} largest difference of precision: {np.abs(slow - fast).max():.1e}")


if __name__ == "__main__":
    main()
