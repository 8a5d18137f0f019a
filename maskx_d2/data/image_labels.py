"""
Labels of whole images: which categories are in an image, wherever they are in it.

Pure functions on detectron2's "standard dataset dicts", whose key ``image_labels`` is the ascending
list of the contiguous ids of **all** categories that are known to be in the image: those that have
an instance there, and those of set C, of which nothing else is known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["keep_labels_only", "labels_of_entry", "read_labels"]


def keep_labels_only(
    dataset_dicts: Sequence[dict[str, Any]], category_ids: Collection[int] = ()
) -> list[dict[str, Any]]:
    """
    Remove the instances of some categories and keep that they are in the image.

    A crowd region is an instance here: it goes as well, and it says that the category is there.

    Args:
        dataset_dicts: detectron2 dataset dicts. They are not modified: what changes is copied,
            because a data set function may hand out the same list each time it is called.
        category_ids: contiguous ids of the categories that lose their instances (set C); none
            by default, so that only ``image_labels`` is added.

    Returns:
        The same images in the same order, also those that have no instance any more. Each has
        ``image_labels``: what the image said before, and the categories of all its instances.
    """
    dropped = frozenset(category_ids)
    return [_keep_labels_of_image(record, dropped) for record in dataset_dicts]


def _keep_labels_of_image(record: dict[str, Any], dropped: frozenset[int]) -> dict[str, Any]:
    annotations = record.get("annotations", [])
    labels = {*record.get("image_labels", ()), *(a["category_id"] for a in annotations)}
    kept = [a for a in annotations if a["category_id"] not in dropped]
    return {**record, "annotations": kept, "image_labels": sorted(labels)}


def labels_of_entry(image: Mapping[str, Any], contiguous: Mapping[int, int]) -> list[int]:
    """
    What an entry of a COCO JSON file's ``images``, or a dataset dict, says in ``image_labels``.

    Args:
        image: the entry. Its ``image_labels``, if any, are category ids.
        contiguous: contiguous ids by the category ids that the entry uses.

    Returns:
        contiguous ids, ascending, each once; empty where the entry says nothing.

    Raises:
        ValueError: if it is not a list of such category ids; it says which is none.
    """
    labels = image.get("image_labels", [])
    if not isinstance(labels, list):
        raise ValueError(
            f"image_labels is {labels!r:.40}, not a list of category ids such as [1, 7]."
        )
    for label in labels:
        # True is 1 for a dict, and a list can't be looked up.
        if isinstance(label, bool) or not isinstance(label, int) or label not in contiguous:
            raise ValueError(f"image_labels has {label!r:.40}, which is no category's id.")
    return sorted({contiguous[label] for label in labels})


def read_labels(
    image: Mapping[str, Any], contiguous: Mapping[int, int], json_file: str
) -> dict[str, list[int]]:
    """
    What an image's dataset dict has of its labels: nothing, where the file says nothing.

    Args:
        image, contiguous: see :func:`labels_of_entry`.
        json_file: for messages.

    Raises:
        ValueError: see :func:`labels_of_entry`; it names the file and the image as well.
    """
    if "image_labels" not in image:
        return {}
    try:
        return {"image_labels": labels_of_entry(image, contiguous)}
    except ValueError as e:
        raise ValueError(f"{json_file}: image {image['id']}: {e}") from e
