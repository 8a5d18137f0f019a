"""Proposals as files: detectron2's, for MODEL.LOAD_PROPOSALS, and COCO's results."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from .._files import written_whole
from ..postprocessing import RLEMasks

__all__ = ["ImageProposals", "ProposalSpool", "write_coco_proposals", "write_proposal_file"]

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


class ProposalSpool:
    """
    Proposals of images in a file while they are being made.

    A thousand masks of each image of COCO's training set would take tens of gigabytes of memory.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: of the file; one that is there is written anew.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")

    def append(self, proposals: ImageProposals) -> None:
        """Add an image's."""
        with open(self.path, "ab") as file:
            pickle.dump(tuple(proposals), file)

    @staticmethod
    def read(paths: Iterable[Path]) -> Iterator[ImageProposals]:
        """
        Those of several processes, image by image; of an image that two have seen, the first's.

        Raises:
            FileNotFoundError: if another machine has written a file that is not here.
        """
        seen = set()
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is not there: processes on several machines need an output folder "
                    "that they share to write proposals."
                )
            with open(path, "rb") as file:
                while file.peek(1):
                    proposals = ImageProposals(*pickle.load(file))
                    if proposals.image_id not in seen:
                        seen.add(proposals.image_id)
                        yield proposals


def write_proposal_file(path: str, images: Iterable[ImageProposals]) -> None:
    """
    Write the boxes in the format of ``DATASETS.PROPOSAL_FILES_TRAIN`` and ``..._TEST``.

    Detectron2 takes them in place of a proposal network's with ``MODEL.LOAD_PROPOSALS True`` and
    ``MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals``; see
    ``detectron2.data.build.load_proposals_into_dataset``.
    """
    content: dict[str, Any] = {
        "ids": [],
        "boxes": [],
        "objectness_logits": [],
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    for image in images:
        content["ids"].append(image.image_id)
        content["boxes"].append(image.boxes)
        content["objectness_logits"].append(image.scores)
    with PathManager.open(path, "wb") as file:
        pickle.dump(content, file)


def write_coco_proposals(path: str, images: Iterable[ImageProposals]) -> None:
    """
    Write masks and boxes as COCO's results, all of one category, 1.

    pycocotools reads them with ``COCO.loadRes`` and evaluates them with ``useCats = 0``.
    """
    with written_whole(path) as unfinished, open(unfinished, "w") as file:
        separator = "["
        for image in images:
            for result in _coco_results(image):
                file.write(separator + json.dumps(result))
                separator = ",\n"
        file.write("[]" if separator == "[" else "]")


def _coco_results(image: ImageProposals) -> Iterator[dict[str, Any]]:
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
        yield result
