"""Masks that a trained model makes for given boxes and categories."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from pycocotools import mask as mask_util
from torch import Tensor, nn

from ..engine.inference import LoadedModel, load_model
from ..modeling import MaskXMixin, given_instances
from ..postprocessing import postprocess_to_rles
from .boxes import box_pixels, whole_box
from .task import Box, Mask, Result, Task, why_unusable

__all__ = [
    "Labeller",
    "ModelMasks",
    "categories_of_model",
    "check_takes_boxes",
    "is_class_agnostic",
]

_BOXES_AT_ONCE = 500  # an aerial photograph may have thousands


@dataclass(frozen=True)
class Labeller:
    """
    What it takes to make masks in any process.

    Attributes:
        config_file, weights, opts: see :func:`load_model`.
        classes: category id of the JSON file → contiguous id of the model. Boxes of other
            categories get no mask.
        fields: what each mask's annotation says of it, beside its ``mask_source``.
        score_as_weight: whether its ``mask_score`` is its ``mask_weight`` too.
    """

    config_file: str
    weights: str
    opts: tuple[str, ...]
    classes: dict[int, int]
    fields: dict[str, Any]
    score_as_weight: bool = False

    def load(self) -> ModelMasks:
        """Build the model, on the GPU that this process sees or on the CPU."""
        loaded = load_model(self.config_file, self.weights, self.opts)
        return ModelMasks(loaded, self.classes, self.fields, self.score_as_weight)


class ModelMasks:
    """
    A model that makes the masks of an image's boxes.

    Boxes go to the mask branch through detectron2's path for given boxes, one image at a time, so
    that masks depend neither on the batch nor on who else is at work.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        classes: Mapping[int, int],
        fields: Mapping[str, Any],
        score_as_weight: bool = False,
    ) -> None:
        """
        Args:
            loaded: a Mask R-CNN, of this package or detectron2's own.
            classes, fields, score_as_weight: see :class:`Labeller`.

        Raises:
            TypeError: if the model has no masks, or can't be given boxes.
        """
        check_takes_boxes(loaded.model)
        self._loaded, self._classes, self._fields = loaded, classes, fields
        self._score_as_weight = score_as_weight

    def read(self, task: Task) -> tuple[Task, dict[str, Any] | str]:
        """
        The model's input, for a worker of a data loader.

        Returns:
            The task, with the input or why the image can't be used.
        """
        record = {"file_name": task.file_name, "height": task.height, "width": task.width}
        try:
            return task, self._loaded.mapper(record)
        except Exception as e:  # image decoders raise what they like
            return task, why_unusable(task, e)

    @torch.no_grad()
    def make(self, task: Task, model_input: dict[str, Any] | str) -> Result:
        """
        The masks of an image's boxes.

        Args:
            task, model_input: from :meth:`read`.
        """
        if isinstance(model_input, str):
            return Result(task, [], model_input)
        known = [
            box
            for box in task.boxes
            if box.category_id in self._classes
            and box_pixels(box.xywh, task.height, task.width) is not None
        ]
        if not known:
            return Result(task, [])
        model = self._loaded.model
        features = model.backbone(model.preprocess_image([model_input]).tensor)
        masks = []
        for start in range(0, len(known), _BOXES_AT_ONCE):
            boxes = known[start : start + _BOXES_AT_ONCE]
            masks += self._masks(task, model_input, features, boxes)
        return Result(task, masks)

    def _masks(
        self,
        task: Task,
        model_input: dict[str, Any],
        features: dict[str, Tensor],
        boxes: list[Box],
    ) -> list[Mask]:
        xywh = torch.tensor([box.xywh for box in boxes], dtype=torch.float64)
        xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        classes = torch.tensor([self._classes[box.category_id] for box in boxes])
        given = given_instances(model_input, xyxy, classes).to(self._loaded.model.device)
        inputs = [model_input | {"height": task.height, "width": task.width}]
        # As GeneralizedRCNN.inference does, which would run the backbone for each part.
        heads = self._loaded.model.roi_heads
        raw: list[Instances] = heads.forward_with_given_boxes(features, [given])
        scores = _mask_scores(raw[0].pred_masks).tolist()
        found = postprocess_to_rles(raw, inputs)[0]["instances"]
        counts = dict(zip(found.given.tolist(), (rle["counts"] for rle in found.pred_masks.rles)))
        masks = []
        for i, box in enumerate(boxes):
            rle = {"size": [task.height, task.width], "counts": counts.get(i, "")}
            if rle["counts"] and mask_util.area(rle) > 0:
                fields = {"mask_source": "model", "mask_score": round(scores[i], 4)}
            else:  # all of it is background
                whole = whole_box(box.xywh, task.height, task.width)
                rle = mask_util.encode(np.asfortranarray(whole, dtype=np.uint8))
                rle["counts"] = rle["counts"].decode("ascii")
                fields = {"mask_source": "box", "mask_score": 0.0}
            if self._score_as_weight:
                fields["mask_weight"] = fields["mask_score"]
            masks.append(Mask(box.position, rle["counts"], fields | dict(self._fields)))
        return masks


def categories_of_model(
    categories: Mapping[int, str],
    thing_classes: Sequence[str],
    *,
    renamed: Mapping[str, str] | None = None,
    skip_unknown: bool = False,
    class_agnostic: bool = False,
) -> dict[int, int]:
    """
    Which category of a model each category of a file is, by name.

    Args:
        categories: id → name, of those that have boxes without masks.
        thing_classes: the model's names, in order.
        renamed: name in the file → name in the model, where they differ.
        skip_unknown: leave out those that the model does not know.
        class_agnostic: its masks don't depend on the category, so any will do.

    Returns:
        Category id → contiguous id.

    Raises:
        ValueError: if the model does not know one, or a renamed name is not there.
    """
    renamed = dict(renamed or {})
    for old, new in renamed.items():
        if old not in categories.values():
            raise ValueError(f"no box without a mask is of category '{old}', which is renamed.")
        if new not in thing_classes:
            raise ValueError(f"the model has no category '{new}', as which '{old}' is renamed.")
    index = {name: i for i, name in enumerate(thing_classes)}
    found = {i: index.get(renamed.get(name, name)) for i, name in categories.items()}
    if class_agnostic:
        return {i: class_id or 0 for i, class_id in found.items()}
    unknown = [categories[i] for i, class_id in found.items() if class_id is None]
    if unknown and not skip_unknown:
        hints = [(u, difflib.get_close_matches(u, thing_classes, 1)) for u in unknown]
        hint = next((f" (--rename '{u}={close[0]}'?)" for u, close in hints if close), "")
        raise ValueError(
            f"the model does not know {len(unknown)} of the {len(categories)} categories: "
            f"{', '.join(unknown[:10])}{', …' if unknown[10:] else ''}{hint}. Rename them, or "
            "leave their boxes without masks by --skip-unknown."
        )
    return {i: class_id for i, class_id in found.items() if class_id is not None}


def is_class_agnostic(model: nn.Module) -> bool:
    """Whether a model's masks don't depend on the category."""
    if isinstance(model.roi_heads, MaskXMixin):
        return False
    predictor = getattr(getattr(model.roi_heads, "mask_head", None), "predictor", None)
    return getattr(predictor, "out_channels", None) == 1 and model.roi_heads.num_classes > 1


def check_takes_boxes(model: nn.Module) -> None:
    """
    Whether a model can make masks for given boxes.

    Raises:
        TypeError: if it has no masks, or can't be given boxes.
    """
    # PanopticFPN and others have an inference() of their own, to which boxes can't be given.
    if (
        not isinstance(model, GeneralizedRCNN)
        or type(model).inference is not GeneralizedRCNN.inference
    ):
        raise TypeError(
            f"masks for given boxes need a GeneralizedRCNN, not {type(model).__name__}."
        )
    if not getattr(model.roi_heads, "mask_on", False):
        raise TypeError("the model predicts no masks; give it a mask branch with maskx attach.")


def _mask_scores(masks: Tensor) -> Tensor:
    """
    How sure a mask is of its pixels: the mean probability of those that are in it.

    Args:
        masks: (R, 1, M, M) probabilities.

    Returns:
        (R,) in [0.5, 1], 0 where no pixel is in the mask. SOLO (Wang et al. 2020) calls it
        maskness.
    """
    inside = masks >= 0.5
    return (masks * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)
