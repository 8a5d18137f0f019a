"""Curves as SVG, each small enough for a phone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["line_plot", "precision_curve"]


def line_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str = "",
    limits: tuple[float, float] | None = None,
) -> str:
    """
    Draw curves.

    Args:
        curves: name → (x, y).
        title, xlabel, ylabel: texts.
        limits: of y.

    Returns:
        An ``<svg>`` element.
    """
    # Text stays text, in the page's own font, and ids don't depend on chance.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 11}):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, (x, y)) in enumerate(curves.items()):
            axes.plot(x, y, ("-", "--", "-.", ":")[i % 4], label=name, linewidth=1.8)
        axes.set_title(title, fontsize=12)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if limits is not None:
            axes.set_ylim(*limits)
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=9)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def precision_curve(
    precision: NDArray[np.float32], classes: Sequence[int], iou: float
) -> tuple[list[float], list[float]]:
    """
    Recall and precision at an IoU threshold, the mean over categories that have ground truth.

    Args:
        precision: (10, 101, K), see :class:`Measured`.
        classes: positions along the last axis.
        iou: 0.5, 0.55, ... or 0.95.
    """
    of_iou = precision[round((iou - 0.5) / 0.05)][:, list(classes)]
    of_iou = of_iou[:, of_iou[0] > -1]
    if not of_iou.shape[1]:
        return [], []
    return np.linspace(0, 1, 101).tolist(), of_iou.mean(axis=1).tolist()
