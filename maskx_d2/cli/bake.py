"""``maskx bake``: a trained model as a plain Mask R-CNN of detectron2."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..deploy import Baked, bake

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx bake --config-file output/config.yaml --weights output/model_final.pth --output baked
  maskx bake --config-file output/config.yaml --weights output/model_final.pth --output baked \\
      --keep-selection
"""

#: Bytes of masks in the mask head from which the selection is worth a word.
_MANY_MASKS = 200e6


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bake",
        help="write a trained model as a plain Mask R-CNN",
        description="Evaluate the weight transfer function once and write model.pth and "
        "config.yaml of a plain Mask R-CNN, which detectron2 loads without maskx_d2.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--config-file", required=True, help="the model's config, .yaml or .py")
    parser.add_argument("--weights", required=True, help="the model's checkpoint")
    parser.add_argument("--output", required=True, help="folder for model.pth and config.yaml")
    parser.add_argument(
        "--keep-selection",
        action="store_true",
        help="compute only the mask of each RoI's own category: needs maskx_d2, keeps the MLP "
        "branch, and costs the same for any number of categories",
    )
    parser.add_argument(
        "--drop-mlp",
        action="store_true",
        help="leave out the MLP branch, for which detectron2 has no place; changes the masks",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides of the config")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_folder("--output", args.output)
    try:
        baked = bake(
            args.config_file,
            args.weights,
            args.output,
            opts=args.opts,
            keep_selection=args.keep_selection,
            drop_mlp=args.drop_mlp,
        )
    except FileNotFoundError as e:
        args.parser.error(str(e).rstrip("."))
    except (RuntimeError, TypeError, ValueError) as e:
        print(f"maskx bake: {e}", file=sys.stderr)
        return 1
    _describe(baked, args.keep_selection)
    return 0


def _describe(baked: Baked, keep_selection: bool) -> None:
    print(
        f"{baked.weights} and {baked.config_file}: the mask weights of {baked.num_classes} "
        f"categories are a 1×1 convolution of {baked.predictor_parameters:,} parameters, in place "
        f"of a weight transfer function of {baked.transfer_parameters:,}. Mask probabilities "
        f"differ by at most {baked.largest_difference:.1g}."
    )
    if baked.dropped_mlp_branch:
        print(
            "The MLP branch is left out, so masks are others than the trained model's: evaluate "
            "before use.",
            file=sys.stderr,
        )
    if not keep_selection and baked.mask_bytes > _MANY_MASKS:
        print(
            f"Detectron2's mask head computes the masks of all {baked.num_classes} categories for "
            f"each RoI, {baked.mask_bytes / 1e6:.0f} MB for 100 RoIs; with --keep-selection it "
            "is one mask each.",
            file=sys.stderr,
        )
