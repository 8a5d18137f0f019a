"""What the cells of a grid have reached: a Markdown table, a CSV file and a plot."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from . import cell_files as files
from .grid import Cell, Grid

__all__ = ["CellResult", "load_results", "markdown", "write_results"]


@dataclass(frozen=True)
class CellResult:
    """
    A cell and what is known of it.

    Attributes:
        cell: of a method, not a shared run.
        state: ``done``, ``failed``, ``started`` or ``new``.
        metrics: of its final evaluation; none unless it is done.
    """

    cell: Cell
    state: str
    metrics: dict[str, float]


def load_results(grid: Grid) -> list[CellResult]:
    """
    The results so far.

    Raises:
        ValueError: if a folder was made with other settings than the grid's.
    """
    files.check_settings(grid.select())
    results = []
    for cell in grid.cells:
        state = files.state(cell)
        done = files.read_json(cell.folder / "done.json") if state == "done" else {"metrics": {}}
        results.append(CellResult(cell, state, done["metrics"]))
    return results


def write_results(grid: Grid, output: Path) -> str:
    """
    Write ``results.md``, ``results.csv`` and ``results.png`` into a folder.

    Returns:
        The Markdown text.

    Raises:
        ValueError: see :func:`load_results`.
    """
    results = load_results(grid)
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(grid, results)
    (output / "results.md").write_text(text, encoding="utf-8")
    _write_csv(results, output / "results.csv")
    _write_plot(grid, results, output / "results.png")
    return text


# -------------------------------------------------------------------------------------- Markdown


def markdown(grid: Grid, results: Sequence[CellResult]) -> str:
    """One table a split: methods as rows; mean ± standard deviation (number of seeds)."""
    parts = []
    for split in grid.splits:
        parts += [f"## {split}"] if split else []
        parts += [_split_table(grid, results, split)]
    parts.append("Mean ± standard deviation over seeds (number of seeds).")
    if grid.reference:
        parts.append(
            f"Less {grid.reference}: mean of the differences within each seed, and its 95 % "
            "confidence interval (Student's t). They are of the first column."
        )
    parts += [f"Paper: {grid.source}."] if grid.source else []
    parts += _missing(results)
    return "\n\n".join(parts) + "\n"


def _split_table(grid: Grid, results: Sequence[CellResult], split: str) -> str:
    headers, columns = ["method"], [list(grid.methods)]
    for label, metric in grid.columns.items():
        headers.append(label)
        columns.append([_cell_text(_values(results, split, m, metric)) for m in grid.methods])
        published = [grid.published.get((split, m, metric)) for m in grid.methods]
        if any(value is not None for value in published):
            headers.append("paper")
            columns.append(["-" if value is None else f"{value:.1f}" for value in published])
    if grid.reference:
        metric = next(iter(grid.columns.values()))
        by_method = {m: _by_seed(results, split, m, metric) for m in grid.methods}
        headers.append(f"minus {grid.reference}")
        columns.append(
            [
                ""
                if m == grid.reference
                else _difference_text(by_method[m], by_method[grid.reference])
                for m in grid.methods
            ]
        )
    align = ["left", *["right"] * (len(headers) - 1)]
    rows = zip(*columns)
    text: str = tabulate(rows, headers, "pipe", colalign=align, disable_numparse=True)
    return text


def _values(results: Sequence[CellResult], split: str, method: str, metric: str) -> list[float]:
    """One for each seed that is done."""
    return list(_by_seed(results, split, method, metric).values())


def _by_seed(
    results: Sequence[CellResult], split: str, method: str, metric: str
) -> dict[int, float]:
    return {
        r.cell.seed: r.metrics[metric]
        for r in results
        if (r.cell.split, r.cell.method) == (split, method) and metric in r.metrics
    }


def _difference_text(method: Mapping[int, float], reference: Mapping[int, float]) -> str:
    """Of the seeds that both have; with one seed there is no interval."""
    seeds = [seed for seed in method if seed in reference]
    if not seeds:
        return "-"
    differences = np.array([method[seed] - reference[seed] for seed in seeds])
    if len(seeds) == 1:
        return f"{differences[0]:+.1f}"
    from scipy import stats  # as matplotlib below

    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    return f"{differences.mean():+.1f} ± {(interval.high - interval.low) / 2:.1f}"


def _cell_text(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread} ({len(values)})"


def _missing(results: Sequence[CellResult]) -> list[str]:
    missing = [r for r in results if r.state != "done"]
    if not missing:
        return []
    failed = [r.cell.name for r in missing if r.state == "failed"]
    said = f"{len(missing)} of {len(results)} cells are missing"
    return [f"{said}, {len(failed)} of them failed: {', '.join(failed)}." if failed else f"{said}."]


# ------------------------------------------------------------------------------------------- CSV


def _write_csv(results: Sequence[CellResult], path: Path) -> None:
    """A row for each cell, a column for each metric that any of them has."""
    metrics = list(dict.fromkeys(name for r in results for name in sorted(r.metrics)))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "method", "seed", "state", *metrics])
        for r in results:
            values = [r.metrics.get(name, "") for name in metrics]
            writer.writerow([r.cell.split, r.cell.method, r.cell.seed, r.state, *values])


# ------------------------------------------------------------------------------------------ plot


def _write_plot(grid: Grid, results: Sequence[CellResult], path: Path) -> None:
    """A row of panels for each split, one for each metric; methods from top to bottom."""
    # Not at the top: it takes a second, which `maskx experiments run` need not wait for. A figure
    # made this way draws without a screen.
    from matplotlib.figure import Figure

    rows, width = len(grid.splits), len(grid.columns)
    height = 0.32 * len(grid.methods) + 1.1
    figure = Figure(figsize=(2.2 + 3.2 * width, height * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, width, squeeze=False, sharey=True, sharex="col")
    drawn = {}
    for row, split in zip(panels, grid.splits):
        for axes, (label, metric) in zip(row, grid.columns.items()):
            for y, method in enumerate(grid.methods):
                values = _values(results, split, method, metric)
                values = [value for value in values if not math.isnan(value)]
                if values:
                    error = np.std(values, ddof=1) if len(values) > 1 else None
                    drawn["mean ± std"] = axes.errorbar(
                        np.mean(values), y, xerr=error, fmt="o", color="C0", capsize=3
                    )
                    if len(values) > 1:
                        drawn["seeds"] = axes.scatter(
                            values, [y + 0.25] * len(values), s=6, color="0.4"
                        )
                published = grid.published.get((split, method, metric))
                if published is not None:
                    drawn["paper"] = axes.scatter(
                        published, y, marker="D", facecolors="none", edgecolors="C3", zorder=4
                    )
            axes.set_title(f"{split}: {label}" if split else label, fontsize="medium")
            axes.grid(axis="x", alpha=0.3)
            axes.set_axisbelow(True)
            axes.tick_params(labelbottom=True)
    names = [name.replace("$", r"\$") for name in grid.methods]
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
    if drawn:
        order = [name for name in ("mean ± std", "seeds", "paper") if name in drawn]
        figure.legend(
            [drawn[name] for name in order],
            order,
            loc="outside lower center",
            ncols=3,
            frameon=False,
        )
    figure.savefig(path, dpi=150)
