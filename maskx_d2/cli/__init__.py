"""The ``maskx`` command: one sub-command a job."""

from __future__ import annotations

from collections.abc import Sequence

import shtab

from ..data.presets import own_datasets_registered
from . import (
    attach,
    bake,
    check,
    convert,
    experiments,
    export,
    label,
    predict,
    pseudo_masks,
    report,
    samples,
    surgery,
)
from .parser import Parser

__all__ = ["main", "make_parser"]


_EXAMPLES = """\
examples:
  maskx check fruit/train.json --image-root fruit/images       # is the data as you think it is?
  maskx attach --config-file faster_rcnn.yaml --weights faster_rcnn.pth --output with_masks ...
  maskx predict --config-file output/config.yaml --weights output/model_final.pth \\
      --output pictures street.jpg                             # look at what a model does
  maskx label --config-file output/config.yaml --weights output/model_final.pth \\
      --dataset-json boxes.json --image-root images --output labelled.json
  maskx COMMAND --help                                         # examples of each

Training is ./train_net.py --config-file ..., as in detectron2.
Tab completion: eval "$(maskx --print-completion bash)" in ~/.bashrc; also for zsh and tcsh.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``maskx <sub-command>``; returns the exit status."""
    parser = make_parser()
    args = parser.parse_command(argv)
    if not own_datasets_registered():
        return 2
    try:
        status: int = args.run(args)
    except BrokenPipeError:  # of who reads what is printed
        raise
    except OSError as e:  # a full disk, a folder of somebody else, no internet
        what = f": '{e.filename}'" if e.filename is not None else ""
        args.parser.error(f"{e.strerror or e}{what}")
    return status


def make_parser() -> Parser:
    """The parser of ``maskx`` and all its sub-commands."""
    parser = Parser(
        prog="maskx", description="Partial mask supervision for detectron2.", epilog=_EXAMPLES
    )
    shtab.add_argument_to(parser, ["--print-completion"], help="print a script for tab completion")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (
        *(attach, bake, check, convert, experiments, export, label, predict),
        *(pseudo_masks, report, samples, surgery),
    ):
        module.add_parser(commands)
    return parser
