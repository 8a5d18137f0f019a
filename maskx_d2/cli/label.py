"""``maskx label``: boxes in, masks out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..pseudo_masks import Report, Shard, label_boxes, merge_shards
from .pseudo_masks import describe, say_if_all_have_masks
from .sources import SPLITS, Source, add_file_arguments, find_source

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx label --config-file output/config.yaml --weights output/model_final.pth \\
      --dataset-json boxes.json --image-root images --output labelled.json
  # in two parts, on two GPUs or two machines that share a disk; then once:
  CUDA_VISIBLE_DEVICES=0 maskx label --shard 1/2 ... --output labelled.json
  CUDA_VISIBLE_DEVICES=1 maskx label --shard 2/2 ... --output labelled.json
  maskx label --merge 2 --dataset-json boxes.json --output labelled.json

Instances that have a mask keep it. What is written of the others: "mask_source" ("model", or "box"
where the model found nothing and the whole box is the mask), "mask_model" (of the checkpoint's
SHA-256) and "mask_score" (mean probability of the mask's pixels). A call that was stopped goes on
where it was when it is repeated. The exit status is 0 if all went well, 1 if images could not be
used, or the file or the model, and 2 for a mistake in the command.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "label",
        help="make the masks that a COCO file lacks with a trained model",
        description="Write a copy of a COCO file in which a trained model has made a mask for "
        "each box that has none. Boxes and categories are used as they are, and real masks stay.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--config-file", help="the model's config, .yaml or .py")
    parser.add_argument("--weights", help="the model's checkpoint, .pth or .pkl")
    add_file_arguments(parser)
    parser.add_argument(
        "--split",
        help="make masks for all boxes of its set B, whatever the file has of them: a split file, "
        f"or {', '.join(SPLITS)}",
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="NAME=KNOWN",
        help="the file's category NAME is the model's KNOWN; can be given repeatedly",
    )
    parser.add_argument(
        "--skip-unknown",
        action="store_true",
        help="leave boxes of categories that the model does not know without masks",
    )
    parser.add_argument(
        "--score-as-weight",
        action="store_true",
        help='also write the score as "mask_weight", so that a training counts sure masks more',
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--shard", metavar="I/N", help="do only the I-th of N parts of the images")
    part.add_argument(
        "--merge", type=int, metavar="N", help="write the output of N parts that are done"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (1)")
    parser.add_argument("opts", nargs="*", help="overrides of the config, behind --")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_file("--output", args.output)
    name = Path(args.output).name
    try:
        if args.merge is not None:
            if args.merge < 1:
                args.parser.error("--merge must be at least 1")
            source = _source(args)
            report = merge_shards(str(source.json_file), args.output, args.merge)
        else:
            shard = _shard(args)
            report = _label(args, shard)
            if shard.count == 1 and say_if_all_have_masks(name, report):
                return 0
            if shard.count > 1:
                name += f", part {shard.index} of {shard.count}"
    except FileNotFoundError as e:
        args.parser.error(str(e))
    except (TypeError, ValueError) as e:
        print(f"maskx label: {e}", file=sys.stderr)
        return 1
    again = "repeat --shard for the parts with those that were corrected, then --merge"
    return describe(name, report, "model", again if args.merge is not None else None)


def _label(args: argparse.Namespace, shard: Shard) -> Report:
    for option in ("config_file", "weights"):
        if getattr(args, option) is None:
            args.parser.error(f"--{option.replace('_', '-')} is needed, of the model")
    if args.workers < 0:
        args.parser.error("--workers must not be negative")
    renamed = dict(pair.partition("=")[::2] for pair in args.rename)
    if not all(renamed.values()):
        args.parser.error("--rename takes NAME=KNOWN")
    source = _source(args)
    if source.image_root is None:
        args.parser.error("--image-root is needed, the folder of the images")
    return label_boxes(
        args.config_file,
        args.weights,
        str(source.json_file),
        source.image_root,
        args.output,
        split=source.split if args.split is not None else None,  # and not what is registered
        renamed=renamed,
        skip_unknown=args.skip_unknown,
        score_as_weight=args.score_as_weight,
        shard=shard,
        workers=args.workers,
        opts=args.opts,
    )


def _source(args: argparse.Namespace) -> Source:
    source = find_source(args)
    if source.json_file is None:
        args.parser.error(f"data set '{args.dataset}' is not a COCO JSON file; write it as one")
    return source


def _shard(args: argparse.Namespace) -> Shard:
    if args.shard is None:
        return Shard()
    index, _, count = args.shard.partition("/")
    try:
        return Shard(int(index), int(count))
    except ValueError:
        args.parser.error(f"--shard takes I/N, such as 1/4, not '{args.shard}'")
