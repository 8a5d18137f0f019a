"""How well a classifier knows which categories an image has, for all, A, B and C."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from tabulate import tabulate

from ..data import class_split_of
from ..data.datasets import thing_classes_of
from ..splits import ClassSplit
from .average_precision import average_precision

__all__ = ["ImageLabelEvaluator"]

logger = logging.getLogger(__name__)


class ImageLabelEvaluator(DatasetEvaluator):
    """
    Average precision of image labels, in percent: of each category, and their mean.

    It takes ``image_scores``, (K,) of an image, see
    :class:`~maskx_d2.image_labels.PeakResponseClassifier`. The results hold ``image_labels`` with
    ``AP`` and ``AP-<category>``; if the data set has a split, also ``image_labels_A``, ``_B`` and
    ``_C`` with ``AP``. Categories that no image has are left out of means.

    An image's labels are the categories of its instances, crowds included, and its
    ``image_labels``.
    """

    def __init__(self, dataset_name: str, *, class_split: ClassSplit | None = None) -> None:
        """
        Args:
            dataset_name: a registered data set.
            class_split: sets A, B and C; by default what the data set was registered with.

        Raises:
            ValueError: if the split does not fit the categories of the data set, or these have no
                names.
        """
        self._classes = thing_classes_of(dataset_name)
        self._labels = {r["image_id"]: _labels(r) for r in DatasetCatalog.get(dataset_name)}
        split = class_split or class_split_of(dataset_name)
        self._subsets: dict[str, list[int]] = (
            {} if split is None else split.indices_of_sets(self._classes)
        )
        self._scores: dict[int | str, NDArray[np.float32]] = {}

    def reset(self) -> None:
        """See :meth:`DatasetEvaluator.reset`."""
        self._scores = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`DatasetEvaluator.process`."""
        for model_input, output in zip(inputs, outputs):
            self._scores[model_input["image_id"]] = output["image_scores"].cpu().numpy()

    def evaluate(self) -> dict[str, Any]:
        """See :meth:`DatasetEvaluator.evaluate`; logs a table."""
        gathered = comm.gather(self._scores, dst=0)
        if not comm.is_main_process():
            return {}
        found = dict(itertools.chain(*(part.items() for part in gathered)))
        if not found:
            logger.warning("no image was evaluated, so there is no average precision of labels.")
            return {}
        scores = np.stack(list(found.values()))
        truth = np.zeros(scores.shape, dtype=bool)
        for row, image_id in zip(truth, found):
            row[sorted(self._labels[image_id])] = True
        each = np.array([100 * average_precision(s, t) for s, t in zip(scores.T, truth.T)])
        results = {"image_labels": {"AP": _mean(each)}}
        for name, categories in self._subsets.items():
            if categories:
                results[f"image_labels_{name}"] = {"AP": _mean(each[categories])}
        table = [[task, figures["AP"]] for task, figures in results.items()]
        logger.info(
            "Average precision of image labels:\n"
            + tabulate(table, headers=["", "AP"], tablefmt="pipe", floatfmt=".2f")
        )
        results["image_labels"] |= {f"AP-{c}": ap for c, ap in zip(self._classes, each.tolist())}
        return results


def _labels(record: dict[str, Any]) -> set[int]:
    found = {a["category_id"] for a in record.get("annotations", ())}
    return found | set(record.get("image_labels", ()))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
