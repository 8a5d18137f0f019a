"""
Models whose categories are given by vectors and can be changed after training.

Both halves of such a model are functions of a category's vector: the classifier compares RoIs with
it, and the weight transfer function T makes the mask predictor from it. A vector for a name
that was never trained gives boxes and masks of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from torch import Tensor, nn

from .embedding_box_predictor import EmbeddingFastRCNNOutputLayers
from .roi_heads import MaskXROIHeads

__all__ = ["OpenVocabularyMaskXROIHeads", "set_vocabulary"]


@ROI_HEADS_REGISTRY.register()
class OpenVocabularyMaskXROIHeads(MaskXROIHeads):
    """
    Mask^X on detectron2's standard ROI heads, with the vectors that T sees as the classifier.

    There is one matrix of vectors, ``box_predictor.cls_score.class_vectors``, (K, D) of length 1
    each. :func:`set_vocabulary` changes it. There is no such form of cascade and C4 ROI heads.
    """

    @configurable
    def __init__(
        self,
        *,
        box_predictor: nn.Module,
        class_embedding: Tensor | None = None,
        transfer_input: str = "embedding",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            box_predictor: an :class:`EmbeddingFastRCNNOutputLayers`; its vectors become those of
                ``class_embedding``.
            class_embedding: a fixed vector for each of the K categories, (K, D) float, of any
                length but 0.
            transfer_input: ``"embedding"``.
            **kwargs: arguments of :class:`MaskXROIHeads`.

        Raises:
            ValueError: if T's input is another, or the vectors are not K of D numbers.
            TypeError: if the box predictor is another.
        """
        if transfer_input != "embedding" or class_embedding is None:
            raise ValueError(_needs_embedding(transfer_input))
        if not isinstance(box_predictor, EmbeddingFastRCNNOutputLayers):
            raise TypeError(
                f"{type(self).__name__} needs an EmbeddingFastRCNNOutputLayers as "
                f"roi_heads.box_predictor, not {type(box_predictor).__name__}; "
                "apply_open_vocabulary sets it."
            )
        box_predictor.set_class_vectors(class_embedding)
        super().__init__(
            box_predictor=box_predictor,
            class_embedding=class_embedding,
            transfer_input=transfer_input,
            **kwargs,
        )
        del self.class_embedding  # a second copy, which could go out of step

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """See :meth:`StandardROIHeads.from_config`."""
        ret = super().from_config(cfg, input_shape)
        if "class_embedding" not in ret:
            raise ValueError(_needs_embedding(ret["transfer_input"]))
        ret["box_predictor"] = EmbeddingFastRCNNOutputLayers(
            cfg, ret["box_head"].output_shape, class_vectors=ret["class_embedding"]
        )
        return ret

    def set_class_vectors(
        self, vectors: Tensor | np.ndarray, thing_classes: Sequence[str] | None = None
    ) -> None:
        """See :func:`set_vocabulary`."""
        self.box_predictor.set_class_vectors(vectors, thing_classes)
        self.num_classes = len(vectors)
        self._cached_class_weights = None  # it is told by parameters, and these are none

    def _class_vectors(self, classes: Tensor | None = None) -> Tensor:
        vectors: Tensor = self.box_predictor.cls_score.class_vectors
        return vectors if classes is None else vectors[classes]


def set_vocabulary(
    model: nn.Module, thing_classes: Sequence[str], vectors: Tensor | np.ndarray
) -> nn.Module:
    """
    Give a model other categories, by their vectors.

    Nothing is trained and no parameter changes. Scores are a softmax over the new categories and
    the background, so a box's score depends on what else is asked for.

    Args:
        model: with :class:`OpenVocabularyMaskXROIHeads`. It is changed in place, any number of
            times. A checkpoint can be loaded before or after, whatever its categories were.
        thing_classes: K' names, in the order that ``pred_classes`` then means. The model does
            not keep them: for pictures, set them in the data set's ``MetadataCatalog`` too.
        vectors: (K', D) real numbers, a row for each name, by the embedding that the model is
            trained with, see :func:`load_class_embedding`. Their lengths don't matter.

    Returns:
        ``model``, for chaining.

    Raises:
        TypeError: if the model has other ROI heads.
        ValueError: if the names are not one for each row, or a name is there twice, or the
            vectors have another D, or one is zero or not finite.
    """
    roi_heads = getattr(model, "roi_heads", None)
    if not isinstance(roi_heads, OpenVocabularyMaskXROIHeads):
        what = type(model if roi_heads is None else roi_heads).__name__
        raise TypeError(
            f"the categories of a model with {what} can't be changed after training; build and "
            "train it with MODEL.ROI_HEADS.NAME OpenVocabularyMaskXROIHeads, or "
            "apply_open_vocabulary."
        )
    names = list(thing_classes)
    if len(names) != len(vectors):
        raise ValueError(
            f"there are {len(names)} names in thing_classes, but {len(vectors)} vectors; give a "
            "vector for each name."
        )
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"thing_classes names '{twice}' more than once; name each once.")
    roi_heads.set_class_vectors(vectors, names)
    return model


def _needs_embedding(transfer_input: str) -> str:
    return (
        f"OpenVocabularyMaskXROIHeads needs vectors of the categories, but T's input is "
        f"'{transfer_input}': set MODEL.MASKX.TRANSFER_INPUT to 'embedding' and EMBEDDING_FILE to "
        "a file of them, or use apply_open_vocabulary."
    )
