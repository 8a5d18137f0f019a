"""``maskx check``: is a data set as a training will take it to be?"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from tabulate import tabulate

from ..data.check import CheckReport, Split, check_coco_json, check_dataset_dicts
from ..data.findings import KINDS, Finding
from ..splits import coco_nonvoc2voc, coco_voc2nonvoc, load_split, shapes_a27b9

__all__ = ["add_parser"]

_SPLITS = {"voc2nonvoc": coco_voc2nonvoc, "nonvoc2voc": coco_nonvoc2voc, "a27b9": shapes_a27b9}

_EXAMPLES = """\
examples:
  maskx check fruit/train.json --image-root fruit/images --split fruit_split.json
  maskx check coco_2017_train_voc2nonvoc

The exit status is 0 where there is no error, 1 where there is one, and 2 where there is nothing
to check. Sets: A: all instances of the category have a mask; B: none has; mixed: some have.
Crowd regions are neither boxes nor masks.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="check a data set, and count its boxes and masks",
        description="Count the boxes and masks of each category, and find what would stop a "
        "training or teach it something false. A COCO file is read a piece at a time.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="a registered data set, or a COCO JSON file")
    parser.add_argument("--image-root", help="folder of a JSON file's images, to look for them")
    parser.add_argument(
        "--split", help=f"which categories have masks: a split file, or {', '.join(_SPLITS)}"
    )
    parser.add_argument("--limit", type=int, default=5, help="findings shown of each kind (5)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings, too")
    parser.add_argument("--json", metavar="FILE", help="write all findings there; -: print them")
    parser.set_defaults(run=_run, parser=parser)


@dataclass(frozen=True)
class _Source:
    """What is checked: a COCO file, or what a registered data set loads (json_file is None)."""

    json_file: str | None
    image_root: str | None
    split: Split | None
    keeps_masks_of_boxes_only: bool = False


def _run(args: argparse.Namespace) -> int:
    if args.limit < 0:
        args.parser.error("--limit must not be negative")
    source = _source(args)
    try:
        report = _check(args, source)
    except (ValueError, KeyError, AssertionError) as e:
        # The data can't even be read, or detectron2 refuses them.
        print(f"maskx check: {e.args[0] if e.args else repr(e)}", file=sys.stderr)
        return 1
    if args.json != "-":
        print(_describe(args, source, report))
    if args.json:
        text = json.dumps(report.to_json(), indent=1)
        if args.json == "-":
            print(text)
        else:
            try:
                Path(args.json).write_text(text + "\n", encoding="utf-8")
            except OSError as e:
                args.parser.error(f"file '{args.json}' can't be written: {e.strerror}")
    failed = not report.ok or (args.strict and report.count("warning"))
    return 1 if failed else 0


def _source(args: argparse.Namespace) -> _Source:
    """What the arguments name; a mistake in them ends the command with status 2."""
    split = _split(args)
    if args.dataset not in DatasetCatalog.list():
        if not Path(args.dataset).is_file():
            args.parser.error(
                f"'{args.dataset}' is neither a registered data set nor a file; give the path of "
                "a COCO JSON file, or a name such as coco_2017_train"
            )
        return _Source(args.dataset, args.image_root, split)
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
        return _Source(None, None, split, keeps)
    return _Source(json_file, args.image_root or image_root, split, keeps)


def _split(args: argparse.Namespace) -> Split | None:
    """The split of ``--split``; the name of a preset goes before a file's."""
    if args.split is None or args.split in _SPLITS:
        return _SPLITS.get(args.split)
    try:
        return load_split(args.split)
    except (FileNotFoundError, ValueError) as e:
        args.parser.error(f"{str(e).rstrip('.')}; presets are {', '.join(_SPLITS)}")


def _registered_split(name: str) -> Split | None:
    """The split that a data set was registered with, None if it has none."""
    metadata = MetadataCatalog.get(name)
    # The categories are known once the data are loaded, which would stop at what is to be found
    # here; but what the data set was registered with is there.
    split: Split | None = metadata.get("class_split") or metadata.get("declared_split")
    return split


def _check(args: argparse.Namespace, source: _Source) -> CheckReport:
    if source.json_file is not None:
        return check_coco_json(source.json_file, source.image_root, split=source.split)
    try:
        dataset_dicts = DatasetCatalog.get(args.dataset)
    except FileNotFoundError as e:
        args.parser.error(str(e))
    thing_classes = MetadataCatalog.get(args.dataset).get("thing_classes")
    if thing_classes is None:
        args.parser.error(
            f"data set '{args.dataset}' does not name its categories; set "
            f"MetadataCatalog.get('{args.dataset}').thing_classes"
        )
    return check_dataset_dicts(dataset_dicts, thing_classes, split=source.split)


# ------------------------------------------------------------------------------ for people


def _describe(args: argparse.Namespace, source: _Source, report: CheckReport) -> str:
    return "\n".join(
        [
            _table(report, drops=not source.keeps_masks_of_boxes_only),
            "",
            report.summary.describe(Path(args.dataset).name),
            *_remarks(source, report),
            "",
            *_findings(report, args.limit),
            f"{_number(report.count('error'), 'error')}, "
            f"{_number(report.count('warning'), 'warning')}.",
        ]
    )


def _table(report: CheckReport, drops: bool) -> str:
    """The categories that have an instance, the most frequent first."""
    summary, split = report.summary, report.split
    rows = []
    for name, boxes, masks, of_set in sorted(
        zip(summary.thing_classes, summary.boxes.tolist(), summary.masks.tolist(), summary.sets),
        key=lambda row: (-row[1], row[0]),
    ):
        if not boxes:
            continue
        row = [name, boxes, masks, f"{100 * masks / boxes:.1f} %", of_set]
        if split is not None:
            in_b = name in split.boxes_only
            row += ["B" if in_b else "A", *([masks if in_b and masks else ""] if drops else [])]
        rows.append(row)
    headers = ["category", "boxes", "masks", "share", "set"]
    if split is not None:
        headers += [split.name, *(["to drop"] if drops else [])]
    align = ["left", "right", "right", "right", "left", "left", "right"]
    return tabulate(rows, headers, colalign=align[: len(headers)] if rows else None)


def _remarks(source: _Source, report: CheckReport) -> list[str]:
    remarks = []
    if report.summary.crowds:
        remarks.append(f"{_number(report.summary.crowds, 'crowd region')} not counted.")
    if report.split is not None:
        masks = _number(report.masks_of_boxes_only, "mask")
        what = f"{masks} of set B of split '{report.split.name}'"
        if source.keeps_masks_of_boxes_only:
            remarks.append(f"{what} kept, for evaluation.")
        else:
            remarks.append(f"{what} will be dropped in training.")
    if source.json_file is not None and source.image_root is None:
        remarks.append("Image files were not looked for: no --image-root.")
    return remarks


def _findings(report: CheckReport, limit: int) -> list[str]:
    lines = []
    for kind, findings in itertools.groupby(report.findings, key=lambda finding: finding.kind):
        severity, title = KINDS[kind]
        count = report.counts[kind]
        times = f": {count}" if count > 1 else ""  # findings about many images come once
        lines.append(f"{severity}: {title}{times}  [{kind}]")
        shown = list(itertools.islice(findings, limit))
        lines += [f"  {_where(finding)}{finding.message}" for finding in shown]
        if shown and count > len(shown):
            lines.append(f"  ... and {count - len(shown)} more")
        lines.append("")
    return lines


def _where(finding: Finding) -> str:
    parts = []
    if finding.file_name:
        parts.append(finding.file_name)
    if finding.image_id is not None:
        parts.append(f"image {finding.image_id}")
    if finding.annotation_id is not None:
        parts.append(f"annotation {finding.annotation_id}")
    return ", ".join(parts) + ": " if parts else ""


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")
