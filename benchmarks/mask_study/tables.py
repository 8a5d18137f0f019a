"""Figures of several seeds as a table with paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from tabulate import tabulate

from maskx_d2.evaluation import mask_quality, paired_difference
from maskx_d2.evaluation.mask_quality import is_right

from .scenes import Scenes

Runs = dict[str, dict[int, Any]]
BASELINE = "class-agnostic"  # from which to the oracle is the gap


def table(
    figures: Runs,
    part: str,
    scenes: Scenes,
    split: str,
    reference: str,
    without: Collection[str] = (),
) -> str:
    """
    Means and standard deviations over the seeds, and differences from a method with 95 % intervals.

    That of AP is Student's over seeds, as if none shared a detector; that of AR, which is over
    instances, a bootstrap over detectors, their seeds and images. Where all have one detector,
    neither covers the chance in its training. AR leaves out the categories ``without``.
    """
    names = set(scenes.classes) - set(without)

    def counted(seed: int, subset: str) -> set[int]:
        sets = scenes.splits[split](seed).indices(scenes.classes)
        return {i for i in sets["AB".index(subset)] if scenes.classes[i] in names}

    def mean_recall(name: str) -> float | None:
        runs = figures.get(name, {})
        return (
            float(np.mean([_recall(r, part, counted(s, "B")) for s, r in runs.items()]))
            if runs
            else None
        )

    oracle = _values(figures.get(scenes.oracle, {}), part, "segm_B")
    rows = []
    for name, runs in figures.items():
        ap_b, ap_a = (_values(runs, part, f"segm_{s}") for s in "BA")
        ar = {
            subset: {seed: _recall(runs[seed], part, counted(seed, subset)) for seed in runs}
            for subset in "BA"
        }
        share = _share(ap_b, oracle)
        row = [name, len(runs), _spread(ap_b), share, _spread(ar["B"]), _spread(ap_a)]
        row.append(_spread(ar["A"]))
        row.append(_gap_closed(*(mean_recall(n) for n in (name, BASELINE, scenes.oracle))))
        common = sorted(runs.keys() & figures.get(reference, {}).keys())
        if name != reference and common:
            others = _values(figures[reference], part, "segm_B")
            row.append(_student([ap_b[s] - others[s] for s in common]))
            d = paired_difference(
                [_by_image(runs[s], part, counted(s, "B")) for s in common],
                [_by_image(figures[reference][s], part, counted(s, "B")) for s in common],
                groups=[s % scenes.detectors for s in common] if scenes.detectors > 1 else None,
            )
            row.append(f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]")
        rows.append(row)
    headers = ["", "seeds", "mask AP, B", "of oracle's", "mask AR on true boxes, B"]
    headers += [
        "mask AP, A",
        "AR, A",
        "of the gap in AR, B",
        f"AP, B, minus {reference}",
        f"AR, B, minus {reference}",
    ]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def by_category(figures: Runs, part: str, scenes: Scenes, split: str) -> str:
    """AR on true boxes of each category of B: its mean over the seeds, the least and the most."""
    rows = []
    for i, category in enumerate(scenes.classes):
        row = [category]
        for runs in figures.values():
            values = [
                _recall(run, part, {i})
                for seed, run in runs.items()
                if i in scenes.splits[split](seed).indices(scenes.classes)[1]
                and any(c == i for _, c, _ in run[part]["rows"])
            ]
            spread = f" [{min(values):.1f}, {max(values):.1f}]" if len(values) > 1 else ""
            row.append(f"{np.mean(values):.1f}{spread}" if values else "")
        if any(row[1:]):
            rows.append(row)
    return tabulate(rows, ["", *figures], tablefmt="pipe", disable_numparse=True)


def plot(figures: Runs, part: str, path: Path) -> None:
    """Mask AP on B and on A of each seed as dots, their mean as a line."""
    figure = Figure(figsize=(8, 0.9 + 0.32 * len(figures)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, subset, colour in zip(axes, "BA", ("tab:red", "tab:green")):
        for y, runs in enumerate(figures.values()):
            values = list(_values(runs, part, f"segm_{subset}").values())
            ax.plot(values, [y] * len(values), "o", color=colour, alpha=0.5)
            ax.plot([np.mean(values)] * 2, [y - 0.35, y + 0.35], color="black")
        ax.set(xlabel=f"mask AP, {subset}", xlim=(0, None))
        ax.grid(axis="x", alpha=0.4)
    axes[0].set_yticks(range(len(figures)), list(figures))
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def _values(runs: dict[int, Any], part: str, task: str) -> dict[int, float]:
    return {seed: run[part][task]["AP"] for seed, run in runs.items()}


def _recall(run: Any, part: str, wanted: set[int]) -> float:
    _, categories, ious = zip(*run[part]["rows"])
    return mask_quality(np.array(ious), np.array(categories), wanted)["AR_inst"]


def _by_image(run: Any, part: str, wanted: set[int]) -> dict[int, list[float]]:
    values: dict[int, list[float]] = defaultdict(list)
    rows = [row for row in run[part]["rows"] if row[1] in wanted]
    shares = is_right(np.array([row[2] for row in rows])).mean(axis=1)
    for row, share in zip(rows, shares.tolist()):
        values[row[0]].append(100 * share)
    return values


def _gap_closed(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None or high == low:
        return ""
    return f"{(value - low) / (high - low):.2f}"


def _share(values: dict[int, float], oracle: dict[int, float]) -> str:
    common = values.keys() & oracle.keys()
    whole = sum(oracle[s] for s in common)
    return f"{sum(values[s] for s in common) / whole:.2f}" if whole else ""


def _spread(values: dict[int, float]) -> str:
    numbers = list(values.values())
    spread = f" ± {np.std(numbers, ddof=1):.1f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.1f}{spread}"


def _student(differences: Sequence[float]) -> str:
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return f"{mean:+.1f}"
    half = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / n**0.5
    return f"{mean:+.1f} ± {half:.1f}"
