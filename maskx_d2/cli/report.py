"""``maskx report``: one HTML page about trained models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from detectron2.utils.logger import setup_logger

from ..data.datasets import NotRegisteredError
from ..report import find_run, make_report

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx report output/maskx --output report.html
  maskx report output/maskx output/class_agnostic --oracle output/all_masks --output report.html
  maskx report Mask^X=output/maskx baseline=output/class_agnostic/model_0009999.pth \\
      --dataset coco_2017_val_voc2nonvoc --output report.html

The first model is the one whose confusions, best and worst masks are shown. Models are evaluated
once; figures are kept in the folder "report" of each. The exit status is 0, 1 if the models and
the data set don't fit each other, and 2 for a mistake in the command.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="write an HTML page about trained models",
        description="Evaluate trained models, and write one HTML page: AP of all categories, A and "
        "B, masks on true boxes, every category, curves, confusions, best and worst masks.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]FOLDER", help="OUTPUT_DIR of a training, or a checkpoint"
    )
    parser.add_argument("--oracle", metavar="FOLDER", help="a model that had masks of B as well")
    parser.add_argument("--dataset", help="registered data set with masks (that of the config)")
    parser.add_argument("--examples", type=int, default=8, help="of best and worst masks each (8)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if args.examples < 0:
        args.parser.error("--examples must not be negative")
    args.parser.check_file("--output", args.output)
    try:
        runs = [_find(said) for said in args.runs]
        oracle = None if args.oracle is None else _find(args.oracle)
    except FileNotFoundError as e:
        args.parser.error(str(e))
    names = [run.name for run in (*runs, *([oracle] if oracle else []))]
    if len(set(names)) < len(names):
        args.parser.error(f"two models are called the same ({', '.join(names)}); use NAME=FOLDER")
    setup_logger(name="maskx_d2")
    try:
        make_report(
            runs, args.output, oracle=oracle, dataset=args.dataset, num_examples=args.examples
        )
    except (FileNotFoundError, NotRegisteredError) as e:  # of a data set that is not there
        args.parser.error(str(e).rstrip("."))
    except ValueError as e:
        print(f"maskx report: {e}", file=sys.stderr)
        return 1
    print(f"{args.output} ({Path(args.output).stat().st_size / 2**20:.1f} MB)")
    return 0


def _find(said: str) -> Any:
    name, separator, path = said.partition("=")
    return find_run(path, name) if separator and not Path(said).exists() else find_run(said)
