"""A data set's ground truth as pycocotools can evaluate it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.data import DatasetCatalog
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..data import box_polygon, has_mask
from ..data.partial_masks import encode_mask, usable_polygons
from ..data.rle import compressed, wrong_runs

__all__ = ["evaluable", "ignore_maskless", "segmentations_as_in_coco"]

logger = logging.getLogger(__name__)


@contextmanager
def segmentations_as_in_coco(dataset_name: str) -> Iterator[None]:
    """
    While this lasts, a data set's masks are as COCO's files have them.

    Detectron2 makes such a file of a data set that has none, and takes polygons and RLE alone.
    What trains, see :func:`~maskx_d2.data.has_mask`, is to be evaluated as well.
    """
    load = DatasetCatalog[dataset_name]
    try:
        DatasetCatalog[dataset_name] = lambda: [_as_in_coco(record) for record in load()]
        yield
    finally:
        DatasetCatalog[dataset_name] = load


def _as_in_coco(record: dict[str, Any]) -> dict[str, Any]:
    annotations = []
    for annotation in record.get("annotations", ()):
        said = annotation.get("segmentation")
        annotation = {k: v for k, v in annotation.items() if k != "segmentation"}
        if has_mask({"segmentation": said}):
            annotation["segmentation"] = (
                [list(map(float, p)) for p in usable_polygons(said)]
                if isinstance(said, (list, tuple))
                else encode_mask(said, record["height"], record["width"])
            )
        annotations.append(annotation)
    return {**record, "annotations": annotations} if "annotations" in record else record


def evaluable(coco_api: COCO, dataset_name: str) -> COCO:
    """
    The same ground truth without what pycocotools stumbles over and a training does not.

    Ids begin with 1, because pycocotools takes 0 for "no object"; polygons of fewer than 3 points
    are left out; an instance that says neither is no crowd and as large as its mask, or as its box
    where it has none.

    Args:
        coco_api: it is not changed.
        dataset_name: for messages.

    Raises:
        ValueError: if an RLE can't be read; pycocotools would read one that was cut off, and what
            is in memory behind it.
    """
    annotations = coco_api.dataset.get("annotations", [])
    _check_rles(annotations, dataset_name)
    images = {image["id"]: image for image in coco_api.dataset.get("images", ())}
    renumber = any(type(a["id"]) is not int or a["id"] < 1 for a in annotations)
    changed = [
        _completed(a, images.get(a["image_id"], {}), number if renumber else a["id"])
        for number, a in enumerate(annotations, start=1)
    ]
    if all(new is old for new, old in zip(changed, annotations)):
        return coco_api
    return _indexed({**coco_api.dataset, "annotations": changed})


def _completed(annotation: dict[str, Any], image: dict[str, Any], number: int) -> dict[str, Any]:
    """An annotation itself, or a copy if it has to be another."""
    changes: dict[str, Any] = {}
    if annotation["id"] != number:
        changes["id"] = number
    if annotation.get("iscrowd") is None:
        changes["iscrowd"] = 0
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        usable = usable_polygons(segmentation)
        if usable and len(usable) < len(segmentation):
            changes["segmentation"] = usable
    if annotation.get("area") is None:
        _, _, width, height = annotation["bbox"]
        size = image.get("height"), image.get("width")
        changes["area"] = (
            float(mask_util.area(encode_mask(segmentation, *size)))
            if has_mask(annotation) and None not in size
            else width * height
        )
    return {**annotation, **changes} if changes else annotation


def _check_rles(annotations: Sequence[dict[str, Any]], dataset_name: str) -> None:
    readable, ids = [], []
    for annotation in annotations:
        if isinstance(annotation.get("segmentation"), dict) and has_mask(annotation):
            try:
                readable.append(compressed(annotation["segmentation"]))
            except ValueError as e:
                raise ValueError(_broken(dataset_name, annotation["id"], e)) from None
            ids.append(annotation["id"])
    for i, problem in wrong_runs(readable):
        raise ValueError(_broken(dataset_name, ids[i], problem))


def _broken(dataset_name: str, annotation_id: Any, problem: object) -> str:
    return (
        f"data set '{dataset_name}', ground-truth annotation {annotation_id}: {problem} "
        "`maskx check` finds all of them."
    )


def ignore_maskless(coco_api: COCO) -> COCO | None:
    """
    The ground truth with every instance that has no mask turned into a crowd on its box.

    None where all instances have masks.
    """
    dataset = coco_api.dataset
    maskless = [a for a in dataset.get("annotations", ()) if not has_mask(a)]
    if not maskless:
        return None
    logger.warning(
        f"{len(maskless)} of {len(dataset['annotations'])} ground-truth instances have no mask: "
        "for mask AP, detections on them count neither as right nor as wrong."
    )
    ignored = {}
    for annotation in maskless:
        x, y, w, h = annotation["bbox"]
        polygon = box_polygon([x, y, x + w, y + h])
        ignored[annotation["id"]] = {**annotation, "segmentation": [polygon], "iscrowd": 1}
    annotations = [ignored.get(a["id"], a) for a in dataset["annotations"]]
    return _indexed({**dataset, "annotations": annotations})


def _indexed(dataset: dict[str, Any]) -> COCO:
    result = COCO()
    result.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        result.createIndex()
    return result
