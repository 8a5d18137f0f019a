"""
Detectron2 dataset dicts from a JSON file in LVIS's format, without the package ``lvis``.

Detectron2's own :func:`load_lvis_json` needs that package, builds the file in memory with every
mask in it, and knows the categories of two releases only. Here the masks that no training may
see are gone as soon as they are read, as :mod:`~maskx_d2.data.coco_json` does with COCO's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from detectron2.utils import comm

from .coco_json import add_annotations, contiguous_ids
from .coco_reader import read_section, whole_pixels
from .image_labels import read_labels

__all__ = ["load_lvis_json"]


def load_lvis_json(
    json_file: str,
    image_root: str,
    categories: Mapping[int, str],
    *,
    boxes_only: Collection[int] = (),
    labels_only: Collection[int] = (),
) -> list[dict[str, Any]]:
    """
    Read a file in LVIS's format; what detectron2's :func:`load_lvis_json` gives.

    Args:
        json_file: a file on this machine.
        image_root: the folder that has ``train2017`` and ``val2017``; or, where the images have
            no ``coco_url``, the folder that ``file_name`` starts from.
        categories: the categories' names by id. The ids' order is that of the contiguous ids.
        boxes_only: contiguous ids of the categories whose masks are not wanted (set B). They
            never take memory.
        labels_only: contiguous ids of the categories whose boxes are not wanted either (set C).

    Returns:
        dataset dicts in the order of the image ids, with ``neg_category_ids`` and
        ``not_exhaustive_category_ids`` as they are in the file, and annotations as
        :func:`~maskx_d2.data.coco_json.load_coco_json` gives them.

    Raises:
        ValueError: if an image or an annotation can't be used; it says which, and why.
    """
    contiguous = contiguous_ids(categories)
    records = {}
    for image in read_section(json_file, "images", progress=comm.is_main_process()):
        for key in ("id", "height", "width"):
            if key not in image:
                raise ValueError(f"{json_file}: image {image.get('id')} has no '{key}'.")
        for key in ("height", "width"):
            image[key] = whole_pixels(image[key], f"{json_file}: image {image['id']}", key)
        if image["id"] in records:
            raise ValueError(f"{json_file}: two images have the id {image['id']}.")
        records[image["id"]] = {
            "file_name": os.path.join(image_root, _file_name(image, json_file)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "neg_category_ids": image.get("neg_category_ids", []),
            "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
            "annotations": [],
            **read_labels(image, contiguous, json_file),
        }
    return add_annotations(
        records, json_file, categories, boxes_only=boxes_only, labels_only=labels_only
    )


def _file_name(image: Mapping[str, Any], json_file: str) -> str:
    # LVIS takes val images from both of COCO's folders, which only the address says:
    # http://images.cocodataset.org/train2017/000000155379.jpg
    if "coco_url" in image:
        return os.path.join(*str(image["coco_url"]).split("/")[-2:])
    if "file_name" not in image:
        raise ValueError(
            f"{json_file}: image {image['id']} has neither 'coco_url' nor 'file_name'."
        )
    return str(image["file_name"])
