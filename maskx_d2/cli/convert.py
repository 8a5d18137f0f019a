"""``maskx convert``: a checkpoint of the authors' Caffe2 code as one of this package."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..convert import Converted, convert

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx convert model_final.pkl --output converted
  ./train_net.py --config-file converted/config.yaml --eval-only
  maskx predict --config-file converted/config.yaml --weights converted/model.pth \\
      --output pictures street.jpg
"""
_SLOPES = {"leaky-relu": 0.1, "relu": 0.0}


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="read a checkpoint of the authors' Caffe2 code",
        description='Convert a .pkl file of "Learning to Segment Every Thing" into model.pth and '
        "config.yaml. Nothing that the file may hold beside arrays is run.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("file", help="the .pkl file")
    parser.add_argument("--output", required=True, help="folder for model.pth and config.yaml")
    parser.add_argument(
        "--activation",
        choices=list(_SLOPES),
        help="of the weight transfer function, for files that don't say (leaky-relu)",
    )
    parser.add_argument(
        "--datasets",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="registered data sets to name in the config (COCO's for 80 categories, Visual "
        "Genome's for 3,001)",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_folder("--output", args.output)
    try:
        converted = convert(
            args.file,
            args.output,
            negative_slope=_SLOPES.get(args.activation),
            datasets=args.datasets,
        )
    except FileNotFoundError as e:
        args.parser.error(str(e).rstrip("."))
    except ValueError as e:
        print(f"maskx convert: {e}", file=sys.stderr)
        return 1
    _describe(converted)
    return 0


def _describe(converted: Converted) -> None:
    model = converted.model
    masks = f"{model.mask} masks" if model.mask else "no masks"
    if model.mask == "transfer":
        masks = f"masks by weight transfer from {model.embedding or model.transfer_input}"
    print(
        f"{converted.weights} and {converted.config_file}: R-{model.depth}-FPN, "
        f"{model.num_classes} categories, {masks}. {len(model.blobs)} blobs were converted; "
        f"{len(model.dropped)} are no part of the model (momenta, ImageNet's classifier, copies)."
    )
