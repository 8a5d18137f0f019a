"""COCO evaluation of all categories, and of sets A, B and C, in one pass."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from tabulate import tabulate

from ..data import class_split_of
from ..splits import ClassSplit
from .coco_engine import with_fastest_cocoeval
from .ground_truth import evaluable, ignore_maskless, segmentations_as_in_coco
from .rle_results import take_rles
from .split_metrics import METRICS, subset_metrics

__all__ = ["SplitCOCOEvaluator"]

logger = logging.getLogger(__name__)


class SplitCOCOEvaluator(COCOEvaluator):
    """
    Detectron2's :class:`COCOEvaluator`, which also reports the categories of each set on their own.

    The results hold, beside ``bbox`` and ``segm``, ``bbox_A``, ``bbox_B``, ``segm_A`` and
    ``segm_B``, each with AP, AP50, AP75, APs, APm and APl in percent; where the split has a set
    C, ``bbox_C`` and ``segm_C`` as well. A category without ground truth is left out of the means,
    as COCO does. A data set without a split is evaluated as :class:`COCOEvaluator` does.

    Ground truth may lack masks. For the mask metrics, such an instance is what COCO calls a crowd:
    its box is a region in which detections count neither as right nor as wrong.
    """

    def __init__(
        self, dataset_name: str, *args: Any, class_split: ClassSplit | None = None, **kwargs: Any
    ) -> None:
        """
        Args:
            dataset_name: a registered data set.
            class_split: the sets; by default what the data set was registered with.
            *args, **kwargs: see :class:`COCOEvaluator`.

        Raises:
            ValueError: if the split does not fit the data set's categories, the data set's
                masks of B were dropped and there is no JSON file to read them from, or an RLE of
                the ground truth can't be read.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file") and metadata.get("has_masks_of_boxes_only") is False:
            raise ValueError(
                f"data set '{dataset_name}' was registered without the masks of set B, so they "
                "can't be evaluated; register it with keep_masks=True."
            )
        in_python = not metadata.get("json_file")
        with segmentations_as_in_coco(dataset_name) if in_python else contextlib.nullcontext():
            super().__init__(dataset_name, *args, **kwargs)
        self._may_be_fast = kwargs.get("use_fast_impl", True)
        self._class_split = class_split or class_split_of(dataset_name)
        if self._class_split is not None:
            if not metadata.get("thing_classes"):
                DatasetCatalog.get(dataset_name)  # a COCO JSON names them when it is loaded
            self._class_split.indices(metadata.thing_classes)
        self._coco_api = evaluable(self._coco_api, dataset_name)
        # faster-coco-eval takes no text as an image's id, pycocotools does.
        self._may_be_fast &= all(type(i) is int for i in self._coco_api.imgs)
        self._mask_ground_truth = ignore_maskless(self._coco_api)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`COCOEvaluator.process`; masks may also be :class:`RLEMasks`."""
        for model_input, output in zip(inputs, outputs):
            rles = None
            if "instances" in output:
                instances, rles = take_rles(output["instances"])
                output = {**output, "instances": instances}
            super().process([model_input], [output])
            if rles is not None:
                for result, rle in zip(self._predictions[-1]["instances"], rles):
                    result["segmentation"] = rle

    def evaluate(self, img_ids: Any = None) -> dict[str, Any]:
        """See :meth:`COCOEvaluator.evaluate`; logs one table of all and of each set."""
        with with_fastest_cocoeval() if self._may_be_fast else contextlib.nullcontext():
            results: dict[str, Any] = super().evaluate(img_ids)
        if self._class_split is not None and results:
            table = _table(results, list(self._class_split.sets))
            logger.info(f"Evaluation by split '{self._class_split.name}':\n{table}")
        return results

    def _eval_predictions(self, predictions: Any, img_ids: Any = None) -> None:
        """See :meth:`COCOEvaluator._eval_predictions`; boxes and masks each on their truth."""
        if self._mask_ground_truth is None:
            return super()._eval_predictions(predictions, img_ids)
        all_tasks, box_ground_truth = self._tasks, self._coco_api
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        tasks = tuple(all_tasks or self._tasks_from_predictions(results))
        try:
            self._tasks = tuple(t for t in tasks if t != "segm")
            if self._tasks:  # no task would mean all of them
                # A copy, because the parent maps category ids in place.
                super()._eval_predictions(copy.deepcopy(predictions), img_ids)
            if "segm" in tasks:
                self._tasks, self._coco_api = ("segm",), self._mask_ground_truth
                super()._eval_predictions(predictions, img_ids)
        finally:
            self._tasks, self._coco_api = all_tasks, box_ground_truth

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if self._class_split is not None and iou_type in ("bbox", "segm"):
            for subset, names in self._class_split.sets.items():
                self._results[f"{iou_type}_{subset}"] = (
                    dict.fromkeys(METRICS, float("nan"))
                    if coco_eval is None  # the model predicted nothing at all
                    else subset_metrics(
                        coco_eval.eval["precision"],
                        self._positions(coco_eval.params.catIds, names),
                        iou_thresholds=coco_eval.params.iouThrs,
                        area_labels=coco_eval.params.areaRngLbl,
                    )
                )
        return results

    def _positions(self, category_ids: list[int], names: frozenset[str]) -> list[int]:
        """Where the categories called ``names`` stand in COCOeval's order of category ids."""
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        classes = self._metadata.thing_classes
        return [
            position
            for position, category_id in enumerate(category_ids)
            if classes[to_contiguous[category_id] if to_contiguous else category_id] in names
        ]


def _table(results: dict[str, Any], subsets: list[str]) -> str:
    rows = [
        [task, subset, *(results[f"{task}{suffix}"][metric] for metric in METRICS)]
        for task in ("bbox", "segm")
        for subset, suffix in (("all", ""), *((s, f"_{s}") for s in subsets))
        if f"{task}{suffix}" in results
    ]
    return tabulate(rows, headers=["task", "split", *METRICS], tablefmt="pipe", floatfmt=".2f")
