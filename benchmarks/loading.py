#!/usr/bin/env python
"""
Registering and checking a COCO file as large as train2017, beside stock detectron2.

Writes a JSON file of 118,287 images and 860,001 annotations (nothing in it is real but the
sizes), loads it by detectron2's loader and by this package's in alternating processes, and prints
the medians of time and of peak memory above that of the imports, as ratios to detectron2's::

    python benchmarks/loading.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

NUM_IMAGES, NUM_ANNOTATIONS = 118_287, 860_001
WAYS = {
    "detectron2": "detectron2's register_coco_instances",
    "all": "register_partial, no split",
    "partial": "register_partial, 20 of 80 categories have masks",
    "check": "maskx check",
}


def main() -> None:
    """Write the file if it is not there, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--annotations", type=int, default=NUM_ANNOTATIONS)
    parser.add_argument("--output", default="output/loading")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    json_file = Path(args.output) / f"instances_{args.images}_{args.annotations}.json"
    if args.way:
        print(json.dumps(measure(args.way, json_file)))
        return
    if not json_file.exists():
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, args.images, args.annotations)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for way in tqdm([*WAYS] * args.repeat, "measuring", unit="process"):
        process = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--way", way],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        runs[way].append(json.loads(process.stdout.splitlines()[-1]))
    medians = {
        way: {key: median(run[key] for run in of_way) for key in of_way[0]}
        for way, of_way in runs.items()
    }
    stock = medians["detectron2"]
    rows = [
        [
            WAYS[way],
            f"{m['seconds']:.1f} s",
            f"{m['seconds'] / stock['seconds']:.2f}",
            f"{m['megabytes']:.0f} MB",
            f"{m['megabytes'] / stock['megabytes']:.2f}",
        ]
        for way, m in medians.items()
    ]
    size = json_file.stat().st_size / 1e6
    print(f"\n{json_file.name}, {size:.0f} MB, medians of {args.repeat}:\n")
    print(tabulate(rows, ["", "time", "ratio", "peak memory", "ratio"], tablefmt="pipe"))


def measure(way: str, json_file: Path) -> dict[str, float]:
    """Time and peak memory of one way to read the file, without those of the imports."""
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances

    from maskx_d2 import ClassSplit
    from maskx_d2.cli import main as maskx
    from maskx_d2.data import register_partial

    register_coco_instances("large", {}, str(json_file), str(json_file.parent))
    if way == "all":
        register_partial("large_partial", base="large")
    elif way == "partial":
        register_partial(
            "large_partial",
            base="large",
            split=lambda names: ClassSplit.from_with_masks("first20", names[:20], names),
        )
    before = peak_memory()
    start = time.perf_counter()
    if way == "check":
        maskx(["check", str(json_file)])
    else:
        DatasetCatalog.get("large" if way == "detectron2" else "large_partial")
    return {"seconds": time.perf_counter() - start, "megabytes": peak_memory() - before}


def peak_memory() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def write_json(path: Path, num_images: int, num_annotations: int) -> None:
    """Write ellipses in boxes: as many, and as many points, as COCO train2017 has."""
    rng = np.random.default_rng(1)
    width, height = rng.integers(320, 641, (2, num_images)).tolist()
    image_of = rng.integers(0, num_images, num_annotations)
    category_of = rng.integers(1, 81, num_annotations)
    points_of = np.clip(rng.lognormal(2.95, 0.6, num_annotations).astype(int), 4, 400)
    path_written = path.with_suffix(".incomplete")
    with path_written.open("w") as f:
        f.write('{"info": {}, "images": [')
        for i in range(num_images):
            name = f"{i + 1:012d}.jpg"
            entry = {
                "id": i + 1,
                "file_name": name,
                "width": width[i],
                "height": height[i],
                "license": 1,
                "coco_url": f"http://images.cocodataset.org/train2017/{name}",
                "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
                "date_captured": "2013-11-14 11:18:45",
            }
            f.write((", " if i else "") + json.dumps(entry))
        f.write('], "annotations": [')
        for k in tqdm(range(num_annotations), "writing", unit="annotation"):
            image = int(image_of[k])
            polygon = ellipse(rng, width[image], height[image], points_of[k])
            (x0, y0), (x1, y1) = polygon.min(0).tolist(), polygon.max(0).tolist()
            annotation: dict[str, Any] = {
                "segmentation": [polygon.ravel().tolist()],
                "area": round(0.785 * (x1 - x0) * (y1 - y0), 4),
                "iscrowd": 0,
                "image_id": image + 1,
                "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                "category_id": int(category_of[k]),
                "id": k + 1,
            }
            f.write((", " if k else "") + json.dumps(annotation))
        categories = [{"id": c, "name": f"category {c}"} for c in range(1, 81)]
        f.write(f'], "categories": {json.dumps(categories)}}}')
    path_written.rename(path)


def ellipse(rng: np.random.Generator, width: int, height: int, num_points: int) -> Any:
    """(num_points, 2) points inside an image, rounded as COCO's are."""
    size = rng.uniform(8, (width / 2, height / 2))
    corner = rng.uniform(0, (width - 1, height - 1) - size)
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.round(corner + size / 2 * (1 + circle), 2)


if __name__ == "__main__":
    main()
