"""The mask branch on its own: masks for ground-truth boxes of ground-truth categories."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools import mask as mask_util
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..data import class_split_of, has_mask
from ..data.partial_masks import encode_mask
from ..modeling import given_instances
from ..postprocessing import RLEMasks, encode_changes, rle_inference
from ..splits import ClassSplit
from .mask_quality import MASK_QUALITY, mask_quality

__all__ = ["MaskProbe"]

logger = logging.getLogger(__name__)


class MaskProbe(DatasetEvaluator):
    """
    IoU of masks with the ground truth, for its boxes and categories instead of detected ones.

    Mask AP says how good the detector and the mask branch are together. This says how good the
    mask branch is, which is what methods for partial masks differ in, and with far less noise.
    Detections are not looked at. The heads see each image again, the backbone does not.

    The results hold ``mask_probe`` and, if the data set has a split, ``mask_probe_A`` and
    ``mask_probe_B`` (and ``mask_probe_C``, if that has a set C), each with the figures of
    :func:`~maskx_d2.evaluation.mask_quality`, and those of the whole box taken as the mask as
    ``box_as_mask``: less than that is no mask branch. Instances without a mask and
    crowds are left out.
    """

    def __init__(
        self,
        dataset_name: str,
        model: nn.Module,
        *,
        class_split: ClassSplit | None = None,
        output_dir: str | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set, with masks.
            model: the model that is evaluated, as detectron2's loop does: in evaluation mode and
                without gradients.
            class_split: the sets; by default what the data set was registered with.
            output_dir: folder for ``mask_probe.json`` with every instance's ``image_id``, its
                place ``annotation`` among the image's annotations, ``category_id`` (contiguous),
                ``iou`` and ``box_iou`` (of the whole box), in [0, 1].

        Raises:
            TypeError: if the model is not one that can be given boxes.
        """
        model = getattr(model, "module", model)  # of DistributedDataParallel
        if not isinstance(model, GeneralizedRCNN):
            raise TypeError(
                f"the mask probe needs a GeneralizedRCNN, which can be given boxes, not "
                f"{type(model).__name__}; set TEST.MASK_PROBE to False."
            )
        # PanopticFPN has an inference() of its own, to which boxes can't be given.
        own = type(model).inference
        takes_boxes = "detected_instances" in inspect.signature(own).parameters
        self._inference = (
            model.inference
            if takes_boxes and own is not GeneralizedRCNN.inference
            else partial(rle_inference, model)
        )
        self._backbone = _KeptFeatures(model.backbone)
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._split = class_split or class_split_of(dataset_name)
        self._classes = MetadataCatalog.get(dataset_name).get("thing_classes")
        self._output_dir = output_dir
        self._found: list[dict[str, Any]] = []

    def reset(self) -> None:
        """See :meth:`DatasetEvaluator.reset`."""
        self._found = []
        self._backbone.keep()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`DatasetEvaluator.process`."""
        given = [(x, self._records[x["image_id"]]) for x in inputs]
        given = [(x, record) for x, record in given if _with_masks(record)]
        if not given:
            return
        with self._backbone.used():
            results = self._inference(
                [x for x, _ in given], detected_instances=[_instances(x, r) for x, r in given]
            )
        for (_, record), result in zip(given, results):
            self._compare(record, result["instances"].to("cpu"))

    def _compare(self, record: dict[str, Any], predicted: Instances) -> None:
        size = predicted.image_size
        with_masks = _with_masks(record)
        indices = [with_masks[i] for i in predicted.given.tolist()]
        masks = predicted.pred_masks
        if not isinstance(masks, RLEMasks):
            masks = RLEMasks.from_bitmaps(masks)
        rles = dict(zip(indices, masks.rles))
        (nothing,) = encode_changes([np.zeros(0, dtype=np.int64)], size)
        for i in with_masks:
            annotation = record["annotations"][i]
            truth = encode_mask(annotation["segmentation"], *size)
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
            # A box outside of the image is given no mask, which is wrong and counts as that.
            tried = [
                rles.get(i, nothing),
                *mask_util.frPyObjects(np.asarray([box], dtype=np.float64), *size),
            ]
            iou, box_iou = mask_util.iou(tried, [truth], [0])[:, 0].tolist()
            self._found.append(
                {
                    "image_id": record["image_id"],
                    "annotation": i,
                    "category_id": annotation["category_id"],
                    "iou": iou,
                    "box_iou": box_iou,
                }
            )

    def evaluate(self) -> dict[str, Any]:
        """See :meth:`DatasetEvaluator.evaluate`; logs a table."""
        self._backbone.forget()
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return {}
        # Of several processes, by chance two may have seen an image.
        found = {(f["image_id"], f["annotation"]): f for each in gathered for f in each}
        rows = list(found.values())
        if self._output_dir is not None:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "mask_probe.json"), "w") as file:
                json.dump(rows, file)
        categories = np.array([f["category_id"] for f in rows], dtype=np.int64)
        subsets: dict[str, list[int] | None] = {"": None}
        if self._split is not None:
            for letter, ids in self._split.indices_of_sets(self._classes).items():
                subsets[f"_{letter}"] = ids
        results = {
            f"{task}{suffix}": mask_quality(
                np.array([f[key] for f in rows], dtype=np.float64), categories, of_interest
            )
            for task, key in (("mask_probe", "iou"), ("box_as_mask", "box_iou"))
            for suffix, of_interest in subsets.items()
        }
        logger.info(
            f"Masks on {len(rows)} ground-truth boxes:\n"
            + tabulate(
                [[task, *metrics.values()] for task, metrics in results.items()],
                headers=["", *MASK_QUALITY],
                tablefmt="pipe",
                floatfmt=".2f",
            )
        )
        return results


class _KeptFeatures:
    """A backbone's last features, for who asks for those of the same images again."""

    def __init__(self, backbone: nn.Module) -> None:
        self._module = backbone
        self._hook: RemovableHandle | None = None
        self._last: tuple[Tensor, Any] | None = None

    def keep(self) -> None:
        """From now on."""
        self.forget()
        self._hook = self._module.register_forward_hook(self._remember)

    def forget(self) -> None:
        """Keep none, and nothing more."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._last = None

    def _remember(self, module: nn.Module, args: tuple[Tensor], features: Any) -> None:
        self._last = (args[0], features)

    @contextmanager
    def used(self) -> Iterator[None]:
        """While it is open, the backbone looks no second time at the images that it saw last."""
        stock = self._module.forward

        def forward(images: Tensor) -> Any:
            if self._last is not None and torch.equal(images, self._last[0]):
                return self._last[1]
            return stock(images)

        own = vars(self._module).get("forward")
        self._module.forward = forward
        try:
            yield
        finally:
            if own is None:
                del self._module.forward
            else:
                self._module.forward = own


def _with_masks(record: dict[str, Any]) -> list[int]:
    """Which of an image's annotations have a mask to compare with."""
    return [
        i
        for i, annotation in enumerate(record.get("annotations", ()))
        if not annotation.get("iscrowd", 0) and has_mask(annotation)
    ]


def _instances(model_input: dict[str, Any], record: dict[str, Any]) -> Instances:
    """The ground truth of an image as if it were detected, in the size that the model sees."""
    annotations = [record["annotations"][i] for i in _with_masks(record)]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    classes = torch.tensor([a["category_id"] for a in annotations])
    return given_instances(model_input, torch.tensor(boxes), classes)
