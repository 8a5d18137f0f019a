"""Which images are for training, so that none of COCO's validation images is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

PARTS = ("train", "val", "test")


def assign_parts(
    images: Sequence[dict[str, Any]],
    coco_val: Collection[int],
    excluded: Collection[int],
    num_test: int,
) -> dict[str, list[dict[str, Any]]]:
    """
    Split the images as the paper's authors did.

    Args:
        images: see :func:`~vg_conversion.reader.read_images`.
        coco_val: COCO's ids of the images that are for validation.
        excluded: COCO's ids of images that are in no part at all.
        num_test: the last so many images that COCO does not have are for testing.

    Returns:
        "val": COCO's validation images; "test"; "train": all others.

    Raises:
        ValueError: if a part would be empty, or COCO has more of the images.
    """
    kept = [i for i in images if i["coco_id"] is None or i["coco_id"] not in excluded]
    not_in_coco = [i["id"] for i in kept if i["coco_id"] is None]
    if not 0 <= num_test <= len(not_in_coco):
        raise ValueError(
            f"{num_test} test images were asked for, but there are only {len(not_in_coco)} images "
            "that COCO does not have; ask for fewer with --num-test."
        )
    test = set(not_in_coco[len(not_in_coco) - num_test :])
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for image in kept:
        in_val = image["coco_id"] is not None and image["coco_id"] in coco_val
        part = "test" if image["id"] in test else "val" if in_val else "train"
        parts[part].append(image)
    if not parts["train"]:
        raise ValueError("no image is left for training; ask for fewer with --num-test.")
    if not parts["val"]:
        raise ValueError(
            "no image has a coco_id of COCO's validation images, so either these are not Visual "
            "Genome's images or --coco-val is another data set."
        )
    return parts
