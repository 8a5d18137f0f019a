"""``maskx pseudo-masks``: masks made from boxes, instances made from image labels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from .._counted import counted
from .._environment import available_cores
from ..pseudo_masks import (
    Parameters,
    Report,
    WiseParameters,
    find_instances,
    generate_pseudo_masks,
)
from .sources import SPLITS, Source, add_file_arguments, find_source

__all__ = ["add_parser", "describe", "say_if_all_have_masks"]

_SHOWN = 20  # images that can't be used

_EXAMPLES = """\
examples:
  maskx pseudo-masks --dataset-json fruit/train.json --image-root fruit/images \\
      --split fruit_split.json --output fruit/train_grabcut.json
  maskx pseudo-masks --dataset coco_2017_train_voc2nonvoc --output train_grabcut.json
  # instances of the categories that the split lists as "labels_only":
  maskx pseudo-masks --method wise --dataset shapes_train_a18b9c9 --output train_wise.json \\
      --config-file output/labels/config.yaml --weights output/labels/model_final.pth \\
      --proposals output/deepmask/inference/coco_proposals.json

grabcut: without a split, every instance gets a mask that has none. Where GrabCut fails, or finds
less than --min-fill of the box, the whole box is the mask; "mask_source" of the annotation says
which it is.
wise: where the classifier sees a label of an image, the best proposal there is an instance, and
where there is no proposal, what GrabCut finds; "mask_source" says which. docs/IMAGE_LABELS.md shows
how to train the classifier. Each process loads it.
A call that was stopped goes on where it was when it is repeated. The exit status is 0 if all went
well, 1 if images could not be used, or the file, and 2 for a mistake in the command.
"""

# Options of a method that are nothing to the other
_OF_WISE = ("config_file", "weights", "proposals", "min_response", "max_iou")


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    defaults, wise = Parameters(), WiseParameters()
    parser: argparse.ArgumentParser = commands.add_parser(
        "pseudo-masks",
        help="make masks from boxes with GrabCut, or instances from image labels",
        description="Write a copy of a COCO file in which the instances of set B have masks that "
        "GrabCut made from their boxes, to train the paper's GrabCut baseline; or in which "
        "categories of which only image labels are known (set C) have instances. Real masks of B, "
        "or boxes and masks of C, are not used, and all else stays as it is.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--method", choices=["grabcut", "wise"], default="grabcut", help="(grabcut)"
    )
    add_file_arguments(parser)
    parser.add_argument(
        "--split", help=f"which categories have masks: a split file, or {', '.join(SPLITS)}"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help=f"processes ({available_cores()}; 1 with --method wise on a GPU, of which each takes "
        "a share)",
    )
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
    group = parser.add_argument_group("of --method wise")
    group.add_argument("--config-file", help="the classifier's config, .yaml or .py")
    group.add_argument("--weights", help="the classifier's checkpoint")
    group.add_argument(
        "--proposals",
        metavar="FILE",
        help="COCO results with masks of objects, whatever they are; without, GrabCut makes all",
    )
    group.add_argument(
        "--min-response",
        type=float,
        help=f"logit of a peak from which on it is an instance ({wise.min_response}); the largest "
        "of an image's label is one at any rate",
    )
    group.add_argument(
        "--max-iou",
        type=float,
        help=f"of two masks of a category, above which they are of one instance ({wise.max_iou})",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_file("--output", args.output)
    try:
        parameters = Parameters(args.iterations, args.margin, args.max_side, args.min_fill)
    except ValueError as e:
        args.parser.error(f"--{str(e).rstrip('.').replace('_', '-')}")
    if args.workers is None:
        on_gpu = args.method == "wise" and torch.cuda.is_available()
        args.workers = 1 if on_gpu else available_cores()
    if args.workers < 1:
        args.parser.error("--workers must be at least 1")
    source = find_source(args)
    if source.json_file is None:
        args.parser.error(f"data set '{args.dataset}' is not a COCO JSON file; write it as one")
    if source.image_root is None:
        args.parser.error("--image-root is needed, the folder of the images")
    try:
        if args.method == "wise":
            return _describe_wise(Path(args.output).name, _find_instances(args, source, parameters))
        _check_no_option_of_wise(args)
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
    except (ImportError, TypeError, ValueError) as e:
        print(f"maskx pseudo-masks: {e}", file=sys.stderr)
        return 1
    name = Path(args.output).name
    return 0 if say_if_all_have_masks(name, report) else describe(name, report, "GrabCut")


def _check_no_option_of_wise(args: argparse.Namespace) -> None:
    for option in _OF_WISE:
        if getattr(args, option) is not None:
            args.parser.error(f"--{option.replace('_', '-')} is of --method wise")


def _find_instances(args: argparse.Namespace, source: Source, grabcut: Parameters) -> Report:
    for option in ("config_file", "weights"):
        if getattr(args, option) is None:
            args.parser.error(f"--{option.replace('_', '-')} is needed, of the classifier")
    if source.split is None:
        args.parser.error("--split is needed, whose 'labels_only' are to get instances")
    given = {k: getattr(args, k) for k in ("min_response", "max_iou")}
    try:
        parameters = WiseParameters(
            **{k: v for k, v in given.items() if v is not None}, grabcut=grabcut
        )
    except ValueError as e:
        args.parser.error(f"--{str(e).rstrip('.').replace('_', '-')}")
    assert source.json_file is not None and source.image_root is not None
    return find_instances(
        args.config_file,
        args.weights,
        source.json_file,
        source.image_root,
        args.output,
        split=source.split,
        proposals=args.proposals,
        parameters=parameters,
        workers=args.workers,
    )


def _describe_wise(what: str, report: Report) -> int:
    made = {name: report.masks.get(name, 0) for name in ("wise", "wise+grabcut", "wise+box")}
    print(
        f"{what}: {counted(sum(made.values()), 'instance')}, {made['wise']} of them proposals, "
        f"{made['wise+grabcut']} by GrabCut and {made['wise+box']} whole boxes; "
        f"{counted(report.without_mask, 'label')} of images without an instance."
    )
    return _describe_skipped(report)


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
    return _describe_skipped(report, again)


def _describe_skipped(report: Report, again: str | None = None) -> int:
    if not report.skipped:
        return 0
    again = again or "the same command does what was corrected"
    print(f"{counted(len(report.skipped), 'image')} can't be used; {again}:", file=sys.stderr)
    for _, error in report.skipped[:_SHOWN]:
        print(f"  {error}", file=sys.stderr)
    if len(report.skipped) > _SHOWN:
        print(f"  ... and {len(report.skipped) - _SHOWN} more", file=sys.stderr)
    return 1
