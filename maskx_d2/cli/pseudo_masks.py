"""``maskx pseudo-masks``: masks made from boxes, for instances that have none."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .._counted import counted
from ..pseudo_masks import Parameters, Report, generate_pseudo_masks
from .sources import SPLITS, add_file_arguments, find_source

__all__ = ["add_parser", "describe", "say_if_all_have_masks"]

_SHOWN = 20  # images that can't be used

_EXAMPLES = """\
examples:
  maskx pseudo-masks --dataset-json fruit/train.json --image-root fruit/images \\
      --split fruit_split.json --output fruit/train_grabcut.json
  maskx pseudo-masks --dataset coco_2017_train_voc2nonvoc --output train_grabcut.json

Without a split, every instance gets a mask that has none. Where GrabCut fails, or finds less than
--min-fill of the box, the whole box is the mask; "mask_source" of the annotation says which it is.
A call that was stopped goes on where it was when it is repeated. The exit status is 0 if all went
well, 1 if images could not be used, or the file, and 2 for a mistake in the command.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    defaults = Parameters()
    parser: argparse.ArgumentParser = commands.add_parser(
        "pseudo-masks",
        help="make masks from boxes with GrabCut",
        description="Write a copy of a COCO file in which the instances of set B have masks that "
        "GrabCut made from their boxes, to train the paper's GrabCut baseline. Real masks of B are "
        "not used, those of A stay as they are.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--method", choices=["grabcut"], default="grabcut", help="(grabcut)")
    add_file_arguments(parser)
    parser.add_argument(
        "--split", help=f"which categories have masks: a split file, or {', '.join(SPLITS)}"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    parser.add_argument("--workers", type=int, default=cores, help=f"processes ({cores})")
    parser.add_argument(
        "--iterations",
        type=int,
        default=defaults.iterations,
        help=f"of GrabCut ({defaults.iterations})",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=defaults.margin,
        help=f"context on each side, in widths or heights of the box ({defaults.margin})",
    )
    parser.add_argument(
        "--max-side",
        type=int,
        default=defaults.max_side,
        help=f"pixels; a larger crop is scaled down ({defaults.max_side})",
    )
    parser.add_argument(
        "--min-fill",
        type=float,
        default=defaults.min_fill,
        help=f"share of the box below which a mask counts as not found ({defaults.min_fill})",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_file("--output", args.output)
    try:
        parameters = Parameters(args.iterations, args.margin, args.max_side, args.min_fill)
    except ValueError as e:
        args.parser.error(f"--{str(e).rstrip('.').replace('_', '-')}")
    if args.workers < 1:
        args.parser.error("--workers must be at least 1")
    source = find_source(args)
    if source.json_file is None:
        args.parser.error(f"data set '{args.dataset}' is not a COCO JSON file; write it as one")
    if source.image_root is None:
        args.parser.error("--image-root is needed, the folder of the images")
    try:
        report = generate_pseudo_masks(
            source.json_file,
            source.image_root,
            args.output,
            split=source.split,
            parameters=parameters,
            workers=args.workers,
        )
    except FileNotFoundError as e:
        args.parser.error(str(e))
    except (ImportError, ValueError) as e:
        print(f"maskx pseudo-masks: {e}", file=sys.stderr)
        return 1
    name = Path(args.output).name
    return 0 if say_if_all_have_masks(name, report) else describe(name, report, "GrabCut")


def say_if_all_have_masks(what: str, report: Report) -> bool:
    """Whether a job found no box without a mask, which is then printed; it may be a mistake."""
    if report.masks or report.without_mask or report.skipped:
        return False
    print(
        f"{what}: all boxes have masks, so none was made; --split makes masks for all boxes of its "
        "set B."
    )
    return True


def describe(what: str, report: Report, source: str, again: str | None = None) -> int:
    """
    Print what a job did; the exit status.

    Args:
        what: was done, such as the name of the output.
        report: of it.
        source: of the masks that are no whole boxes.
        again: what does the images that were skipped; None: the same command.
    """
    made = sum(count for name, count in report.masks.items() if name != "box")
    print(
        f"{what}: {counted(made, f'{source} mask')}, "
        f"{counted(report.masks.get('box', 0), 'whole box', 'whole boxes')} where it "
        f"found nothing, {counted(report.without_mask, 'instance')} still without a mask."
    )
    if not report.skipped:
        return 0
    again = again or "the same command does what was corrected"
    print(f"{counted(len(report.skipped), 'image')} can't be used; {again}:", file=sys.stderr)
    for _, error in report.skipped[:_SHOWN]:
        print(f"  {error}", file=sys.stderr)
    if len(report.skipped) > _SHOWN:
        print(f"  ... and {len(report.skipped) - _SHOWN} more", file=sys.stderr)
    return 1
