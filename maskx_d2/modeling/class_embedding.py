"""Where the weight transfer function's input comes from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DETECTION_WEIGHT_SOURCES", "detection_weights"]

#: The inputs of T that come from the box head (paper, Table 1a).
DETECTION_WEIGHT_SOURCES = ("cls", "box", "cls+box")


def detection_weights(
    box_predictor: nn.Module,
    *,
    source: str = "cls+box",
    stop_grad: bool = True,
    classes: Tensor | None = None,
) -> Tensor:
    """
    Each category's rows of the box head's last layers (paper, section 3.2 and Table 1a).

    Args:
        box_predictor: a module with the linear layers ``cls_score``, weight (K+1, F) with the
            background last, and, unless ``source`` is "cls", ``bbox_pred``, weight (4K, F): what
            detectron2's ``FastRCNNOutputLayers`` has. F is the width of the box head.
        source: "cls", "box" or "cls+box".
        stop_grad: whether to cut the gradient, so that the mask loss doesn't change the box
            head. End-to-end training needs it: else the vectors of categories with masks drift
            away from those without (Table 1d).
        classes: (n,) int64, only these categories' rows, in this order; all K by default.

    Returns:
        (K, D) or (n, D) float, without the background. Category c's row is
        ``cls_score.weight[c]``, or its four rows of ``bbox_pred.weight`` one after the other, or
        the former followed by the latter: D = F, 4F or 5F. No biases, no normalisation.

    Raises:
        ValueError: if ``source`` is unknown, or asks for box weights of a class-agnostic box
            regression, which has none per category.
        TypeError: if ``box_predictor`` lacks such a layer.
    """
    if source not in DETECTION_WEIGHT_SOURCES:
        raise ValueError(
            f"unknown input of the weight transfer '{source}' (MODEL.MASKX.TRANSFER_INPUT, or "
            f"transfer_input of apply_maskx); choose one of {', '.join(DETECTION_WEIGHT_SOURCES)}."
        )
    cls_score = _weight(box_predictor, "cls_score")
    num_classes = len(cls_score) - 1
    parts = []
    if "cls" in source:
        parts.append(cls_score[:num_classes] if classes is None else cls_score[classes])
    if "box" in source:
        bbox_pred = _weight(box_predictor, "bbox_pred")
        if len(bbox_pred) != 4 * num_classes:
            raise ValueError(
                f"input '{source}' of the weight transfer needs box regression weights for each "
                f"of the {num_classes} categories, but bbox_pred has {len(bbox_pred)} rows in all: "
                "set MODEL.MASKX.TRANSFER_INPUT (transfer_input of apply_maskx) to cls, or "
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG to False."
            )
        by_class = bbox_pred.reshape(num_classes, -1)
        parts.append(by_class if classes is None else by_class[classes])
    vectors = torch.cat(parts, dim=1)
    return vectors.detach() if stop_grad else vectors


def _weight(box_predictor: nn.Module, name: str) -> Tensor:
    weight = getattr(getattr(box_predictor, name, None), "weight", None)
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"the weight transfer reads '{name}.weight' of the box predictor, but "
            f"{type(box_predictor).__name__} has no such layer."
        )
    return weight
