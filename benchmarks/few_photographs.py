#!/usr/bin/env python
"""
The photographs of COCO that the documentation's figures are of, cut out of COCO 2017.

343 of train2017 to train on, and 194 others to evaluate on: 177 of val2017, and 17 of val2014,
which are in train2017 today. Their ids are in ``few_photographs.json``. The new folder has
detectron2's names, with links to the images, so that all commands find it::

    python benchmarks/few_photographs.py --coco $DETECTRON2_DATASETS/coco --output few
    export DETECTRON2_DATASETS=few
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IDS = Path(__file__).with_suffix(".json")
SOURCES = ("train2017", "val2017")


def main() -> None:
    """Cut, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--coco", type=Path, required=True, help="folder with annotations, images")
    parser.add_argument("--output", type=Path, required=True, help="for DETECTRON2_DATASETS")
    args = parser.parse_args()
    for part, counts in cut(json.loads(IDS.read_text()), args.coco, args.output).items():
        print(f"{part}: {counts[0]} photographs, {counts[1]} instances")


def cut(ids: Mapping[str, Sequence[int]], coco: Path, output: Path) -> dict[str, tuple[int, int]]:
    """
    Write the parts' annotations and links to their images.

    Args:
        ids: part → the ids of its images, which are looked for in all of COCO 2017.
        coco: with ``annotations/instances_{train,val}2017.json`` and the folders of the images.
        output: new; ``coco`` in it will have the same files.

    Returns:
        part → the numbers of images and annotations.

    Raises:
        SystemExit: if a file or an image is missing, or the new folder exists.
    """
    if (output / "coco").exists():
        raise SystemExit(f"{output / 'coco'} exists already; name another folder.")
    wanted = {i for part in ids.values() for i in part}
    images: dict[int, tuple[dict[str, Any], Path]] = {}
    annotations: dict[int, list[dict[str, Any]]] = {i: [] for i in wanted}
    whole: dict[str, Any] = {}
    for source in SOURCES:
        file = coco / "annotations" / f"instances_{source}.json"
        if not file.is_file():
            raise SystemExit(f"{file} does not exist; --coco is the folder with annotations/.")
        whole = json.loads(file.read_text())
        for image in whole["images"]:
            if image["id"] in wanted:
                images[image["id"]] = image, coco / source / image["file_name"]
        for annotation in whole["annotations"]:
            if annotation["image_id"] in wanted:
                annotations[annotation["image_id"]].append(annotation)
    if missing := sorted(wanted - images.keys()):
        raise SystemExit(
            f"{len(missing)} of {len(wanted)} images are not in COCO 2017 at {coco}, such as id "
            f"{missing[0]}."
        )
    if absent := [path for _, path in images.values() if not path.is_file()]:
        raise SystemExit(f"{len(absent)} images have no file, such as {absent[0]}.")
    counts = {}
    (output / "coco" / "annotations").mkdir(parents=True)
    for part, chosen in ids.items():
        folder = output / "coco" / part
        folder.mkdir()
        for i in chosen:
            image, path = images[i]
            (folder / image["file_name"]).symlink_to(path.resolve())
        content = {k: v for k, v in whole.items() if k not in ("images", "annotations")}
        content["images"] = [images[i][0] for i in chosen]
        content["annotations"] = [a for i in chosen for a in annotations[i]]
        file = output / "coco" / "annotations" / f"instances_{part}.json"
        file.write_text(json.dumps(content))
        counts[part] = len(content["images"]), len(content["annotations"])
    return counts


if __name__ == "__main__":
    main()
