"""Mask^X for models that are described by detectron2's LazyConfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from .data.datasets import thing_classes_of
from .modeling import (
    BoxSupervision,
    DeepConvUpsampleHead,
    MaskXCascadeROIHeads,
    MaskXConvUpsampleHead,
    MaskXMixin,
    MaskXRes5ROIHeads,
    MaskXROIHeads,
    SupervisedMasksCascadeROIHeads,
    SupervisedMasksOnly,
    SupervisedMasksRes5ROIHeads,
    SupervisedMasksROIHeads,
    load_class_embedding,
    random_class_embedding,
)

__all__ = ["apply_box_supervision", "apply_maskx", "target_class"]

_MASKX_ROI_HEADS = {
    StandardROIHeads: MaskXROIHeads,
    CascadeROIHeads: MaskXCascadeROIHeads,
    Res5ROIHeads: MaskXRes5ROIHeads,
    SupervisedMasksROIHeads: MaskXROIHeads,
    SupervisedMasksCascadeROIHeads: MaskXCascadeROIHeads,
    SupervisedMasksRes5ROIHeads: MaskXRes5ROIHeads,
}


def apply_maskx(
    model: DictConfig,
    *,
    transfer_input: str = "cls+box",
    transfer_hidden_dims: Sequence[int] = (256,),
    transfer_negative_slope: float = 0.1,
    transfer_dropout: float = 0.0,
    transfer_noise: float = 0.0,
    stop_grad: bool = True,
    mlp_branch: bool = False,
    mlp_rank: int = 0,
    mlp_hidden_dims: Sequence[int] = (),
    thing_classes: Sequence[str] | str | None = None,
    embedding_file: str | None = None,
) -> DictConfig:
    """
    Turn the description of a Mask R-CNN into that of a Mask^X R-CNN. Nothing is instantiated.

    Args:
        model: a LazyConfig model with ``roi_heads`` and ``roi_heads.mask_head``, such as
            detectron2's ``common/models/mask_rcnn_fpn.py``. It is changed in place.
        transfer_input, transfer_hidden_dims, transfer_negative_slope, transfer_dropout,
        transfer_noise, stop_grad: see :class:`~maskx_d2.modeling.MaskXMixin`.
        mlp_branch, mlp_rank, mlp_hidden_dims: see
            :class:`~maskx_d2.modeling.MaskXConvUpsampleHead`.
        thing_classes, embedding_file: with ``transfer_input="embedding"`` the names of the K
            categories and a file with their vectors, see
            :func:`~maskx_d2.modeling.load_class_embedding`; with ``"random"`` the names. In place
            of the names, the name of a registered data set will do.

    Returns:
        ``model``, for chaining.

    Raises:
        ValueError: if the ROI heads or the mask head are not ones that have a Mask^X form, or an
            embedding lacks its file or names.
    """
    roi_heads = model.get("roi_heads")
    mask_head = roi_heads.get("mask_head") if roi_heads is not None else None
    if mask_head is None:
        raise ValueError("apply_maskx needs a model with roi_heads.mask_head (a Mask R-CNN).")
    maskx_roi_heads = target_class(roi_heads)
    if not issubclass(maskx_roi_heads, MaskXMixin):
        maskx_roi_heads = _MASKX_ROI_HEADS.get(maskx_roi_heads)
    if maskx_roi_heads is None:
        raise ValueError(
            f"roi_heads {target_class(roi_heads).__name__} have no Mask^X form: derive one, "
            "`class MyMaskXROIHeads(MaskXMixin, …)`, set it as roi_heads._target_, apply again."
        )
    replaceable = target_class(mask_head) in (MaskRCNNConvUpsampleHead, DeepConvUpsampleHead)
    if not (replaceable or issubclass(target_class(mask_head), MaskXConvUpsampleHead)):
        raise ValueError(
            f"mask head {target_class(mask_head).__name__} has no Mask^X form; "
            "apply_maskx replaces MaskRCNNConvUpsampleHead."
        )
    if replaceable:
        mask_head._target_ = MaskXConvUpsampleHead
    mask_head.pop("num_classes", None)
    mask_head.update(
        mlp_branch=mlp_branch, mlp_rank=mlp_rank, mlp_hidden_dims=list(mlp_hidden_dims)
    )
    roi_heads._target_ = maskx_roi_heads
    roi_heads.pop("class_embedding", None)  # of an earlier call
    roi_heads.update(
        **_transfer_input(transfer_input, thing_classes, embedding_file),
        transfer_hidden_dims=list(transfer_hidden_dims),
        transfer_negative_slope=transfer_negative_slope,
        transfer_dropout=transfer_dropout,
        transfer_noise=transfer_noise,
        stop_grad=stop_grad,
    )
    return model


def apply_box_supervision(
    model: DictConfig,
    *,
    projection_weight: float = 1.0,
    affinity_weight: float = 0.0,
    background_weight: float = 0.0,
    warmup_iters: int = 0,
) -> DictConfig:
    """
    Let the mask branch learn from boxes that have no mask as well. Nothing is instantiated.

    Args:
        model: a LazyConfig model whose ``roi_heads`` mix in
            :class:`~maskx_d2.modeling.SupervisedMasksOnly`, such as :func:`apply_maskx` makes. It
            is changed in place.
        projection_weight, affinity_weight, background_weight, warmup_iters: see
            :class:`~maskx_d2.modeling.BoxSupervision`.

    Returns:
        ``model``, for chaining.

    Raises:
        ValueError: if the ROI heads are others.
    """
    roi_heads = model.get("roi_heads")
    name = "no ROI heads" if roi_heads is None else target_class(roi_heads).__name__
    if roi_heads is None or not issubclass(target_class(roi_heads), SupervisedMasksOnly):
        raise ValueError(
            f"a model with {name} can't learn masks from boxes: call apply_maskx first, or set "
            "roi_heads._target_ to SupervisedMasksROIHeads."
        )
    # The model's own, so that it follows when they are changed.
    images = {key: f"${{...{key}}}" for key in ("pixel_mean", "pixel_std", "input_format")}
    roi_heads.box_supervision = L(BoxSupervision)(
        projection_weight=projection_weight,
        affinity_weight=affinity_weight,
        background_weight=background_weight,
        warmup_iters=warmup_iters,
    )
    roi_heads.box_supervision.update({k: v for k, v in images.items() if k in model})
    return model


def _transfer_input(
    source: str, thing_classes: Sequence[str] | str | None, file: str | None
) -> dict[str, Any]:
    if (file is not None) != (source == "embedding") or (
        (thing_classes is not None) != (source in ("embedding", "random"))
    ):
        raise ValueError(
            f"transfer_input '{source}' does not go with what is given: 'embedding' needs "
            "thing_classes and embedding_file, 'random' thing_classes, the others neither."
        )
    if thing_classes is None:
        return {"transfer_input": source}
    # A data set is read when the model is made: its file need not be there to read the config.
    names = (
        L(thing_classes_of)(dataset_name=thing_classes)
        if isinstance(thing_classes, str)
        else list(thing_classes)
    )
    if source == "random":
        vectors = L(random_class_embedding)(thing_classes=names)
    else:
        vectors = L(load_class_embedding)(path=file, thing_classes=names)
    return {"transfer_input": "embedding", "class_embedding": vectors}


def target_class(config: DictConfig) -> Any:
    """The class that a LazyCall names, which is a string after a round trip through yaml."""
    target = config._target_
    return locate(target) if isinstance(target, str) else target
