"""The ``maskx`` command: one sub-command a job."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

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
    samples,
    surgery,
)

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``maskx <sub-command>``; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="maskx", description="Partial mask supervision for detectron2."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    attach.add_parser(commands)
    bake.add_parser(commands)
    check.add_parser(commands)
    convert.add_parser(commands)
    experiments.add_parser(commands)
    export.add_parser(commands)
    label.add_parser(commands)
    predict.add_parser(commands)
    pseudo_masks.add_parser(commands)
    samples.add_parser(commands)
    surgery.add_parser(commands)
    args = parser.parse_args(argv)
    if not own_datasets_registered():
        return 2
    status: int = args.run(args)
    return status
