"""
Detectron2 dataset dicts from a COCO JSON file of which some masks are missing or unwanted.

Detectron2's own :func:`load_coco_json` builds the file in memory with every mask in it, and drops
the boxes of instances whose polygons are all unusable. Here the masks that no training may see
are gone as soon as they are read, and a box without a usable mask is a box.
"""

from __future__ import annotations

import gc
import logging
import math
import os
from array import array
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils import comm

from .coco_reader import read_images, read_section
from .image_labels import keep_labels_only, read_labels
from .partial_masks import has_mask, is_crowd, mask_weight, usable_polygons
from .rle import compressed, wrong_runs

__all__ = ["add_annotations", "contiguous_ids", "is_box", "load_coco_json"]

logger = logging.getLogger(__name__)

_RLES_AT_ONCE = 10_000


def load_coco_json(
    json_file: str,
    image_root: str,
    categories: Mapping[int, str],
    *,
    boxes_only: Collection[int] = (),
    labels_only: Collection[int] = (),
) -> list[dict[str, Any]]:
    """
    Read a COCO instances file; what detectron2's :func:`load_coco_json` gives, and no box lost.

    Args:
        json_file: a file on this machine.
        image_root: the folder that ``file_name`` in the file starts from.
        categories: the file's category names by id, see :func:`read_categories`.
        boxes_only: contiguous ids of the categories whose masks are not wanted (set B). They
            never take memory.
        labels_only: contiguous ids of the categories whose boxes are not wanted either (set C).
            Of their annotations it is kept that the category is in the image.

    Returns:
        dataset dicts in the order of the image ids. Instances without a usable mask have no
        ``segmentation`` key; each has the file's annotation id under ``id``. Masks that count less
        than others have their ``mask_weight``, and masks that were made their ``mask_source``. All
        images have ``image_labels``, see :mod:`~maskx_d2.data.image_labels`, if there are
        ``labels_only``, or an image of the file says ``image_labels`` (a list of the file's
        category ids); else none has.

    Raises:
        ValueError: if an annotation or an image can't be used; it says which, and why.
    """
    contiguous = contiguous_ids(categories)
    with _without_garbage_collection():
        records = {}
        for image in read_images(json_file, progress=comm.is_main_process()):
            records[image["id"]] = {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": [],
            }
            records[image["id"]] |= read_labels(image, contiguous, json_file)
    return add_annotations(
        records, json_file, categories, boxes_only=boxes_only, labels_only=labels_only
    )


def add_annotations(
    records: Mapping[int, dict[str, Any]],
    json_file: str,
    categories: Mapping[int, str],
    *,
    boxes_only: Collection[int] = (),
    labels_only: Collection[int] = (),
) -> list[dict[str, Any]]:
    """
    Read the annotations of a file whose images have been read.

    Args:
        records: dataset dicts by image id, to whose ``annotations`` the file's are added.
        json_file, categories, boxes_only, labels_only: see :func:`load_coco_json`, also for
            errors.

    Returns:
        the dataset dicts in the order of the image ids.
    """
    contiguous = contiguous_ids(categories)
    without_boxes = frozenset(labels_only)
    without_masks = without_boxes.union(boxes_only)
    labelled = bool(labels_only) or any("image_labels" in r for r in records.values())
    with _without_garbage_collection():
        ids, orphans = array("q"), []
        rles: list[tuple[str, dict[str, Any]]] = []
        for annotation in read_section(json_file, "annotations", progress=comm.is_main_process()):
            where = (
                f"{json_file}: annotation {annotation.get('id')} of image "
                f"{annotation.get('image_id')}"
            )
            instance = _instance(annotation, contiguous, without_masks, where)
            ids.append(instance["id"])
            if isinstance(instance.get("segmentation"), dict):
                rles.append((where, instance["segmentation"]))
                if len(rles) == _RLES_AT_ONCE:
                    _check_runs(rles)
            record = records.get(annotation.get("image_id"))
            if record is None:
                orphans.append(instance["id"])
            elif instance["category_id"] in without_boxes:
                record.setdefault("image_labels", []).append(instance["category_id"])
            else:
                record["annotations"].append(instance)
        _check_runs(rles)
    _check_unique(ids, json_file)
    if orphans:
        logger.warning(
            f"{json_file}: {len(orphans)} annotations belong to images that are not in the file "
            f"and are left out, such as annotation {orphans[0]}."
        )
    dataset_dicts = [records[image_id] for image_id in sorted(records)]
    return keep_labels_only(dataset_dicts) if labelled else dataset_dicts


def contiguous_ids(categories: Mapping[int, str]) -> dict[int, int]:
    """Contiguous ids, in [0, K), by the ids of a file's categories, in their order."""
    return {category_id: i for i, category_id in enumerate(sorted(categories))}


def _instance(
    annotation: dict[str, Any],
    contiguous: Mapping[int, int],
    boxes_only: Collection[int],
    where: str,
) -> dict[str, Any]:
    """One annotation of the file as one of a dataset dict."""
    if type(annotation.get("id")) is not int or abs(annotation["id"]) >= 2**63:
        raise ValueError(f"{where} needs an integer 'id' below 2^63.")
    if annotation.get("ignore"):
        raise ValueError(f"{where} is marked 'ignore', which detectron2 can't do; take it out.")
    category_id = annotation.get("category_id")
    if category_id not in contiguous:
        raise ValueError(
            f"{where} has category_id {category_id}, which is not in 'categories' (or not in "
            "thing_dataset_id_to_contiguous_id, where the data set was registered with one)."
        )
    box = annotation.get("bbox")
    if not is_box(box):
        raise ValueError(
            f"{where} needs a 'bbox' of four numbers [x, y, width, height], not {box}."
        )
    instance = {
        "id": annotation["id"],
        "iscrowd": 0,
        "bbox": box,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[category_id],
    }
    try:
        instance["iscrowd"] = int(is_crowd(annotation))
        masked = instance["category_id"] not in boxes_only and has_mask(annotation)
        segmentation = _read(annotation["segmentation"]) if masked else None
        weight = mask_weight(annotation)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    if masked:
        instance["segmentation"] = segmentation
        if weight < 1:
            instance["mask_weight"] = weight
        if annotation.get("mask_source") is not None:
            instance["mask_source"] = annotation["mask_source"]
    if annotation.get("keypoints"):
        # COCO's keypoints are indices of pixels; detectron2's are points of the plane.
        instance["keypoints"] = [
            v if i % 3 == 2 else v + 0.5 for i, v in enumerate(annotation["keypoints"])
        ]
    return instance


def _read(segmentation: Any) -> Any:
    """What can be used of the polygons, or the RLE as it takes the least memory."""
    is_rle = isinstance(segmentation, dict)
    return compressed(segmentation) if is_rle else usable_polygons(segmentation)


def _check_runs(rles: list[tuple[str, dict[str, Any]]]) -> None:
    """Many at a time, because one alone takes as long as some hundred others with it."""
    for i, problem in wrong_runs([rle for _, rle in rles]):
        raise ValueError(f"{rles[i][0]}: {problem}")
    rles.clear()


def is_box(box: Any) -> bool:
    """Whether it is what COCO calls a ``bbox``: four finite numbers."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)
    )


def _check_unique(ids: array[int], json_file: str) -> None:
    values, counts = np.unique(np.frombuffer(ids, dtype=np.int64), return_counts=True)
    # COCO 2014's (valminus)minival files are known to repeat some ids, and are used all the same.
    if (counts > 1).any() and "minival" not in os.path.basename(json_file):
        repeated = values[counts > 1].tolist()
        raise ValueError(
            f"{json_file}: {len(repeated)} annotation ids are used more than once, such as "
            f"{repeated[0]}; each needs its own, or the evaluation would lose instances."
        )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of small objects that all stay alive are what a cyclic collector is slowest at."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
