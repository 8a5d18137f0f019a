"""What the commands that take a data set are given: a COCO JSON file, or a registered name."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..data.check import Split
from ..splits import (
    coco_a20b30c30,
    coco_nonvoc2voc,
    coco_voc2nonvoc,
    load_split,
    shapes_a18b9c9,
    shapes_a27b9,
)

__all__ = ["SPLITS", "Source", "add_file_arguments", "find_source"]

#: The presets that ``--split`` knows by name.
SPLITS = {
    "voc2nonvoc": coco_voc2nonvoc,
    "nonvoc2voc": coco_nonvoc2voc,
    "a20b30c30": coco_a20b30c30,
    "a27b9": shapes_a27b9,
    "a18b9c9": shapes_a18b9c9,
}


@dataclass(frozen=True)
class Source:
    """What is checked: a COCO file, or what a registered data set loads (json_file is None)."""

    json_file: str | None
    image_root: str | None
    split: Split | None
    keeps_masks_of_boxes_only: bool = False


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """What a command takes that writes a COCO file again: the file, its images, the copy."""
    parser.add_argument(
        *("--dataset-json", "--dataset"),
        dest="dataset",
        required=True,
        metavar="FILE",
        help="a COCO JSON file, or a registered data set that is one",
    )
    parser.add_argument("--image-root", help="folder of a JSON file's images")
    parser.add_argument("--output", required=True, metavar="FILE", help="the copy to write")


def find_source(args: argparse.Namespace) -> Source:
    """What the arguments name; a mistake in them ends the command with status 2."""
    split = _split(args)
    if args.dataset not in DatasetCatalog.list():
        if not Path(args.dataset).is_file():
            close = get_close_matches(args.dataset, DatasetCatalog.list(), n=1)
            hint = (
                f"did you mean '{close[0]}'?"
                if close
                else "give the path of a COCO JSON file, or a name such as coco_2017_train"
            )
            args.parser.error(
                f"'{args.dataset}' is neither a registered data set nor a file; {hint}"
            )
        return Source(args.dataset, args.image_root, split)
    keeps = False
    base = args.dataset
    while (parent := MetadataCatalog.get(base).get("base_dataset")) is not None:
        if base == args.dataset:
            keeps = bool(MetadataCatalog.get(base).get("has_masks_of_boxes_only")) and not split
        base = parent
        if base not in DatasetCatalog.list():
            args.parser.error(f"data set '{args.dataset}' is made from '{base}', which is unknown")
    metadata = MetadataCatalog.get(base)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    is_remote = "://" in str(json_file)  # detectron2 fetches it
    if json_file is not None and not is_remote and not Path(json_file).is_file():
        args.parser.error(
            f"file '{json_file}' of data set '{base}' does not exist; put it there, or set "
            "DETECTRON2_DATASETS to the folder that has the data"
        )
    if split is None and base != args.dataset:
        split = _registered_split(args.dataset)
    # The loader of detectron2's COCO data sets hides what is wrong with a file, and its ids.
    loader = getattr(DatasetCatalog[base], "__module__", None)
    if json_file is None or is_remote or loader != register_coco_instances.__module__:
        return Source(None, None, split, keeps)
    return Source(json_file, args.image_root or image_root, split, keeps)


def _split(args: argparse.Namespace) -> Split | None:
    """The split of ``--split``; the name of a preset goes before a file's."""
    if args.split is None or args.split in SPLITS:
        return SPLITS.get(args.split)
    try:
        return load_split(args.split)
    except (FileNotFoundError, ValueError) as e:
        args.parser.error(f"{str(e).rstrip('.')}; presets are {', '.join(SPLITS)}")


def _registered_split(name: str) -> Split | None:
    """The split that a data set was registered with, None if it has none."""
    metadata = MetadataCatalog.get(name)
    # The categories are known once the data are loaded, which would stop at what is to be found
    # here; but what the data set was registered with is there.
    split: Split | None = metadata.get("class_split") or metadata.get("declared_split")
    return split
