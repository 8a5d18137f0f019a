"""
A box predictor that classifies by given vectors of the categories, in place of learnt rows.

The categories are then a matter of the vectors: others, or more, need no training. It is the
zero-shot classifier of Detic ("Detecting Twenty-thousand Classes using Image-level Supervision",
Zhou et al., ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["EmbeddingClassifier", "EmbeddingFastRCNNOutputLayers", "unit_class_vectors"]


def unit_class_vectors(
    vectors: Tensor | np.ndarray, thing_classes: Sequence[str] | None = None
) -> Tensor:
    """
    Vectors of categories, each divided by its Euclidean length.

    Args:
        vectors: (K, D), any type of real numbers.
        thing_classes: the K names, for what an error says.

    Returns:
        (K, D) float32 on the CPU, a copy.

    Raises:
        ValueError: if the shape is another, or a vector is zero or not finite.
    """
    # In double precision, so that squares of large numbers stay finite.
    vectors = torch.as_tensor(vectors).detach().cpu().double()
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(
            "the vectors of the categories must be a matrix with a row for each category, (K, D), "
            f"not of shape {tuple(vectors.shape)}."
        )
    lengths = vectors.norm(dim=1, keepdim=True)
    useless = (~(lengths.isfinite() & (lengths > 0))).flatten().nonzero().flatten().tolist()
    if useless:
        shown = ", ".join(
            f"{i} ('{thing_classes[i]}')" if thing_classes else f"{i}" for i in useless[:5]
        )
        more = f" and {len(useless) - 5} more" if len(useless) > 5 else ""
        raise ValueError(
            "the vectors of the categories have one of zeros, or one that is not finite, in row "
            f"{shown}{more}; a category can't be told by it, so give it another or leave it out."
        )
    return (vectors / lengths).float()


class EmbeddingClassifier(nn.Module):
    """
    Class scores as cosines between a RoI's projected features and the categories' vectors.

    The logit of category c is ``temperature * cos(projection(x), class_vectors[c])``, that of the
    background 0. The projection is learnt; the vectors are not.

    Attributes:
        projection: linear, F to D.
        class_vectors: (K, D) float, of length 1 each. A buffer that is not in the checkpoint:
            weights that were learnt with some categories load into a model of any others.
    """

    class_vectors: Tensor

    def __init__(
        self, in_features: int, class_vectors: Tensor | np.ndarray, *, temperature: float = 50.0
    ) -> None:
        """
        Args:
            in_features: F, the width of the box head.
            class_vectors: (K, D), a vector for each category, of any length but 0.
            temperature: the largest logit, as in Detic.

        Raises:
            ValueError: if a vector is zero or not finite, or the temperature is not positive.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"the classifier's temperature must be positive, not {temperature}.")
        vectors = unit_class_vectors(class_vectors)
        self.temperature = temperature
        self.projection = nn.Linear(in_features, vectors.shape[1])
        self.register_buffer("class_vectors", vectors, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(R, F) box features → (R, K+1) logits, the background last."""
        features = self.projection(x)
        # In the vectors' precision, whatever the caller's autocast: half the digits of a cosine
        # would be lost to the temperature.
        with torch.autocast(x.device.type, enabled=False):
            features = F.normalize(features.to(self.class_vectors.dtype), dim=1)
            logits = self.temperature * F.linear(features, self.class_vectors)
        return F.pad(logits, (0, 1))

    def set_class_vectors(
        self, vectors: Tensor | np.ndarray, thing_classes: Sequence[str] | None = None
    ) -> None:
        """
        Classify by other vectors from now on.

        Args:
            vectors: (K', D), a vector for each category, of any length but 0.
            thing_classes: their K' names, for what an error says.

        Raises:
            ValueError: if D is another, or a vector is zero or not finite.
        """
        vectors = unit_class_vectors(vectors, thing_classes)
        if vectors.shape[1] != self.class_vectors.shape[1]:
            raise ValueError(
                f"the vectors of the categories have {vectors.shape[1]} numbers each, but the "
                f"model was built for {self.class_vectors.shape[1]}; make them with the embedding "
                "that it is trained with."
            )
        self.class_vectors = vectors.to(self.class_vectors)


class EmbeddingFastRCNNOutputLayers(FastRCNNOutputLayers):
    """
    Detectron2's box predictor with an :class:`EmbeddingClassifier` for ``cls_score``.

    Losses and inference are detectron2's. Box regression is class-agnostic, for it must serve
    categories that it has not seen, and the config's ``CLS_AGNOSTIC_BBOX_REG`` is not read.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        class_vectors: Tensor | np.ndarray,
        temperature: float = 50.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of the box features; F is all their numbers.
            class_vectors, temperature: see :class:`EmbeddingClassifier`.
            **kwargs: arguments of the parent but ``num_classes``, which is K, and
                ``cls_agnostic_bbox_reg``.
        """
        super().__init__(
            input_shape, num_classes=len(class_vectors), cls_agnostic_bbox_reg=True, **kwargs
        )
        self.cls_score = EmbeddingClassifier(
            self.cls_score.in_features, class_vectors, temperature=temperature
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        """See :meth:`FastRCNNOutputLayers.from_config`; ``class_vectors`` are given apart."""
        ret: dict[str, Any] = super().from_config(cfg, input_shape)
        del ret["num_classes"], ret["cls_agnostic_bbox_reg"]
        return ret

    def set_class_vectors(
        self, vectors: Tensor | np.ndarray, thing_classes: Sequence[str] | None = None
    ) -> None:
        """See :meth:`EmbeddingClassifier.set_class_vectors`."""
        self.cls_score.set_class_vectors(vectors, thing_classes)
        self.num_classes = len(vectors)
