#!/usr/bin/env python
"""
Make the reference from above that a partially supervised method can be measured against fairly.

An oracle that learns from all masks has more of them, and a share of its lead comes from that
alone. This writes a COCO JSON with as many masks as set A has, of instances that are drawn at
random among all categories; all boxes stay::

    python datasets/match_masks.py --dataset coco_2017_train --split voc2nonvoc \\
        --output datasets/matched/voc2nonvoc.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from maskx_d2._files import written_whole
from maskx_d2.cli.sources import SPLITS, find_source
from maskx_d2.data import has_mask


def match_masks(
    content: dict[str, Any], with_masks: frozenset[str], seed: int = 0
) -> tuple[dict[str, Any], int]:
    """
    Keep as many masks as set A has, of all categories.

    Args:
        content: of a COCO JSON file. It is not changed.
        with_masks: the category names of set A.
        seed: the same seed keeps the same masks.

    Returns:
        What to write, and the number of masks that are left. Crowds keep their region, which
        trains nothing.
    """
    names = {c["id"]: c["name"] for c in content["categories"]}
    masked = [
        i for i, a in enumerate(content["annotations"]) if not a.get("iscrowd", 0) and has_mask(a)
    ]
    of_a = sum(names[content["annotations"][i]["category_id"]] in with_masks for i in masked)
    chosen = np.random.default_rng(seed).choice(len(masked), of_a, replace=False)
    lost = set(masked) - {masked[i] for i in chosen}
    annotations = [
        {k: v for k, v in a.items() if k != "segmentation"} if i in lost else a
        for i, a in enumerate(content["annotations"])
    ]
    return {**content, "annotations": annotations}, of_a


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dataset", required=True, help="a registered COCO data set, or its JSON")
    parser.add_argument(
        "--split", required=True, help=f"{', '.join(SPLITS)}, or the path of a JSON file"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    args.parser, args.image_root = parser, None
    source = find_source(args)
    if source.json_file is None:
        parser.error(f"'{args.dataset}' is no COCO JSON file on this machine")
    if args.output.exists() and args.output.samefile(source.json_file):
        parser.error(
            "--output is the data set itself, whose masks would be lost; name another file"
        )
    content = json.loads(Path(source.json_file).read_text(encoding="utf-8"))
    names = [c["name"] for c in content["categories"]]
    split = source.split(names) if callable(source.split) else source.split
    split.indices(names)
    matched, kept = match_masks(content, split.with_masks, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(args.output) as unfinished:
        unfinished.write_text(json.dumps(matched), encoding="utf-8")
    total = sum(not a.get("iscrowd", 0) and has_mask(a) for a in content["annotations"])
    sys.stdout.write(f"{args.output}: {kept} of {total} masks, as many as set A has.\n")


if __name__ == "__main__":
    main()
