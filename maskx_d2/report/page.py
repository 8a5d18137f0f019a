"""The report itself."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from .._files import written_whole
from ..data import class_split_of
from ..data.datasets import check_registered
from ..engine.inference import LoadedModel, load_model, tested_on
from ..splits import ClassSplit
from .confusions import confusions
from .curves import line_plot, precision_curve
from .examples import best_and_worst, cut_out
from .measure import Measured, measure
from .runs import Run

__all__ = ["make_report"]

_CONFUSIONS = 20
_TASKS = {"segm": "mask", "bbox": "box"}


@dataclass(frozen=True)
class _Model:
    run: Run
    loaded: LoadedModel
    measured: Measured
    is_oracle: bool


def make_report(
    runs: Sequence[Run],
    output: str | os.PathLike[str],
    *,
    oracle: Run | None = None,
    dataset: str | None = None,
    num_examples: int = 8,
) -> str:
    """
    Write a page that compares trained models, with all its pictures in one file.

    Args:
        runs: at least one; confusions and examples are the first one's.
        output: path of the page.
        oracle: a model that had masks of B in training.
        dataset: a registered data set to evaluate on, with masks; None: the first model's own.
        num_examples: how many of the best and of the worst masks of each set are shown.

    Returns:
        The name of the data set.

    Raises:
        NotRegisteredError: if there is no such data set.
        ValueError: if the models or the data set don't fit each other.
    """
    every = [*runs, *([oracle] if oracle else [])]
    if dataset is not None:
        check_registered(dataset)  # before models are loaded
    loaded = [load_model(str(run.config_file), str(run.weights)) for run in every]
    dataset = dataset or tested_on(str(runs[0].config_file))
    if dataset is None:
        raise ValueError(
            "the first model's config names no data set to test on; name one with --dataset."
        )
    check_registered(dataset)
    kind = MetadataCatalog.get(dataset).get("evaluator_type", "coco")
    if kind != "coco":
        raise ValueError(f"data set '{dataset}' has metrics of its own ({kind}), not COCO's.")
    records = DatasetCatalog.get(dataset)
    names: list[str] = MetadataCatalog.get(dataset).thing_classes
    for run, model in zip(every, loaded):
        others = model.metadata.get("thing_classes")
        if others is not None and list(others) != list(names):
            raise ValueError(f"model '{run.name}' has other categories than '{dataset}'.")
    with_masks = [
        bool(getattr(getattr(m.model, "roi_heads", None), "mask_on", False)) for m in loaded
    ]
    models = [
        _Model(
            run,
            model,
            measure(run, model, dataset, tasks=("bbox", "segm") if has_masks else ("bbox",)),
            run is oracle,
        )
        for run, model, has_masks in zip(every, loaded, with_masks)
    ]
    context = _context(models, records, dataset, names, num_examples)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("maskx_d2.report", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = lambda v: "–" if v is None or v != v else f"{v:.1f}"
    page = environment.get_template("template.html").render(context)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(output) as path:
        path.write_text(page, encoding="utf-8")
    return dataset


def _context(
    models: list[_Model],
    records: list[dict[str, Any]],
    dataset: str,
    names: list[str],
    num_examples: int,
) -> dict[str, Any]:
    from .. import __version__

    split = class_split_of(dataset)
    subsets = {"": list(range(len(names)))}
    if split is not None:
        subsets = split.indices_of_sets(names)
    counts = Counter(
        a["category_id"] for r in records for a in r["annotations"] if not a.get("iscrowd", 0)
    )
    reported = [m.run.name for m in models if not m.is_oracle]
    return {
        "title": " and ".join(reported) + f" on {dataset}",
        "version": __version__,
        "dataset": dataset,
        "num_images": len(records),
        "num_instances": sum(counts.values()),
        "names": names,
        "split": split,
        "oracle": any(m.is_oracle for m in models),
        "models": [_about(model) for model in models],
        **_detections(models, split),
        **_probe(models, split),
        **_categories(models, names, split, counts),
        "precision_plots": _precision_plots(models, subsets),
        "training_plots": _training_plots(models),
        "confusions": confusions(records, models[0].measured.detections, names)[:_CONFUSIONS],
        "example_groups": _examples(models, records, names, subsets, num_examples),
    }


def _about(model: _Model) -> dict[str, Any]:
    return {
        "name": model.run.name,
        "is_oracle": model.is_oracle,
        "checkpoint": model.run.weights.name,
        "sha256": hashlib.sha256(model.run.weights.read_bytes()).hexdigest(),
        "iterations": _iterations(model.run),
    }


def _iterations(run: Run) -> int | None:
    """As the checkpoint says; None if it doesn't."""
    try:
        content = torch.load(run.weights, map_location="cpu", mmap=True, weights_only=True)
        return int(content["iteration"]) + 1
    except (KeyError, TypeError, RuntimeError, pickle.UnpicklingError):  # .pkl files and others
        return None


def _detections(models: list[_Model], split: ClassSplit | None) -> dict[str, Any]:
    subsets = _subsets(split)
    columns = [
        (f"{_TASKS[task]} {metric}, {subset}" if split else f"{_TASKS[task]} {metric}", key, metric)
        for task in _TASKS
        for metric in ("AP", "AP50")
        for subset, suffix in subsets
        for key in [f"{task}{suffix}"]
    ]
    heads = [head for head, _, _ in columns]
    oracle = next((m for m in models if m.is_oracle), None)
    shared = [s for s, _ in subsets if s in ("B", "C")] if oracle else []
    rows = []
    for model in models:
        shares = []
        for subset in shared:
            best = _of(oracle, f"segm_{subset}", "AP")
            shares.append(100 * _of(model, f"segm_{subset}", "AP") / best if best else float("nan"))
        values = [_of(model, task, metric) for _, task, metric in columns]
        rows.append({"name": model.run.name, "values": shares + values})
    heads = [f"share of the oracle's mask AP, {subset}" for subset in shared] + heads
    return {"detection_heads": heads, "detection_rows": rows}


def _subsets(split: ClassSplit | None) -> list[tuple[str, str]]:
    """What figures are of, and how their names end."""
    return [("all", ""), *((letter, f"_{letter}") for letter in (split.sets if split else ()))]


def _probe(models: list[_Model], split: ClassSplit | None) -> dict[str, Any]:
    subsets = _subsets(split)
    columns = [(m, s, x) for m in ("AR", "AR50", "IoU") for s, x in subsets]
    probed = [m for m in models if m.measured.probe]
    rows = [
        {
            "name": model.run.name,
            "is_floor": False,
            "values": [_of(model, f"mask_probe{suffix}", metric) for metric, _, suffix in columns],
        }
        for model in probed
    ]
    if probed:
        values = [_of(probed[0], f"box_as_mask{suffix}", metric) for metric, _, suffix in columns]
        rows.append({"name": "the whole box as the mask", "is_floor": True, "values": values})
    heads = [f"{metric}, {subset}" if split else metric for metric, subset, _ in columns]
    return {"probe_heads": heads, "probe_rows": rows}


def _categories(
    models: list[_Model], names: list[str], split: ClassSplit | None, counts: Counter[int]
) -> dict[str, Any]:
    heads = ["category", "set", "instances"]
    columns = []
    # Models stand beside each other, metric by metric, as they are compared.
    for task, what in _TASKS.items():
        for model in models:
            if task in model.measured.precision:
                heads.append(f"{what} AP{_of_model(model, models)}")
                columns.append(_ap_of_each(model.measured.precision[task]))
    for model in models:
        if model.measured.probe:
            heads.append(f"mask AR on true boxes{_of_model(model, models)}")
            columns.append(_ar_of_each(model.measured.probe, len(names)))
    rows = []
    for i, name in enumerate(names):
        subset = "" if split is None else split.set_of(name)
        values = [float(column[i]) for column in columns]
        rows.append({"name": name, "set": subset, "count": counts[i], "values": values})
    return {"category_heads": heads, "category_rows": rows}


def _of_model(model: _Model, models: list[_Model]) -> str:
    return f", {model.run.name}" if len(models) > 1 else ""


def _ap_of_each(precision: Any) -> Any:
    """(K,) in percent, NaN without ground truth."""
    valid = np.where(precision > -1, precision, np.nan)
    with np.errstate(invalid="ignore"):
        return 100 * np.array(
            [
                np.nanmean(valid[..., k]) if (valid[..., k] == valid[..., k]).any() else np.nan
                for k in range(valid.shape[-1])
            ]
        )


def _ar_of_each(probe: list[dict[str, Any]], num_classes: int) -> Any:
    from ..evaluation.mask_quality import is_right

    classes = np.array([row["category_id"] for row in probe])
    right = is_right(np.array([row["iou"] for row in probe])).mean(axis=1)
    return 100 * np.array(
        [right[classes == k].mean() if (classes == k).any() else np.nan for k in range(num_classes)]
    )


def _precision_plots(models: list[_Model], subsets: dict[str, list[int]]) -> list[Any]:
    plots = []
    for task, what in _TASKS.items():
        for subset, classes in subsets.items():
            curves = {
                m.run.name: precision_curve(m.measured.precision[task], classes, 0.5)
                for m in models
                if task in m.measured.precision
            }
            if curves:
                title = f"{what}, IoU 0.5" + (f", {subset}" if subset else "")
                plots.append(
                    line_plot(
                        curves,
                        title=title,
                        xlabel="recall",
                        ylabel="precision",
                        limits=(0.0, 1.02),
                    )
                )
    return [jinja2.utils.markupsafe.Markup(plot) for plot in plots]


def _training_plots(models: list[_Model]) -> list[Any]:
    plots = []
    for key, title in (
        ("total_loss", "total loss"),
        ("loss_mask", "mask loss"),
        ("segm_A/AP", "mask AP, A"),
        ("segm_B/AP", "mask AP, B"),
        ("segm_C/AP", "mask AP, C"),
    ):
        curves = {}
        for model in models:
            points = [
                (line["iteration"], line[key])
                for line in model.run.history
                if key in line and "iteration" in line
            ]
            if len(points) > 1:
                x, y = zip(*points)
                curves[model.run.name] = (list(x), list(y))
        if curves:
            plots.append(line_plot(curves, title=title, xlabel="iteration"))
    return [jinja2.utils.markupsafe.Markup(plot) for plot in plots]


def _examples(
    models: list[_Model],
    records: list[dict[str, Any]],
    names: list[str],
    subsets: dict[str, list[int]],
    count: int,
) -> list[dict[str, Any]]:
    shown = [m for m in models if m.measured.probe]
    if not shown or shown[0] is not models[0] or not count:
        return []
    by_id = {record["image_id"]: record for record in records}
    groups = []
    for subset, classes in reversed(subsets.items()):
        best, worst = best_and_worst(models[0].measured.probe, names, classes, count)
        of = f" of {subset}" if subset else ""
        for title, examples in ((f"Worst masks{of}", worst), (f"Best masks{of}", best)):
            found = []
            for example in examples:
                pictures = cut_out(
                    by_id[example.image_id],
                    example.annotation,
                    subset or "A",
                    [m.loaded for m in shown],
                )
                labels = ["truth", *(m.run.name for m in shown)]
                found.append(asdict(example) | {"pictures": list(zip(labels, pictures))})
            groups.append({"title": title, "set": subset, "examples": found})
    return groups


def _of(model: _Model, task: str, metric: str) -> float:
    return model.measured.results.get(task, {}).get(metric, float("nan"))
