"""``maskx export``: a trained model as a TorchScript or ONNX file."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .._counted import counted
from ..deploy import export
from ..deploy.exporting import FORMATS

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx export --config-file baked/config.yaml --weights baked/model.pth \\
      --format torchscript --image street.jpg --output model.ts
  maskx export --config-file baked/config.yaml --weights baked/model.pth \\
      --format onnx --image street.jpg --output model.onnx

What `maskx bake` wrote exports smaller than what was trained: the weight transfer function would be
a part of the file and be evaluated for every image.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "export",
        help="write a trained model as a TorchScript or ONNX file",
        description="Record what a trained model does with an image, by detectron2's tracing, and "
        "write it as a file that runs without detectron2. Its outputs are compared with the "
        "model's own.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--config-file", required=True, help="the model's config, .yaml or .py")
    parser.add_argument("--weights", required=True, help="the model's checkpoint")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--image", required=True, help="an image file with something to find")
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides of the config")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_file("--output", args.output)
    try:
        exported = export(
            args.config_file,
            args.weights,
            args.output,
            image=args.image,
            format=args.format,
            opts=args.opts,
        )
    except FileNotFoundError as e:
        args.parser.error(str(e).rstrip("."))
    except (ImportError, RuntimeError, ValueError) as e:
        print(f"maskx export: {e}", file=sys.stderr)
        return 1
    compared = (
        "not compared with the model's, which needs onnxruntime"
        if exported.largest_difference is None
        else f"at most {exported.largest_difference:.1g} from the model's, boxes in pixels"
    )
    print(
        f"{exported.path}: image (3, height, width) → {', '.join(exported.outputs)}; "
        f"{counted(exported.num_instances, 'instance')}, outputs {compared}."
    )
    return 0
