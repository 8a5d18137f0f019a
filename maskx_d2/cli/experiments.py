"""``maskx experiments``: run a grid of trainings, and make its table."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from .._counted import counted
from ..experiments import Grid, cpu_slots, gpu_slots, load_grid, run_cells, write_results
from ..experiments.cell_files import check_settings, holder, state
from ..experiments.grid import Cell

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx experiments run configs/grids/shapes.yaml --dry-run
  maskx experiments run configs/grids/shapes.yaml --gpus 0,1
  maskx experiments table configs/grids/shapes.yaml

A second run does what is not done yet: what was stopped goes on, what has failed is tried again.
The exit status is 0 where all cells are done, 1 where one has failed, and 2 where there is nothing
to run.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "experiments",
        help="run a grid of trainings, and make its table",
        description="Train methods × splits × seeds as a yaml file says, each training in its own "
        "process and folder, and put the results in a table.",
        epilog=_EXAMPLES,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    run = actions.add_parser("run", help="run what is not done yet")
    run.add_argument("grid", help="the grid's yaml file")
    slots = run.add_mutually_exclusive_group()
    slots.add_argument("--gpus", metavar="0,1", help="run one cell on each of these GPUs")
    slots.add_argument("--workers", type=int, default=1, help="cells side by side (1)")
    run.add_argument("--only", metavar="PATTERN", help="only cells whose name contains it")
    run.add_argument("--dry-run", action="store_true", help="only say what would be run")
    run.set_defaults(run=_run, parser=run)

    table = actions.add_parser("table", help="write results.md, results.csv and results.png")
    table.add_argument("grid", help="the grid's yaml file")
    table.add_argument("--output", help="folder for them (the grid's)")
    table.set_defaults(run=_table, parser=table)


def _run(args: argparse.Namespace) -> int:
    if args.workers < 1:
        args.parser.error("--workers must be 1 or more")
    gpus = [gpu.strip() for gpu in (args.gpus or "").split(",")]
    if args.gpus is not None and (not all(gpus) or len(set(gpus)) < len(gpus)):
        args.parser.error(f"--gpus must be different GPUs, such as 0,1, not '{args.gpus}'")
    grid = _load(args)
    try:
        cells = grid.select(args.only)
        if args.dry_run:
            check_settings(cells)
            return _describe(cells)
        slots = cpu_slots(args.workers) if args.gpus is None else gpu_slots(gpus)
        return 1 if run_cells(cells, slots, grid.columns) else 0
    except ValueError as e:
        args.parser.error(str(e))
    except OSError as e:  # a full disk, most likely; what is done is done
        print(f"maskx experiments: {e}; the same command goes on from here.", file=sys.stderr)
        return 1


def _describe(cells: list[Cell]) -> int:
    for cell in cells:
        now = "running" if holder(cell) is not None else state(cell)
        weights = None if cell.after is None else f"<checkpoint of {cell.after.name}>"
        print(f"{cell.name} ({now})\n  {shlex.join(cell.command_line(weights))}")
    done = sum(state(cell) == "done" for cell in cells)
    shared = sum(cell.is_shared for cell in cells)
    others = f" and {shared} that others start from" if shared else ""
    of_table = counted(len(cells) - shared, "cell")
    print(f"{of_table} of the table{others}; {done} of {len(cells)} are done.")
    return 0


def _table(args: argparse.Namespace) -> int:
    grid = _load(args)
    output = Path(args.output) if args.output else grid.output
    try:
        print(write_results(grid, output))
    except ValueError as e:
        args.parser.error(str(e))
    print(f"results.md, results.csv and results.png are in {output}")
    return 0


def _load(args: argparse.Namespace) -> Grid:
    try:
        return load_grid(args.grid)
    except (FileNotFoundError, ValueError) as e:
        args.parser.error(str(e))
