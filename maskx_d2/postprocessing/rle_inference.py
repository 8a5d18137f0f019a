"""Models that return run lengths in place of bitmaps while they are asked to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

import torch
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import nn

from .paste import paste_masks_as_rles
from .rle_masks import RLEMasks

__all__ = ["postprocess_to_rles", "rle_inference", "rle_masks"]


@contextmanager
def rle_masks(model: nn.Module) -> Iterator[None]:
    """
    While it is open, the model's ``pred_masks`` are :class:`RLEMasks`, with the same pixels.

    It acts on :class:`GeneralizedRCNN` with any ROI heads and on
    :class:`GeneralizedRCNNWithTTA`, also wrapped in DistributedDataParallel. Other models, among
    them those with an ``inference`` of their own such as PanopticFPN (which reads the bitmaps),
    stay as they are, as do outputs without masks.

    Args:
        model: it is changed in place, for all who use it, until the context is left.
    """
    model = getattr(model, "module", model)  # of DistributedDataParallel
    if _is_stock(model, GeneralizedRCNN, "inference"):
        method, replacement = "inference", _rle_inference_of(model)
    elif isinstance(model, GeneralizedRCNNWithTTA) and _is_stock(
        model, GeneralizedRCNNWithTTA, "_inference_one_image"
    ):
        method, replacement = "_reduce_pred_masks", _rle_average_of(model)
    else:
        yield
        return
    if method in vars(model):  # within another such context, or someone else's doing
        yield
        return
    setattr(model, method, replacement)
    try:
        yield
    finally:
        delattr(model, method)


def rle_inference(
    model: GeneralizedRCNN,
    batched_inputs: list[dict[str, Any]],
    detected_instances: list[Instances] | None = None,
) -> list[dict[str, Any]]:
    """
    :meth:`GeneralizedRCNN.inference` with :class:`RLEMasks`, whatever model it is a method of.

    Args:
        model: in evaluation mode.
        batched_inputs, detected_instances: see :meth:`GeneralizedRCNN.inference`.
    """
    raw = GeneralizedRCNN.inference(model, batched_inputs, detected_instances, False)
    return postprocess_to_rles(raw, batched_inputs)


class _Pasted(NamedTuple):
    """``detector_postprocess`` takes the ``tensor`` of the bitmasks that it asks for."""

    tensor: RLEMasks


class _RLEROIMasks(ROIMasks):
    """Masks on boxes, which ``detector_postprocess`` has pasted to RLEs."""

    def __getitem__(self, item: Any) -> _RLEROIMasks:
        return _RLEROIMasks(super().__getitem__(item).tensor)

    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5) -> _Pasted:
        return _Pasted(paste_masks_as_rles(self.tensor, boxes.tensor, (height, width), threshold))


def _is_stock(model: nn.Module, owner: type[nn.Module], method: str) -> bool:
    """Whether the model is an ``owner`` whose class did not override the method."""
    return isinstance(model, owner) and getattr(type(model), method) is getattr(owner, method)


def _rle_inference_of(model: GeneralizedRCNN) -> Callable[..., Any]:
    def inference(
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        if do_postprocess:
            return rle_inference(model, batched_inputs, detected_instances)
        return GeneralizedRCNN.inference(model, batched_inputs, detected_instances, False)

    return inference


def _rle_average_of(model: GeneralizedRCNNWithTTA) -> Callable[..., Any]:
    stock = model._reduce_pred_masks

    def _reduce_pred_masks(outputs: list[Instances], tfms: list[Any]) -> _RLEROIMasks:
        return _RLEROIMasks(stock(outputs, tfms)[:, 0])

    return _reduce_pred_masks


def postprocess_to_rles(
    raw: Sequence[Instances], batched_inputs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """
    Detectron2's postprocessing, with :class:`RLEMasks` for ``pred_masks``.

    Args:
        raw: for each image what :meth:`GeneralizedRCNN.inference` returns with
            ``do_postprocess=False``. It is changed in place.
        batched_inputs: see :meth:`GeneralizedRCNN.inference`.
    """
    for instances in raw:
        if instances.has("pred_masks"):
            masks = instances.pred_masks
            on_boxes = masks[:, 0] if isinstance(masks, torch.Tensor) else masks.tensor
            instances.pred_masks = _RLEROIMasks(on_boxes)
    sizes = [instances.image_size for instances in raw]
    results: list[dict[str, Any]] = GeneralizedRCNN._postprocess(raw, batched_inputs, sizes)
    return results
