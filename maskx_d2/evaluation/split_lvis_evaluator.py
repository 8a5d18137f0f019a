"""LVIS evaluation of all categories, and of sets A, B and C, in one pass."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from ..data import class_split_of
from ..splits import ClassSplit
from .coco_engine import new_cocoeval
from .lvis_protocol import LVIS_METRICS, MAX_DETECTIONS, LVISTruth, lvis_metrics, lvis_precision
from .rle_results import take_rles

__all__ = ["SplitLVISEvaluator"]

logger = logging.getLogger(__name__)


class SplitLVISEvaluator(DatasetEvaluator):
    """
    LVIS's metrics, also for the categories of each set on their own.

    The results hold ``bbox``, ``segm``, and, if the data set has a split, ``bbox_A``, ``bbox_B``,
    ``segm_A`` and ``segm_B`` (``bbox_C`` and ``segm_C``, if that has a set C), each with AP, AP50,
    AP75, APs, APm, APl, APr, APc and APf in percent, NaN where no category has ground truth.
    They are those of detectron2's :class:`LVISEvaluator` and the package ``lvis``, which is not
    needed.

    Ground truth may lack masks; see :func:`~maskx_d2.evaluation.lvis_protocol.lvis_precision`.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = ("bbox", "segm"),
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = MAX_DETECTIONS,
        use_fast_impl: bool = True,
        class_split: ClassSplit | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set, with a ``json_file`` in LVIS's format.
            tasks: ``"bbox"``, ``"segm"``.
            distributed: whether to gather the results of all processes.
            output_dir: folder for ``lvis_instances_results.json``, which LVIS's server takes.
            max_dets_per_image: the most detections of an image that count.
            use_fast_impl: faster-coco-eval where it is installed, see :func:`new_cocoeval`.
            class_split: the sets; by default what the data set was registered with.

        Raises:
            ValueError: if the split does not fit the data set's categories, or the file lacks
                something that LVIS's format has.
        """
        metadata = MetadataCatalog.get(dataset_name)
        json_file = metadata.get("json_file")
        if not json_file:
            raise ValueError(
                f"data set '{dataset_name}' has no json_file in its metadata, which LVIS's "
                "evaluation reads; register it with detectron2's register_lvis_instances."
            )
        self._tasks = tuple(tasks)
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_detections = max_dets_per_image
        self._new_cocoeval = new_cocoeval if use_fast_impl else COCOeval
        self._split = class_split or class_split_of(dataset_name)
        if not metadata.get("thing_classes"):
            DatasetCatalog.get(dataset_name)  # whose file names them
        self._classes: list[str] = metadata.thing_classes
        if self._split is not None:
            self._split.indices(self._classes)
        self._id_map = metadata.get("thing_dataset_id_to_contiguous_id")
        self._truth: LVISTruth | None = None
        if not distributed or comm.is_main_process():  # which alone evaluates
            path = PathManager.get_local_path(json_file)
            self._truth = LVISTruth(path, masks="segm" in self._tasks)
        self._found: list[dict[str, Any]] = []

    def reset(self) -> None:
        """See :meth:`DatasetEvaluator.reset`."""
        self._found = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`DatasetEvaluator.process`; masks may also be :class:`RLEMasks`."""
        for model_input, output in zip(inputs, outputs):
            instances, rles = take_rles(output["instances"].to("cpu"))
            results = instances_to_coco_json(instances, model_input["image_id"])
            for result, rle in zip(results, rles or ()):
                result["segmentation"] = rle
            self._found += results

    def evaluate(self) -> dict[str, Any]:
        """See :meth:`DatasetEvaluator.evaluate`; logs one table of all and of each set."""
        found = self._found
        if self._distributed:
            comm.synchronize()
            found = list(itertools.chain(*comm.gather(found, dst=0)))
            if not comm.is_main_process():
                return {}
        assert self._truth is not None  # of the process that evaluates
        frequencies = self._truth.frequencies
        # Where the metadata has no map, detectron2's convention is the order of the ids.
        id_map = self._id_map or {c: i for i, c in enumerate(frequencies)}
        category_ids = {i: c for c, i in id_map.items()}
        found = [{**d, "category_id": category_ids[d["category_id"]]} for d in found]
        self._save(found)
        if not self._truth.instances:
            logger.info("The data set has no annotations, so nothing is evaluated.")
            return {}
        subsets = self._subsets([id_map[c] for c in frequencies])
        results = {}
        for task in self._tasks:
            if not found:  # as detectron2 has it
                nothing = dict.fromkeys(LVIS_METRICS, float("nan"))
                results.update({f"{task}{suffix}": dict(nothing) for suffix in subsets})
                continue
            precision = lvis_precision(
                self._truth,
                found,
                task,
                max_detections=self._max_detections,
                new_cocoeval=self._new_cocoeval,
            )
            for suffix, positions in subsets.items():
                results[f"{task}{suffix}"] = lvis_metrics(
                    precision, positions, list(frequencies.values())
                )
        split = f" by split '{self._split.name}'" if self._split is not None else ""
        logger.info(f"LVIS evaluation{split}:\n{_table(results)}")
        return results

    def _save(self, found: list[dict[str, Any]]) -> None:
        if self._output_dir is None:
            return
        PathManager.mkdirs(self._output_dir)
        path = os.path.join(self._output_dir, "lvis_instances_results.json")
        with PathManager.open(path, "w") as file:
            json.dump(found, file)

    def _subsets(self, contiguous: list[int]) -> dict[str, list[int]]:
        """The positions of all categories, and of each set's, in the order of the file's ids."""
        subsets = {"": list(range(len(contiguous)))}
        if self._split is not None:
            for letter, ids in self._split.indices_of_sets(self._classes).items():
                wanted = set(ids)
                subsets[f"_{letter}"] = [p for p, i in enumerate(contiguous) if i in wanted]
        return subsets


def _table(results: dict[str, dict[str, float]]) -> str:
    rows = [[name, *metrics.values()] for name, metrics in results.items()]
    return tabulate(rows, headers=["", *LVIS_METRICS], tablefmt="pipe", floatfmt=".2f")
