#!/usr/bin/env python
"""
How good instances are that were made of image labels, beside the real ones.

Of an image and a category, made and real instances are paired one to one, those of the largest IoU
first: by masks, and then by boxes. One whose partner does not reach the threshold is wrong; only if
half of it or more is in a real crowd of its category it does not count. A real instance without a
mask is compared by its box alone::

    python benchmarks/pseudo_instances.py output/wise.json \\
        datasets/shapes/annotations/instances_train.json --split a18b9c9
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util
from tabulate import tabulate

from maskx_d2.cli.sources import SPLITS
from maskx_d2.data.partial_masks import encode_mask, has_mask
from maskx_d2.evaluation.proposal_recall import matched_ious
from maskx_d2.splits import load_split

THRESHOLDS = (0.25, 0.5, 0.75)


class Compared(NamedTuple):
    """
    Of each made instance its IoU, the share of it in a crowd, and what made its mask; and how many
    are real.
    """

    ious: NDArray[np.float64]
    in_crowd: NDArray[np.float64]
    sources: NDArray[np.str_]
    real: int

    def of(self, source: str) -> Compared:
        """Those that are made by something."""
        chosen = self.sources == source
        return Compared(self.ious[chosen], self.in_crowd[chosen], self.sources[chosen], self.real)


def main() -> None:
    """Compare, and print a table: of all, and by what made the mask."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("made", type=Path, help="what maskx pseudo-masks --method wise wrote")
    parser.add_argument("real", type=Path, help="the same images with the real instances")
    parser.add_argument("--split", required=True, help="of which set C is compared")
    args = parser.parse_args()
    made, real = (json.loads(path.read_text()) for path in (args.made, args.real))
    names = [category["name"] for category in real["categories"]]
    split = SPLITS[args.split](names) if args.split in SPLITS else load_split(args.split)
    if not split.labels_only:
        parser.error(f"split '{split.name}' has no categories with image labels only")
    found = compare(made, real, split.labels_only)
    rows = {"masks": figures(found)}
    rows |= {f"masks, {source}": figures(found.of(source)) for source in np.unique(found.sources)}
    rows["boxes"] = figures(compare(made, real, split.labels_only, boxes=True))
    table = [[name, *(f"{v:.4g}" for v in row.values())] for name, row in rows.items()]
    print(tabulate(table, ["instances of C", *rows["boxes"]], "pipe", disable_numparse=True))


def compare(
    made: dict[str, Any], real: dict[str, Any], categories: Collection[str], boxes: bool = False
) -> Compared:
    """Two COCO files' instances of some categories, by their masks or their boxes."""
    ids = {c["id"] for c in real["categories"] if c["name"] in categories}
    of_truth = by_image_and_category(real, ids, boxes)
    ious, in_crowd, sources = [np.zeros(0)], [np.zeros(0)], []
    for key, instances in by_image_and_category(made, ids, boxes).items():
        shapes = [shape for shape, _ in instances]
        truth = of_truth.get(key, [])
        alone = [shape for shape, a in truth if not a.get("iscrowd")]
        crowds = [shape for shape, a in truth if a.get("iscrowd")]
        # matched_ious gives each column's; here columns are the made ones.
        ious.append(matched_ious(overlaps(alone, shapes, crowd=False)))
        in_crowd.append(overlaps(shapes, crowds, crowd=True).max(axis=1, initial=0))
        sources += [a["mask_source"] for _, a in instances]
    objects = sum(not a.get("iscrowd") for truth in of_truth.values() for _, a in truth)
    return Compared(
        np.concatenate(ious), np.concatenate(in_crowd), np.array(sources, dtype=str), objects
    )


def figures(found: Compared) -> dict[str, float]:
    """
    In percent, NaN of nothing; recall is the share of the real instances.

    The mean IoU of real instances is over all of them, 0 of one without a partner.
    """
    real = found.real or np.nan
    result: dict[str, float] = {
        "instances": len(found.ious),
        "objects": found.real,
        "mean IoU of objects": 100 * found.ious.sum() / real,
    }
    for t in THRESHOLDS:
        right = found.ious >= t
        counts = right | (found.in_crowd < 0.5)
        result[f"recall {t:g}"] = 100 * right.sum() / real
        result[f"precision {t:g}"] = 100 * right.sum() / (counts.sum() or np.nan)
    return result


def by_image_and_category(
    content: dict[str, Any], ids: Collection[int], boxes: bool
) -> dict[tuple[int, int], list[tuple[Any, dict[str, Any]]]]:
    """(Image id, category id) → pairs of mask, as RLE, or box, XYWH, and annotation."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found = defaultdict(list)
    for a in content["annotations"]:
        if a["category_id"] in ids and (boxes or has_mask(a)):
            size = sizes[a["image_id"]]
            shape = np.array(a["bbox"], float) if boxes else encode_mask(a["segmentation"], *size)
            found[a["image_id"], a["category_id"]].append((shape, a))
    return found


def overlaps(first: list[Any], second: list[Any], crowd: bool) -> NDArray[np.float64]:
    """IoU (len(first), len(second)); with a crowd, the share of the first."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    both = [np.stack(s) if isinstance(s[0], np.ndarray) else s for s in (first, second)]
    return np.asarray(mask_util.iou(*both, [int(crowd)] * len(second)))


if __name__ == "__main__":
    main()
