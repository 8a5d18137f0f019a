"""Proposals as files: detectron2's, for MODEL.LOAD_PROPOSALS, and COCO's results."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from ..postprocessing import RLEMasks

__all__ = ["ImageProposals", "write_coco_proposals", "write_proposal_file"]

#: COCO's results want a category; that of proposals is any, and `useCats = 0` evaluates them.
_ANY_CATEGORY = 1


class ImageProposals(NamedTuple):
    """
    The K proposals of an image, the best first.

    ``boxes`` (K, 4) XYXY in pixels; ``scores`` (K,) logits; ``rles`` K compressed RLEs, or None
    where proposals have no masks.
    """

    image_id: int | str
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    rles: list[dict[str, Any]] | None

    @classmethod
    def from_instances(cls, image_id: int | str, proposals: Instances) -> ImageProposals:
        """
        Those of a model.

        Args:
            image_id: of the data set.
            proposals: ``proposal_boxes``, ``objectness_logits`` and maybe ``pred_masks``, bitmaps
                or :class:`~maskx_d2.postprocessing.RLEMasks`; in any order.
        """
        order = proposals.objectness_logits.argsort(descending=True, stable=True)
        proposals = proposals[order].to("cpu")
        masks = proposals.pred_masks if proposals.has("pred_masks") else None
        if masks is not None and not isinstance(masks, RLEMasks):
            masks = RLEMasks.from_bitmaps(masks)
        return cls(
            image_id,
            proposals.proposal_boxes.tensor.numpy().astype(np.float32),
            proposals.objectness_logits.numpy().astype(np.float32),
            None if masks is None else masks.rles,
        )


def write_proposal_file(path: str, images: Sequence[ImageProposals]) -> None:
    """
    Write the boxes in the format of ``DATASETS.PROPOSAL_FILES_TRAIN`` and ``..._TEST``.

    With ``MODEL.LOAD_PROPOSALS`` detectron2 reads it in place of running a proposal generator; see
    ``detectron2.data.build.load_proposals_into_dataset``.
    """
    content = {
        "ids": [image.image_id for image in images],
        "boxes": [image.boxes for image in images],
        "objectness_logits": [image.scores for image in images],
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    with PathManager.open(path, "wb") as file:
        pickle.dump(content, file)


def write_coco_proposals(path: str, images: Sequence[ImageProposals]) -> None:
    """
    Write masks and boxes as COCO's results, all of one category, 1.

    pycocotools reads them with ``COCO.loadRes`` and evaluates them with ``useCats = 0``.
    """
    results = []
    for image in images:
        boxes = BoxMode.convert(image.boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        for i, (box, score) in enumerate(zip(boxes.tolist(), image.scores.tolist())):
            result = {
                "image_id": image.image_id,
                "category_id": _ANY_CATEGORY,
                "bbox": box,
                "score": score,
            }
            if image.rles is not None:
                result["segmentation"] = image.rles[i]
            results.append(result)
    with PathManager.open(path, "w") as file:
        json.dump(results, file)
