"""Categories by their vectors, for models that are described by detectron2's LazyConfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from omegaconf import DictConfig

from .lazy import apply_maskx, target_class
from .modeling import (
    EmbeddingFastRCNNOutputLayers,
    MaskXROIHeads,
    OpenVocabularyMaskXROIHeads,
)

__all__ = ["apply_open_vocabulary"]


def apply_open_vocabulary(
    model: DictConfig,
    *,
    thing_classes: Sequence[str] | str,
    embedding_file: str,
    temperature: float = 50.0,
    **maskx_options: Any,
) -> DictConfig:
    """
    Turn the description of a Mask R-CNN into that of a Mask^X R-CNN with an open vocabulary.

    Nothing is instantiated. The file's vectors are T's input and the classifier; after training,
    :func:`~maskx_d2.modeling.set_vocabulary` changes the categories.

    Args:
        model: a LazyConfig model with detectron2's standard ROI heads and box predictor, such as
            its ``common/models/mask_rcnn_fpn.py``, or what :func:`apply_maskx` made of it. It is
            changed in place.
        thing_classes, embedding_file: the names of the K categories, or that of a registered
            data set, and a file with their vectors, see
            :func:`~maskx_d2.modeling.load_class_embedding`. The file can be changed as
            ``roi_heads.class_embedding.path``, of which the box predictor reads, too.
        temperature: see :class:`~maskx_d2.modeling.EmbeddingClassifier`.
        **maskx_options: those of :func:`apply_maskx` but ``transfer_input``.

    Returns:
        ``model``, for chaining.

    Raises:
        ValueError: if the ROI heads, the box predictor or the mask head have no such form.
    """
    roi_heads = model.get("roi_heads")
    if roi_heads is not None:
        _check_target(
            roi_heads,
            "roi_heads",
            StandardROIHeads,
            also=(MaskXROIHeads, OpenVocabularyMaskXROIHeads),
        )
        _check_target(
            roi_heads.box_predictor,
            "roi_heads.box_predictor",
            FastRCNNOutputLayers,
            also=(EmbeddingFastRCNNOutputLayers,),
        )
    apply_maskx(
        model,
        transfer_input="embedding",
        thing_classes=thing_classes,
        embedding_file=embedding_file,
        **maskx_options,
    )
    roi_heads._target_ = OpenVocabularyMaskXROIHeads
    box_predictor = roi_heads.box_predictor
    box_predictor._target_ = EmbeddingFastRCNNOutputLayers
    for key in ("num_classes", "cls_agnostic_bbox_reg"):
        box_predictor.pop(key, None)
    box_predictor.update(class_vectors="${..class_embedding}", temperature=temperature)
    return model


def _check_target(config: DictConfig, where: str, stock: type, also: tuple[type, ...]) -> None:
    if (found := target_class(config)) not in (stock, *also):
        raise ValueError(
            f"{where} {found.__name__} has no open-vocabulary form; apply_open_vocabulary "
            f"replaces {stock.__name__}."
        )
