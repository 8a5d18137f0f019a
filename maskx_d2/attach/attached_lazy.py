"""The LazyConfig of a detector with a mask branch attached."""

from __future__ import annotations

import copy
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead, Res5ROIHeads
from omegaconf import DictConfig, OmegaConf

from ..data import PartialMaskDatasetMapper
from ..evaluation import SplitCOCOEvaluator
from ..lazy import apply_box_supervision, apply_maskx, target_class
from .attached_cfg import BOX_LOSSES, check_learns_from_boxes

__all__ = ["attach_lazy"]

_SIZE = 14  # of a RoI in detectron2's mask heads


def attach_lazy(
    cfg: DictConfig, *, transfer_input: str | None = None, learn_from_boxes: bool = False
) -> DictConfig:
    """
    A config of the same detector with Mask^X, in which only the mask branch is trained.

    Args:
        cfg: with ``model``, a :class:`GeneralizedRCNN` with or without a mask head, ``train`` and
            ``dataloader``. It is not changed.
        transfer_input: see :func:`~maskx_d2.apply_maskx`; by default all that the box head has:
            "cls+box", or "cls" where the box regression is class-agnostic.
        learn_from_boxes: whether objects without a mask teach the mask branch their box.

    Returns:
        The config. Schedule, data sets and ``train.init_checkpoint`` are those of ``cfg``.

    Raises:
        ValueError: if the model is of another kind; see also :func:`~maskx_d2.apply_maskx`.
    """
    cfg = copy.deepcopy(cfg)
    model = cfg.model
    if not issubclass(target_class(model), GeneralizedRCNN) or model.get("roi_heads") is None:
        raise ValueError(
            f"model {target_class(model).__name__} has no box head whose weights could tell a "
            "category's mask; Mask^X is for the R-CNN family (GeneralizedRCNN)."
        )
    roi_heads = model.roi_heads
    if roi_heads.get("mask_head") is None:
        _add_mask_head(roi_heads)
    predictors = roi_heads.get("box_predictors") or [roi_heads.box_predictor]
    class_agnostic = predictors[-1].get("cls_agnostic_bbox_reg", False)
    apply_maskx(model, transfer_input=transfer_input or ("cls" if class_agnostic else "cls+box"))
    if learn_from_boxes:
        check_learns_from_boxes(issubclass(target_class(roi_heads), Res5ROIHeads))
        apply_box_supervision(model, **BOX_LOSSES)
    cfg.train.freeze_detector = True
    cfg.train.pop("trained_modules", None)
    _read_partial_masks(cfg.dataloader)
    return cfg


def _add_mask_head(roi_heads: Any) -> None:
    if issubclass(target_class(roi_heads), Res5ROIHeads):
        channels = roi_heads.res5.out_channels
        conv_dims = [256]  # res5 is most of it
    else:
        roi_heads.mask_in_features = list(roi_heads.box_in_features)
        roi_heads.mask_pooler = copy.deepcopy(roi_heads.box_pooler)
        roi_heads.mask_pooler.output_size = _SIZE
        box_head = (roi_heads.get("box_heads") or [roi_heads.box_head])[0]
        channels = box_head.input_shape.channels
        conv_dims = [256] * 5
    roi_heads.mask_head = L(MaskRCNNConvUpsampleHead)(
        input_shape=ShapeSpec(channels=channels, height=_SIZE, width=_SIZE),
        num_classes=roi_heads.num_classes,
        conv_dims=conv_dims,
    )


def _read_partial_masks(dataloader: Any) -> None:
    """In place of detectron2's own mapper and evaluator; one's own is left alone."""
    mapper = OmegaConf.select(dataloader, "train.mapper")
    target = None if mapper is None else target_class(mapper)
    if target is DatasetMapper:
        mapper._target_ = PartialMaskDatasetMapper
    if isinstance(target, type) and issubclass(target, DatasetMapper):
        mapper.use_instance_mask = True
    evaluator = dataloader.get("evaluator")
    if evaluator is not None and target_class(evaluator) is COCOEvaluator:
        evaluator._target_ = SplitCOCOEvaluator
        if evaluator.get("tasks") is not None and "segm" not in evaluator.tasks:
            evaluator.tasks = (*evaluator.tasks, "segm")
