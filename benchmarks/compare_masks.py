#!/usr/bin/env python
"""
Which methods of a grid have better masks than another, on ground-truth boxes.

It reads the ``mask_probe.json`` that each cell leaves (``TEST.MASK_PROBE``), and adds two floors
to the table: the whole box as the mask, and the mean mask of set A fitted to the box::

    python benchmarks/compare_masks.py configs/grids/photographs.yaml --split voc2nonvoc \\
        --train coco_2017_train_voc2nonvoc --test coco_2017_val_voc2nonvoc
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util
from tabulate import tabulate
from tqdm import tqdm

from maskx_d2.data import class_split_of, has_mask
from maskx_d2.data.datasets import thing_classes_of
from maskx_d2.data.partial_masks import encode_mask
from maskx_d2.evaluation import mask_quality, paired_difference
from maskx_d2.evaluation.mask_quality import is_right
from maskx_d2.experiments import load_grid

SIDE = 28  # of the mean mask

Row = dict[str, Any]


def main() -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("grid")
    parser.add_argument("--split", default="", help="of the grid ('')")
    parser.add_argument("--train", required=True, help="data set of the mean mask")
    parser.add_argument("--test", required=True, help="data set that the grid was evaluated on")
    parser.add_argument("--reference", default="class-agnostic", help="method (class-agnostic)")
    parser.add_argument("--without", nargs="*", default=[], help="categories to leave out")
    parser.add_argument("--subset", choices="AB", default="B")
    args = parser.parse_args()

    names = thing_classes_of(args.test)
    split = class_split_of(args.test)
    wanted = split.boxes_only if args.subset == "B" else split.with_masks
    counted = {i for i, name in enumerate(names) if name in wanted - set(args.without)}

    runs: dict[str, dict[int, list[Row]]] = defaultdict(dict)
    for cell in load_grid(args.grid).cells:
        file = cell.folder / "inference" / "mask_probe.json"
        if cell.split == args.split and (cell.folder / "done.json").is_file() and file.is_file():
            runs[cell.method][cell.seed] = json.loads(file.read_text())
    if args.reference not in runs:
        parser.error(f"no cell of '{args.reference}' in split '{args.split}' is done")
    boxes = next(iter(runs[args.reference].values()))
    for floor, rows in (
        ("whole box", [{**row, "iou": row["box_iou"]} for row in boxes]),
        ("mean mask of A", mean_mask_rows(args.train, args.test, boxes)),
    ):
        runs[floor] = dict.fromkeys(runs[args.reference], rows)

    table = []
    for method, of_seeds in runs.items():
        seeds = sorted(of_seeds.keys() & runs[args.reference].keys())
        if not seeds:
            print(f"'{method}' is left out: no seed of {args.reference} is done", file=sys.stderr)
            continue
        figures = [quality(of_seeds[s], counted) for s in seeds]
        row = [method, len(seeds)]
        for key in ("IoU_inst", "AR_inst", "AR"):
            values = [f[key] for f in figures]
            spread = f" ± {np.std(values, ddof=1):.1f}" if np.ptp(values) > 0 else ""
            row.append(f"{np.mean(values):.1f}{spread}")
        if method != args.reference:
            d = paired_difference(
                [by_image(of_seeds[s], counted) for s in seeds],
                [by_image(runs[args.reference][s], counted) for s in seeds],
            )
            row += [f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]", "yes" if d.is_clear else "no"]
        table.append(row)
    headers = [f"masks on true boxes of {args.subset}", "seeds", "IoU_inst", "AR_inst", "AR"]
    headers += [f"AR_inst minus {args.reference}'s [95 %]", "clear"]
    print(tabulate(table, headers=headers, tablefmt="pipe"))


def quality(rows: Sequence[Row], counted: set[int]) -> dict[str, float]:
    """The figures of the categories that count."""
    ious = np.array([r["iou"] for r in rows])
    return mask_quality(ious, np.array([r["category_id"] for r in rows]), counted)


def by_image(rows: Sequence[Row], counted: set[int]) -> dict[int, list[float]]:
    """Image id → of each instance, the share of COCO's thresholds that its IoU reaches."""
    values: dict[int, list[float]] = defaultdict(list)
    rows = [r for r in rows if r["category_id"] in counted]
    rows = sorted(rows, key=lambda r: (r["image_id"], r["annotation"]))
    shares = is_right(np.array([r["iou"] for r in rows])).mean(axis=1)
    for row, share in zip(rows, shares.tolist()):
        values[row["image_id"]].append(100 * share)
    return values


def mean_mask_rows(train: str, test: str, rows: Sequence[Row]) -> list[Row]:
    """The same instances with the mean mask of the training set, which has A's only, as theirs."""
    mean = mean_mask(DatasetCatalog.get(train))
    records = {record["image_id"]: record for record in DatasetCatalog.get(test)}
    result = []
    for row in tqdm(rows, desc="its IoU", unit="box"):
        record = records[row["image_id"]]
        annotation = record["annotations"][row["annotation"]]
        x0, y0, x1, y1 = corners(annotation, record)
        drawn = np.zeros((record["height"], record["width"]), dtype=np.uint8, order="F")
        if x1 > x0 and y1 > y0:
            size = (y1 - y0, x1 - x0)
            fitted = F.interpolate(mean[None, None], size, mode="bilinear", align_corners=False)
            drawn[y0:y1, x0:x1] = (fitted[0, 0] >= 0.5).numpy()
        truth = encode_mask(annotation["segmentation"], *drawn.shape)
        iou = mask_util.iou([mask_util.encode(drawn)], [truth], [0])
        result.append({**row, "iou": float(iou[0, 0])})
    return result


def mean_mask(records: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The mean of the masks that there are, each fitted to a square: (SIDE, SIDE)."""
    total, count = torch.zeros(SIDE, SIDE), 0
    for record in tqdm(records, desc="mean mask", unit="image"):
        for annotation in record["annotations"]:
            if has_mask(annotation) and not annotation.get("iscrowd", 0):
                mask = in_box(annotation, record)
                if mask is not None:
                    total += F.interpolate(mask[None, None], (SIDE, SIDE), mode="area")[0, 0]
                    count += 1
    return total / count


def in_box(annotation: dict[str, Any], record: dict[str, Any]) -> torch.Tensor | None:
    """A mask's part in its box, (H, W) float; None if the box has no pixel."""
    x0, y0, x1, y1 = corners(annotation, record)
    rle = encode_mask(annotation["segmentation"], record["height"], record["width"])
    mask = torch.from_numpy(mask_util.decode(rle)[y0:y1, x0:x1]).float()
    return mask if mask.numel() else None


def corners(annotation: dict[str, Any], record: dict[str, Any]) -> tuple[int, int, int, int]:
    """A box in whole pixels, clipped to the image."""
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x0, y0, x1, y1 = (round(v) for v in box)
    return max(x0, 0), max(y0, 0), min(x1, record["width"]), min(y1, record["height"])


if __name__ == "__main__":
    main()
