"""Where the RoIs of the mask head's training are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances

__all__ = ["MASK_ROIS", "ground_truth_rois"]

#: What a mask head can be trained on.
MASK_ROIS = ("proposals", "ground_truth")


def ground_truth_rois(
    targets: Sequence[Instances], jitter: float = 0.0, limit: int | None = None
) -> list[Instances]:
    """
    The objects' own boxes as RoIs, for training.

    Args:
        targets: N images' ground truth, with ``gt_boxes`` and other fields.
        jitter: each side of a box moves by a random part of the box's width or height, uniform in
            [-jitter, jitter] / 2, but not out of the image, so that no box loses more than
            ``jitter`` of a side.
        limit: of an image with more objects, this many are drawn at random.

    Returns:
        N images' instances with all fields of the ground truth and ``proposal_boxes``.
    """
    rois = []
    for target in targets:
        if limit is not None and len(target) > limit:
            device = target.gt_boxes.device
            target = target[torch.randperm(len(target), device=device)[:limit]]
        roi = Instances(target.image_size, **target.get_fields())
        boxes = target.gt_boxes.tensor.clone()
        if jitter:
            size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            boxes = boxes + (torch.rand_like(boxes) - 0.5) * jitter * size
        roi.proposal_boxes = Boxes(boxes)
        roi.proposal_boxes.clip(target.image_size)
        rois.append(roi)
    return rois
