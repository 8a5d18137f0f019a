"""``maskx check``: is a data set as a training will take it to be?"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from .._counted import counted
from ..data.check import CheckReport, check_coco_json, check_dataset_dicts
from ..data.findings import KINDS, Finding
from ..splits import ClassSplit
from .sources import SPLITS, Source, find_source

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx check fruit/train.json --image-root fruit/images --split fruit_split.json
  maskx check coco_2017_train_voc2nonvoc

The exit status is 0 where there is no error, 1 where there is one, and 2 where there is nothing
to check. Sets: A: all instances of the category have a mask; B: none has; mixed: some have; C: it
has no instance, but images are labelled with it. Crowd regions are neither boxes nor masks.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="check a data set, and count its boxes and masks",
        description="Count the boxes and masks of each category, and find what would stop a "
        "training or teach it something false. A COCO file is read a piece at a time.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("dataset", help="a registered data set, or a COCO JSON file")
    parser.add_argument("--image-root", help="folder of a JSON file's images, to look for them")
    parser.add_argument(
        "--split", help=f"which categories have masks: a split file, or {', '.join(SPLITS)}"
    )
    parser.add_argument(
        "--no-open", action="store_true", help="don't read the images' headers, which takes time"
    )
    parser.add_argument("--limit", type=int, default=5, help="findings shown of each kind (5)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings, too")
    parser.add_argument("--json", metavar="FILE", help="write all findings there; -: print them")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if args.limit < 0:
        args.parser.error("--limit must not be negative")
    source = find_source(args)
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


def _check(args: argparse.Namespace, source: Source) -> CheckReport:
    if source.json_file is not None:
        return check_coco_json(
            source.json_file, source.image_root, split=source.split, open_images=not args.no_open
        )
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
    return check_dataset_dicts(
        dataset_dicts, thing_classes, split=source.split, open_images=not args.no_open
    )


# ------------------------------------------------------------------------------ for people


def _describe(args: argparse.Namespace, source: Source, report: CheckReport) -> str:
    return "\n".join(
        [
            _table(report, drops=not source.keeps_masks_of_boxes_only),
            "",
            report.summary.describe(Path(args.dataset).name),
            *_remarks(source, report),
            "",
            *_findings(report, args.limit),
            f"{counted(report.count('error'), 'error')}, "
            f"{counted(report.count('warning'), 'warning')}.",
        ]
    )


def _table(report: CheckReport, drops: bool) -> str:
    """The categories that have an instance or a label, the most frequent first."""
    summary, split = report.summary, report.split
    labelled = bool(summary.labels.any())
    rows = []
    for name, boxes, masks, labels, of_set in sorted(
        zip(
            summary.thing_classes,
            summary.boxes.tolist(),
            summary.masks.tolist(),
            summary.labels.tolist(),
            summary.sets,
        ),
        key=lambda row: (-row[1], -row[3], row[0]),
    ):
        if not boxes and not labels:
            continue
        share = f"{100 * masks / boxes:.1f} %" if boxes else ""
        row = [name, boxes, masks, share, *([labels or ""] if labelled else []), of_set]
        if split is not None:
            row += [split.set_of(name), *([_dropped(split, name, boxes, masks)] if drops else [])]
        rows.append(row)
    headers = ["category", "boxes", "masks", "share", *(["labels"] if labelled else []), "set"]
    if split is not None:
        headers += [split.name, *(["to drop"] if drops else [])]
    right = {"boxes", "masks", "share", "labels", "to drop"}
    align = ["right" if header in right else "left" for header in headers]
    return tabulate(rows, headers, colalign=align if rows else None)


def _dropped(split: ClassSplit, name: str, boxes: int, masks: int) -> int | str:
    """What a training on the split drops of a category: masks, or boxes with what they have."""
    if name in split.labels_only and boxes:
        return counted(boxes, "box", "boxes")
    return masks if name in split.boxes_only and masks else ""


def _remarks(source: Source, report: CheckReport) -> list[str]:
    remarks = []
    if report.summary.crowds:
        remarks.append(f"{counted(report.summary.crowds, 'crowd region')} not counted.")
    if report.split is not None:
        masks = counted(report.masks_of_boxes_only, "mask")
        what = [f"{masks} of set B of split '{report.split.name}'"]
        if report.split.labels_only:
            boxes = counted(report.boxes_of_labels_only, "box", "boxes")
            what.append(f"{boxes} of set C of split '{report.split.name}'")
        kept = source.keeps_masks_of_boxes_only
        fate = "kept, for evaluation" if kept else "will be dropped in training"
        remarks += [f"{each} {fate}." for each in what]
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
