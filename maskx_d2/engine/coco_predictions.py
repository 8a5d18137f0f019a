"""Predictions as a COCO file, which COCO's own tools read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances
from pycocotools import mask as mask_util

from .._files import written_whole
from ..postprocessing import RLEMasks

__all__ = ["CocoPredictions"]


class CocoPredictions:
    """
    Collects predictions, and writes them with their images and categories.

    Each annotation has a ``score``, so the list of annotations is also what ``COCO.loadRes`` takes.
    """

    def __init__(self, metadata: Metadata) -> None:
        """
        Args:
            metadata: ``thing_classes``, and ``thing_dataset_id_to_contiguous_id`` if category ids
                are to be those of a data set; else they are 1, 2, ...
        """
        names = list(metadata.get("thing_classes") or [])
        ids = metadata.get("thing_dataset_id_to_contiguous_id")
        self._ids: dict[int, int] = {c: i for i, c in ids.items()} if ids else {}
        self._categories = [{"id": self._id(c), "name": name} for c, name in enumerate(names)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, instances: Instances, **image: Any) -> None:
        """
        Add an image.

        Args:
            file_name: as the file is to say it.
            instances: its predictions; masks, if there are any, as :class:`RLEMasks` or bitmaps.
            image: more of the image, such as its ``id``.
        """
        height, width = instances.image_size
        image = {"id": len(self._images) + 1, "file_name": file_name} | image
        self._images.append(image | {"height": height, "width": width})
        boxes = BoxMode.convert(
            instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
        ).tolist()
        masks: Any = [None] * len(instances)
        if instances.has("pred_masks"):
            masks = instances.pred_masks
            masks = (masks if isinstance(masks, RLEMasks) else RLEMasks.from_bitmaps(masks)).rles
        for box, category, score, rle in zip(
            boxes, instances.pred_classes.tolist(), instances.scores.tolist(), masks
        ):
            annotation = {
                "id": len(self._annotations) + 1,
                "image_id": image["id"],
                "category_id": self._id(category),
                "bbox": [round(value, 2) for value in box],
                "score": round(score, 5),
                "area": box[2] * box[3] if rle is None else float(mask_util.area(rle)),
                "iscrowd": 0,
            }
            if rle is not None:
                annotation["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"]}
            self._annotations.append(annotation)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, completely or not at all."""
        content = {
            "images": self._images,
            "categories": self._categories,
            "annotations": self._annotations,
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as incomplete:
            incomplete.write_text(json.dumps(content), encoding="utf-8")

    def __len__(self) -> int:
        """How many instances there are."""
        return len(self._annotations)

    def _id(self, category: int) -> int:
        return self._ids[category] if self._ids else category + 1
