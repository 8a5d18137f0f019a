"""
ROI heads for partial mask supervision: detectron2's, with one of two mixins.

:class:`SupervisedMasksOnly` trains any mask head on the RoIs that have a mask; ``MaskXMixin`` is
one, and adds the weight transfer function T of Mask^X R-CNN. Both work on ROI heads that call
``self.mask_head(features, instances)``, as all of detectron2's do, so one line makes a variant of
your own::

    @ROI_HEADS_REGISTRY.register()
    class MyMaskXROIHeads(MaskXMixin, MyROIHeads):
        pass
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import cat
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ..data.datasets import thing_classes_of
from .class_embedding import detection_weights
from .embedding_files import load_class_embedding, random_class_embedding
from .mask_head import MaskXConvUpsampleHead
from .supervised_masks import SupervisedMasksOnly, mask_training, select_supervised
from .weight_transfer import WeightTransfer

__all__ = [
    "MaskXCascadeROIHeads",
    "MaskXMixin",
    "MaskXROIHeads",
    "MaskXRes5ROIHeads",
    "SupervisedMasksCascadeROIHeads",
    "SupervisedMasksOnly",
    "SupervisedMasksROIHeads",
    "SupervisedMasksRes5ROIHeads",
    "check_supervised_masks_only",
    "select_supervised",
]


class MaskXMixin(SupervisedMasksOnly):
    """
    Mixin that predicts each category's mask weights from its box head weights (Mask^X R-CNN).

    ``w_seg = T(stop_grad([w_cls, w_box]))``: (K, D) → (K, C) (paper, section 3.2). T is trained by
    the mask loss of the categories that have masks and serves all categories.
    """

    @configurable
    def __init__(
        self,
        *,
        transfer_input: str = "cls+box",
        class_embedding: Tensor | None = None,
        transfer_hidden_dims: Sequence[int] = (256,),
        transfer_negative_slope: float = 0.1,
        transfer_dropout: float = 0.0,
        transfer_noise: float = 0.0,
        stop_grad: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            transfer_input: what T sees of each category, see :func:`detection_weights`; or
                ``"embedding"``.
            class_embedding: with ``"embedding"``, a fixed vector for each of the K categories,
                (K, D) float, see :func:`load_class_embedding`.
            transfer_hidden_dims, transfer_negative_slope, transfer_dropout, transfer_noise: see
                :class:`WeightTransfer`.
            stop_grad: whether the mask loss leaves the box head alone.
            **kwargs: arguments of :class:`SupervisedMasksOnly` and of the ROI heads that are mixed
                into.

        Raises:
            ValueError: if the box predictor doesn't have what ``transfer_input`` asks for.
            TypeError: if the mask head is not a :class:`MaskXConvUpsampleHead`.
        """
        super().__init__(**kwargs)
        if not self.mask_on:  # type: ignore[attr-defined]
            raise ValueError(f"{type(self).__name__} needs a mask head; set MODEL.MASK_ON to True.")
        mask_head = self.mask_head  # type: ignore[attr-defined]
        if not isinstance(mask_head, MaskXConvUpsampleHead):
            raise TypeError(
                f"{type(self).__name__} needs a mask head that takes class weights, not "
                f"{type(mask_head).__name__}; set MODEL.ROI_MASK_HEAD.NAME to "
                "MaskXConvUpsampleHead."
            )
        self.transfer_input = transfer_input
        self.stop_grad = stop_grad
        if (class_embedding is None) == (transfer_input == "embedding"):
            raise ValueError(
                f"transfer_input is '{transfer_input}', and a class embedding is "
                f"{'missing' if class_embedding is None else 'given'}: they go together."
            )
        if class_embedding is not None and len(class_embedding) != self.num_classes:
            raise ValueError(
                f"the class embedding has {len(class_embedding)} rows, but the model has "
                f"{self.num_classes} categories (MODEL.ROI_HEADS.NUM_CLASSES)."
            )
        # In the checkpoint, so that a model is never used with other vectors than it learnt with.
        self.register_buffer("class_embedding", class_embedding)  # type: ignore[attr-defined]
        # Built after the box predictor, so that the length of its vectors is measured.
        self.weight_transfer = WeightTransfer(
            self._class_vectors().shape[1],
            mask_head.out_channels,
            hidden_dims=transfer_hidden_dims,
            negative_slope=transfer_negative_slope,
            dropout=transfer_dropout,
            noise=transfer_noise,
        )
        self._cached_class_weights: Tensor | None = None
        self._cached_for: tuple[Any, ...] = ()
        # The ROI heads of detectron2 call mask_head(features, instances). A hook adds the third
        # argument wherever they do so, and no method of theirs needs a copy for it.
        mask_head.register_forward_pre_hook(self._pass_class_weights, with_kwargs=True)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """See :meth:`ROIHeads.from_config`."""
        ret: dict[str, Any] = super().from_config(cfg, input_shape)  # type: ignore[misc]
        ret.update(
            **mask_training(cfg),
            **_transfer_input(cfg),
            transfer_hidden_dims=cfg.MODEL.MASKX.TRANSFER_HIDDEN_DIMS,
            transfer_negative_slope=cfg.MODEL.MASKX.TRANSFER_NEGATIVE_SLOPE,
            transfer_dropout=cfg.MODEL.MASKX.TRANSFER_DROPOUT,
            transfer_noise=cfg.MODEL.MASKX.TRANSFER_NOISE,
            stop_grad=cfg.MODEL.MASKX.STOP_GRAD,
        )
        return ret

    def class_weights(self) -> Tensor:
        """
        The mask predictor of each category, (K, C) float.

        While no gradient is asked for, it is a constant of the model: it is computed once and
        again only after the box predictor's or T's parameters have changed.
        """
        if torch.is_grad_enabled() or torch.jit.is_tracing():
            self._cached_class_weights = None
            return self.weight_transfer(self._class_vectors())
        parameters = [*self._last_box_predictor().parameters(), *self.weight_transfer.parameters()]
        # An optimizer's step, load_state_dict, an EMA's copy_ and a move to another device or
        # type each change one of these.
        state = tuple(
            # Tensors made in inference mode have no version: they can't be changed in place.
            (p.data_ptr(), 0 if p.is_inference() else p._version, p.dtype)
            for p in parameters
        )
        if self._cached_class_weights is None or state != self._cached_for:
            # In full precision, whatever the first caller's: the result outlives its autocast.
            with torch.autocast(parameters[0].device.type, enabled=False):
                self._cached_class_weights = self.weight_transfer(self._class_vectors())
            self._cached_for = state
        return self._cached_class_weights

    def train(self, mode: bool = True) -> Any:
        """See :meth:`nn.Module.train`; it also forgets the class weights."""
        # Parameters may have been changed behind autograd's back (``p.data.copy_``).
        self._cached_class_weights = None
        return super().train(mode)  # type: ignore[misc]

    def _class_vectors(self, classes: Tensor | None = None) -> Tensor:
        if self.class_embedding is not None:
            return self.class_embedding if classes is None else self.class_embedding[classes]
        return detection_weights(
            self._last_box_predictor(),
            source=self.transfer_input,
            stop_grad=self.stop_grad,
            classes=classes,
        )

    def mask_logits(self, features: Tensor, classes: Tensor) -> Tensor:
        """See :meth:`SupervisedMasksOnly.mask_logits`."""
        weights, rows = self._class_weights_of(classes)
        logits: Tensor = self.mask_head.layers(features, weights[rows])  # type: ignore[attr-defined]
        return logits[:, 0]

    def _class_weights_of(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Mask predictors of the P categories among R RoIs' ``classes``, and each RoI's of them.

        T sees each category on its own, so a training step need not pay for all K of them.

        Returns:
            (P, C) float and the rows, int64 (R,).
        """
        present, rows = torch.unique(classes, return_inverse=True)
        return self.weight_transfer(self._class_vectors(present)), rows

    def _last_box_predictor(self) -> nn.Module:
        """The box predictor, or that of the last stage of a cascade."""
        box_predictor = self.box_predictor  # type: ignore[attr-defined]
        return box_predictor[-1] if isinstance(box_predictor, nn.ModuleList) else box_predictor

    def _pass_class_weights(
        self, mask_head: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        _, instances = args
        if self.training:
            weights, rows = self._class_weights_of(cat([i.gt_classes for i in instances]))
            return args, {"class_weights": weights, "rows": rows, **kwargs}
        return args, {"class_weights": self.class_weights(), **kwargs}


def _transfer_input(cfg: Any) -> dict[str, Any]:
    """T's input as the config says it; of embeddings, the vectors of the categories."""
    source, file = cfg.MODEL.MASKX.TRANSFER_INPUT, cfg.MODEL.MASKX.EMBEDDING_FILE
    if file and source != "embedding":
        raise ValueError(
            f"MODEL.MASKX.EMBEDDING_FILE is '{file}', but TRANSFER_INPUT is '{source}'; set it to "
            "'embedding', or EMBEDDING_FILE to ''."
        )
    if source not in ("embedding", "random"):
        return {"transfer_input": source}
    names = _category_names((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if source == "random":
        vectors = random_class_embedding(names)
    elif file:
        vectors = load_class_embedding(PathManager.get_local_path(file), names)
    else:
        raise ValueError(
            "MODEL.MASKX.TRANSFER_INPUT is 'embedding', but EMBEDDING_FILE is empty; name a file."
        )
    return {"transfer_input": "embedding", "class_embedding": vectors}


def _category_names(datasets: Sequence[str]) -> list[str]:
    """Of the first data set that is known: a trained model is used where others are, too."""
    for name in datasets:
        named = name in MetadataCatalog.list() and MetadataCatalog.get(name).get("thing_classes")
        if named or name in DatasetCatalog.list():
            return thing_classes_of(name)
    raise ValueError(
        "MODEL.MASKX.TRANSFER_INPUT asks for vectors of categories, but none of the data sets that "
        f"could name them is registered ({', '.join(datasets) or 'DATASETS is empty'})."
    )


@ROI_HEADS_REGISTRY.register()
class SupervisedMasksROIHeads(SupervisedMasksOnly, StandardROIHeads):
    """
    Detectron2's standard ROI heads with any of its mask heads, where some masks are missing.

    With ``MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK`` it is the paper's class-agnostic baseline.
    """


@ROI_HEADS_REGISTRY.register()
class SupervisedMasksCascadeROIHeads(SupervisedMasksOnly, CascadeROIHeads):
    """Detectron2's cascade ROI heads, where some masks are missing."""


@ROI_HEADS_REGISTRY.register()
class SupervisedMasksRes5ROIHeads(SupervisedMasksOnly, Res5ROIHeads):
    """Detectron2's C4 ROI heads, where some masks are missing."""


@ROI_HEADS_REGISTRY.register()
class MaskXROIHeads(MaskXMixin, StandardROIHeads):
    """Mask^X R-CNN: detectron2's standard ROI heads with a weight transfer function."""


@ROI_HEADS_REGISTRY.register()
class MaskXCascadeROIHeads(MaskXMixin, CascadeROIHeads):
    """Mask^X on detectron2's cascade ROI heads; T reads the last stage's box predictor."""


@ROI_HEADS_REGISTRY.register()
class MaskXRes5ROIHeads(MaskXMixin, Res5ROIHeads):
    """Mask^X on detectron2's C4 ROI heads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.mask_head.mlp_branch is not None:
            raise ValueError(
                "the MLP branch does not fit C4 ROI heads, whose res5 halves the RoI features "
                "after pooling; set MODEL.MASKX.MLP_BRANCH to False."
            )


def check_supervised_masks_only(model: nn.Module) -> None:
    """
    Refuse a model that would take the stand-ins for missing masks for real ones.

    Raises:
        ValueError: if the model's ROI heads train a mask head without :class:`SupervisedMasksOnly`.
    """
    roi_heads = getattr(model, "roi_heads", None)
    if getattr(roi_heads, "mask_on", False) and not isinstance(roi_heads, SupervisedMasksOnly):
        raise ValueError(
            f"{type(roi_heads).__name__} would train on boxes as if they were the missing masks; "
            "set MODEL.ROI_HEADS.NAME to SupervisedMasksROIHeads or MaskXROIHeads (for cascade "
            "and C4: …CascadeROIHeads, …Res5ROIHeads), or mix SupervisedMasksOnly into your own."
        )
