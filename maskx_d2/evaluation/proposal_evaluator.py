"""Average recall of proposals, of masks and of boxes, for all, A and B."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from numpy.typing import NDArray
from pycocotools import mask as mask_util
from tabulate import tabulate

from ..data import class_split_of, has_mask
from ..data.partial_masks import encode_mask
from ..splits import ClassSplit
from .proposal_files import (
    ImageProposals,
    ProposalSpool,
    write_coco_proposals,
    write_proposal_file,
)
from .proposal_recall import Overlaps, average_recalls

__all__ = ["MaskProposalEvaluator"]

logger = logging.getLogger(__name__)


class MaskProposalEvaluator(DatasetEvaluator):
    """
    How many objects are among the 10, 100 and 1000 best proposals of an image.

    It takes what models give as ``proposals``: :class:`~maskx_d2.deepmask.DeepMask`, or
    detectron2's ``ProposalNetwork``, whose proposals are boxes only. The results hold
    ``box_proposals`` and, where proposals have masks, ``mask_proposals``, each with the figures of
    :func:`~maskx_d2.evaluation.average_recalls`; if the data set has a split, also
    ``box_proposals_A``, ``_B``, ``mask_proposals_A`` and ``_B`` (and ``_C``, if it has a set C).

    Crowds are left out, and for masks instances without one. An object is as large as its mask,
    or its box where it has none. Unlike detectron2's recall of ``box_proposals``, an image without
    a proposal counts.

    Of data to train on, which were registered without masks of B and boxes of C, there are no
    figures, because what is not there claims no proposal and recall of the rest would be too high;
    the files are written.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        class_split: ClassSplit | None = None,
        output_dir: str | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set.
            class_split: the sets; by default what the data set was registered with.
            output_dir: folder for ``box_proposals.pkl``, which detectron2's
                ``MODEL.LOAD_PROPOSALS`` reads, and ``coco_proposals.json``, COCO's results with
                masks.

        Raises:
            ValueError: if the split does not fit the data set's categories.
        """
        self._is_complete = not _lost_annotations(dataset_name)
        self._records = {}
        if self._is_complete:
            self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        split = class_split or class_split_of(dataset_name)
        self._subsets: dict[str, list[int] | None] = {"": None}
        if self._is_complete and split is not None:
            classes = MetadataCatalog.get(dataset_name).thing_classes
            for letter, ids in split.indices_of_sets(classes).items():
                self._subsets[f"_{letter}"] = ids
        self._name, self._output_dir = dataset_name, output_dir
        self._found: dict[str, dict[int | str, Overlaps]] = {}
        self._spool: ProposalSpool | None = None
        self.reset()

    def reset(self) -> None:
        """See :meth:`DatasetEvaluator.reset`."""
        self._found = {"box_proposals": {}, "mask_proposals": {}}
        self._spool = None

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`DatasetEvaluator.process`."""
        for model_input, output in zip(inputs, outputs):
            image_id = model_input["image_id"]
            proposals = ImageProposals.from_instances(image_id, output["proposals"])
            if self._is_complete:
                record = self._records[image_id]
                self._found["box_proposals"][image_id] = _box_overlaps(proposals, record)
                if proposals.rles is not None:
                    self._found["mask_proposals"][image_id] = _mask_overlaps(proposals, record)
            if self._output_dir is not None:
                if self._spool is None:
                    name = f"{self._name}_process_{comm.get_rank()}.incomplete"
                    self._spool = ProposalSpool(os.path.join(self._output_dir, name))
                self._spool.append(proposals)

    def evaluate(self) -> dict[str, Any]:
        """See :meth:`DatasetEvaluator.evaluate`; logs a table."""
        gathered = comm.gather((self._found, self._spool and self._spool.path), dst=0)
        if comm.is_main_process():
            self._write([path for _, path in gathered if path is not None])
        comm.synchronize()  # before anyone begins the next data set's
        self._spool = None
        if not comm.is_main_process():
            return {}
        if not self._is_complete:
            logger.info(
                f"Data set '{self._name}' was registered without the masks of set B, as data to "
                "train on are: no recall of its proposals."
            )
            return {}
        results = {}
        for task in ("box_proposals", "mask_proposals"):
            found = dict(itertools.chain(*(f[task].items() for f, _ in gathered)))
            if found:
                for suffix, categories in self._subsets.items():
                    results[f"{task}{suffix}"] = average_recalls(list(found.values()), categories)
        names = list(next(iter(results.values()), {}))
        table = [[task, *(figures[n] for n in names)] for task, figures in results.items()]
        logger.info(
            "Average recall of proposals:\n"
            + tabulate(table, headers=["", *names], tablefmt="pipe", floatfmt=".2f")
        )
        return results

    def _write(self, spools: list[Path]) -> None:
        """The two files, of what the processes have seen."""
        if not spools or self._output_dir is None:
            return
        folder = Path(self._output_dir)
        write_proposal_file(str(folder / "box_proposals.pkl"), ProposalSpool.read(spools))
        write_coco_proposals(str(folder / "coco_proposals.json"), ProposalSpool.read(spools))
        for path in spools:
            path.unlink()


def _lost_annotations(dataset_name: str | None) -> bool:
    """Whether a data set, or one that it is made of, was registered without those of B or C."""
    while dataset_name is not None:
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("declared_split") and metadata.get("has_masks_of_boxes_only") is False:
            return True
        dataset_name = metadata.get("base_dataset")
    return False


def _box_overlaps(proposals: ImageProposals, record: dict[str, Any]) -> Overlaps:
    objects = _objects(record)
    boxes = [_xywh(a) for a in objects]
    truth = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    found = BoxMode.convert(proposals.boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    size = record["height"], record["width"]
    areas = [
        float(mask_util.area(encode_mask(a["segmentation"], *size))) if has_mask(a) else w * h
        for a, (_, _, w, h) in zip(objects, boxes)
    ]
    return _overlaps(list(found.astype(np.float64)), list(truth), areas, objects)


def _mask_overlaps(proposals: ImageProposals, record: dict[str, Any]) -> Overlaps:
    objects = [a for a in _objects(record) if has_mask(a)]
    truth = [encode_mask(a["segmentation"], record["height"], record["width"]) for a in objects]
    areas = [float(mask_util.area(rle)) for rle in truth]
    return _overlaps(proposals.rles or [], truth, areas, objects)


def _overlaps(
    found: list[Any], truth: list[Any], areas: list[float], objects: list[dict[str, Any]]
) -> Overlaps:
    ious: NDArray[np.float32] = np.zeros((len(found), len(truth)), dtype=np.float32)
    if ious.size:  # pycocotools returns a list where there is nothing to compare
        both = (found, truth)
        if isinstance(found[0], np.ndarray):
            both = np.stack(found), np.stack(truth)
        ious[:] = mask_util.iou(*both, [0] * len(truth))
    categories = np.array([a["category_id"] for a in objects], dtype=np.int64)
    return Overlaps(ious, np.array(areas, dtype=np.float64), categories)


def _objects(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]


def _xywh(annotation: dict[str, Any]) -> list[float]:
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return [float(v) for v in box]
