"""Mask proposals of a COCO results file, image by image."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Mapping
from typing import Any

from ..data.coco_reader import read_list
from .task import Proposal

__all__ = ["read_proposals"]


def read_proposals(
    path: str | os.PathLike[str],
    sizes: Mapping[Any, tuple[int, int]],
    *,
    per_image: int,
    progress: bool = True,
) -> dict[Any, list[Proposal]]:
    """
    The best proposals of some images, in memory.

    Args:
        path: of COCO results with compressed RLE masks, such as the ``coco_proposals.json`` of
            :class:`~maskx_d2.evaluation.MaskProposalEvaluator`.
        sizes: height and width of the images that are wanted, by their ids.
        per_image: how many at most.
        progress: whether to show a progress bar.

    Returns:
        By image id, the best first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a proposal of these images has no score, or no such mask of their size.
    """
    best: dict[Any, list[tuple[float, int, str]]] = {}
    for number, result in enumerate(read_list(path, progress=progress)):
        size = sizes.get(result.get("image_id"))
        if size is None:
            continue
        try:
            score, counts = float(result["score"]), result["segmentation"]["counts"]
            usable = math.isfinite(score) and isinstance(counts, str)
            usable = usable and tuple(result["segmentation"]["size"]) == size
        except (KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            raise ValueError(
                f"{path}: entry {number}, of image {result['image_id']}, needs a 'score' and a "
                f"'segmentation' in compressed RLE of {size[0]} × {size[1]} pixels (height × "
                "width); name the coco_proposals.json of these images."
            )
        found = best.setdefault(result["image_id"], [])
        entry = score, -number, counts  # of equal scores, the first of the file
        if len(found) < per_image:
            heapq.heappush(found, entry)
        else:
            heapq.heappushpop(found, entry)
    return {
        image_id: [Proposal(counts, score) for score, _, counts in sorted(found, reverse=True)]
        for image_id, found in best.items()
    }
