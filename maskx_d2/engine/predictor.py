"""A trained model in two lines of Python: from an image to its instances, and to a picture."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.structures import Instances
from numpy.typing import NDArray
from torchvision.ops import nms

from ..postprocessing import rle_masks
from ..visualization import draw_instances
from .inference import PROPOSAL_NETWORKS, check_detector, load_model

__all__ = ["Predictor"]

_SAME_OBJECT = 0.5  # IoU of boxes

Image = str | os.PathLike[str] | NDArray[np.uint8]


class Predictor:
    """
    The instances that a trained model sees in an image::

        predictor = Predictor("output/config.yaml", "output/model_final.pth", confidence=0.5)
        instances = predictor("street.jpg")
        picture = predictor.draw("street.jpg", instances)

    It takes what ``train_net.py`` leaves and every other config and checkpoint that
    :func:`load_model` does, and uses a GPU where there is one. Proposals, of a DeepMask or a
    region proposal network, are instances of one category, ``object``, whose score is the
    probability that there is one.

    Attributes:
        model: the detectron2 model, in evaluation mode.
        metadata: ``thing_classes``, and ``class_split`` if the model is of a split.
        proposes: whether it gives proposals.
    """

    def __init__(
        self,
        config_file: str,
        weights: str,
        opts: Sequence[str] = (),
        *,
        confidence: float = 0.5,
        categories: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            config_file, weights, opts: see :func:`load_model`.
            confidence: instances whose score is lower are left out.
            categories: names of those to keep; None: all. Proposals are kept whatever it says.

        Raises:
            FileNotFoundError: if the config file or the checkpoint does not exist.
            ValueError: if the checkpoint is not of the config's model, or the model has no such
                category or finds no instances.
        """
        loaded = load_model(config_file, weights, opts, detector=False)
        check_detector(loaded.model, config_file, proposals=True)
        self.model = loaded.model
        self.proposes = isinstance(self.model, PROPOSAL_NETWORKS)
        self.metadata: Metadata = (
            Metadata(thing_classes=["object"]) if self.proposes else loaded.metadata
        )
        self._mapper = loaded.mapper
        self._confidence = confidence
        self._classes = None
        if categories is not None and not self.proposes:
            self._classes = self._indices(categories)

    @torch.no_grad()
    def __call__(self, image: Image, *, rles: bool = False) -> Instances:
        """
        Predict the instances of one image.

        Args:
            image: path of a file, or (H, W, 3) uint8 in BGR, as OpenCV reads it and detectron2's
                ``DefaultPredictor`` takes it.
            rles: keep masks as :class:`RLEMasks`, some kilobytes in place of R·H·W bytes.

        Returns:
            On the CPU, in the image's size: ``pred_boxes``, ``pred_classes``, ``scores`` and, if
            the model has masks, ``pred_masks`` (R, H, W) bool.

        Raises:
            FileNotFoundError, OSError: if the file can't be read.
            ValueError: if the array is no such image.
        """
        with rle_masks(self.model) if rles else nullcontext():
            output = self.model([self._model_input(image)])[0]
            output = _instances(output["proposals"]) if self.proposes else output["instances"]
        kept = output.scores >= self._confidence
        names = self.metadata.get("thing_classes")
        if names:  # categories of the model beyond the data set's had no instance in training
            kept &= output.pred_classes < len(names)
        if self._classes is not None:
            kept &= torch.isin(output.pred_classes, self._classes.to(output.pred_classes.device))
        instances: Instances = output[kept].to("cpu")
        if not rles and instances.has("pred_masks"):
            # Of a thousand proposals only those that are kept become bitmaps.
            instances.pred_masks = getattr(instances.pred_masks, "tensor", instances.pred_masks)
        return instances

    def draw(
        self, image: Image, instances: Instances | None = None, *, scale: float | None = None
    ) -> NDArray[np.uint8]:
        """
        Draw instances on their image: green for A, red for B, violet for C.

        Of proposals, which are many for each object, a picture shows those whose box has no IoU
        above 0.5 with a better one's.

        Args:
            image: as it was given to the predictor.
            instances: what that returned; None: predict them.
            scale: see :func:`draw_instances`.

        Returns:
            (H·scale, W·scale, 3) uint8 in RGB.
        """
        if instances is None:
            instances = self(image, rles=True)
        if self.proposes:
            best = nms(instances.pred_boxes.tensor, instances.scores, _SAME_OBJECT)
            instances = instances[best]
        return draw_instances(
            self.rgb(image), instances, self.metadata, min_score=-np.inf, scale=scale
        )

    @staticmethod
    def rgb(image: Image) -> NDArray[np.uint8]:
        """An image as (H, W, 3) uint8 in RGB."""
        if isinstance(image, np.ndarray):
            return np.ascontiguousarray(image[:, :, ::-1])
        pixels: NDArray[np.uint8] = read_image(os.fspath(image), format="RGB")
        return pixels

    def _model_input(self, image: Image) -> dict[str, Any]:
        if not isinstance(image, np.ndarray):
            path = os.fspath(image)
            if "://" not in path and not os.path.isfile(path):
                raise FileNotFoundError(f"file '{path}' does not exist.")
            return self._mapper({"file_name": path})
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"an image is a file name or an array of (H, W, 3) uint8 in BGR, not of "
                f"{image.shape} {image.dtype}."
            )
        # What the mapper does with a file that it has read.
        pixels = image
        if self._mapper.image_format != "BGR":
            pixels = convert_image_to_rgb(image, "BGR")
        augmented = T.AugInput(pixels)
        self._mapper.augmentations(augmented)
        tensor = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}

    def _indices(self, categories: Sequence[str]) -> torch.Tensor:
        names: list[str] = list(self.metadata.get("thing_classes") or [])
        for name in categories:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(names[:10])}"
                raise ValueError(f"the model has no category '{name}'; {hint}")
        return torch.tensor([names.index(name) for name in categories], dtype=torch.long)


def _instances(proposals: Instances) -> Instances:
    """Proposals with the fields of instances."""
    instances = Instances(proposals.image_size)
    instances.pred_boxes = proposals.proposal_boxes
    instances.scores = proposals.objectness_logits.sigmoid()
    instances.pred_classes = torch.zeros_like(instances.scores, dtype=torch.long)
    if proposals.has("pred_masks"):
        instances.pred_masks = proposals.pred_masks
    return instances
