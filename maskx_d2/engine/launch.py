"""The command line of ``train_net.py``, also for scripts that register their own data first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import default_argument_parser, launch

from ..data.presets import own_datasets_registered
from .lazy_main import is_lazy, lazy_main
from .yaml_main import yaml_main

__all__ = ["main", "run"]


def main(args: argparse.Namespace) -> Any:
    """Train or evaluate in this process; ``args`` are of detectron2's own argument parser."""
    return lazy_main(args) if is_lazy(args.config_file) else yaml_main(args)


def run(argv: Sequence[str] | None = None) -> Any:
    """
    Parse detectron2's own command line and launch :func:`main` on every GPU it asks for.

    Raises:
        SystemExit: on a usage error, such as a config file that does not exist, or if a data set of
            ``MASKX_DATASETS`` can't be registered.
    """
    parser = default_argument_parser()
    args = parser.parse_args(argv)
    if not own_datasets_registered():
        parser.exit(2)  # the log has said why
    if not args.config_file:
        parser.error("--config-file is required")
    if "://" not in args.config_file and not Path(args.config_file).is_file():
        parser.error(f"config file '{args.config_file}' does not exist")
    return launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
