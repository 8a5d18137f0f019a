"""Boxes that are given to a model in place of its detections."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

__all__ = ["given_instances"]


def given_instances(model_input: dict[str, Any], boxes: Tensor, classes: Tensor) -> Instances:
    """
    What :meth:`GeneralizedRCNN.inference` takes as the ``detected_instances`` of an image.

    Args:
        model_input: of the image: ``image``, (3, H, W) as the model sees it, and ``height`` and
            ``width`` of the image itself, if they differ.
        boxes: (R, 4) XYXY in pixels of the image itself.
        classes: (R,) int64, contiguous ids.

    Returns:
        ``pred_boxes`` in (H, W), clipped to it, ``pred_classes``, ``scores`` of 1, and ``given``,
        int64: which of the boxes it is, because postprocessing leaves out those outside.
    """
    height, width = model_input["image"].shape[-2:]
    scaled = Boxes(boxes.float().clone())
    # As detectron2's postprocessing takes the size of the image itself.
    own_height, own_width = model_input.get("height", height), model_input.get("width", width)
    scaled.scale(width / own_width, height / own_height)
    # As a detection is, before the mask head sees it; postprocessing pastes into the clipped box.
    scaled.clip((height, width))
    return Instances(
        (height, width),
        pred_boxes=scaled,
        pred_classes=classes,
        scores=torch.ones(len(boxes)),
        given=torch.arange(len(boxes)),
    )
