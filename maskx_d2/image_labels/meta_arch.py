"""
A fully convolutional classifier of whole images, whose response maps have peaks on objects.

Shape shorthand, beside that of docs/DESIGN.md: h×w is the size of an image's feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from .peak_backprop import peak_backprop, response_map
from .peaks import find_peaks, peak_stimulation

__all__ = ["PeakResponseClassifier", "Peaks"]


@dataclass(frozen=True)
class Peaks:
    """
    Where an image's categories respond most, on the CPU.

    They are in the order of the categories that were looked for, for each by falling response.

    Attributes:
        classes: (P,) int64.
        points: (P, 2) float x, y in pixels of the image, 0.5 the middle of the first.
        responses: (P,) float, logits.
    """

    classes: Tensor
    points: Tensor
    responses: Tensor
    _logits: list[Tensor]  # the responses, of which the image's gradient can be asked for
    _image: Tensor
    _size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.classes)

    def map(self, i: int) -> Tensor:
        """
        Which pixels the response of peak ``i`` is made of: (H, W) float, of sum 1.

        Each call goes back through the whole network.
        """
        height, width = self._size
        return response_map(self._logits[i], self._image)[:height, :width].detach().cpu()


@META_ARCH_REGISTRY.register()
class PeakResponseClassifier(nn.Module):
    """
    Image labels with peak stimulation (Zhou et al., CVPR 2018, arXiv 1804.00880), the first stage
    of "Where are the Masks" (Laradji et al., BMVC 2019, arXiv 1907.01430).

    A 1×1 convolution makes a response map of each category, the mean of whose peaks is the
    category's logit. The loss is the multi-label soft margin loss: the mean over categories of
    the logistic loss. Both papers train so.

    In training it takes detectron2's inputs. The labels of an image are ``image_labels``, a list
    of contiguous category ids, which data sets have whose split has categories with labels only;
    where there is no such key, they are the categories of ``instances``.

    At inference there is ``{"image_scores": (K,) probabilities}`` for each input, on the CPU. Where
    the categories are is what :meth:`peaks` says.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        window: int = 3,
        pixel_mean: Sequence[float] = (103.53, 116.28, 123.675),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """
        Args:
            backbone: with one feature map.
            num_classes: K.
            window: of :func:`find_peaks`.
            pixel_mean, pixel_std: of each channel of images.

        Raises:
            ValueError: if the backbone has several feature maps, or the window is not odd.
        """
        super().__init__()
        shapes = backbone.output_shape()
        if len(shapes) != 1:
            raise ValueError(
                "PeakResponseClassifier needs a backbone with one feature map, not "
                f"{sorted(shapes)}; name one in MODEL.RESNETS.OUT_FEATURES."
            )
        if window < 1 or window % 2 == 0:
            raise ValueError(
                f"a window of {window} features has no middle; set MODEL.IMAGE_LABELS.WINDOW to an "
                "odd number such as 3."
            )
        ((self._feature, shape),) = shapes.items()
        self.backbone = backbone
        self.stride: int = shape.stride
        # Of networks that pad before they stride, such as ResNets, features begin on the first
        # pixel; a backbone that is different says where.
        self.first_center: float = getattr(backbone, "first_center", 0.5)
        self.num_classes, self.window = num_classes, window
        self.classifier = nn.Conv2d(shape.channels, num_classes, kernel_size=1)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """
        Arguments from a config with :func:`add_image_labels_config`'s keys.

        Raises:
            ValueError: if the config keeps images without instances from the model.
        """
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            raise ValueError(
                "PeakResponseClassifier learns from images that have labels and no instance; set "
                "DATALOADER.FILTER_EMPTY_ANNOTATIONS to False."
            )
        return {
            "backbone": build_backbone(cfg),
            "num_classes": cfg.MODEL.IMAGE_LABELS.NUM_CLASSES,
            "window": cfg.MODEL.IMAGE_LABELS.WINDOW,
            "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
        }

    @property
    def device(self) -> torch.device:
        """The device that images are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """
        The loss in training, else probabilities of labels.

        Args:
            batched_inputs: N times ``image``, (C, H, W); in training with ``image_labels`` or
                ``instances``.

        Returns:
            See the class.
        """
        images = self._preprocessed(batched_inputs)
        responses = self.responses(images.tensor)
        logits = peak_stimulation(responses, self._valid(images, responses), window=self.window)
        if self.training:
            targets = torch.stack([self._target(x) for x in batched_inputs])
            return {"loss_labels": F.multilabel_soft_margin_loss(logits.float(), targets)}
        return [{"image_scores": scores} for scores in logits.detach().float().sigmoid().cpu()]

    def responses(self, images: Tensor) -> Tensor:
        """
        The class response maps.

        Args:
            images: (N, C, H, W), normalized.

        Returns:
            (N, K, h, w) logits.
        """
        maps: Tensor = self.classifier(self.backbone(images)[self._feature])
        return maps

    @torch.enable_grad()
    def peaks(
        self, model_input: dict[str, Any], classes: Sequence[int], min_response: float
    ) -> Peaks:
        """
        Where an image's categories are. The model is to be in evaluation mode.

        Args:
            model_input: of one image, as :meth:`forward` takes it.
            classes: the categories that are looked for, contiguous, such as the image's labels.
            min_response: peaks with a smaller logit are left out, but not the largest of a
                category: what labels an image is in it.

        Returns:
            Of the image as it is in ``model_input``.
        """
        images = self._preprocessed([model_input])
        tensor = images.tensor.detach().requires_grad_()
        with peak_backprop():
            responses = self.responses(tensor)
        valid = self._valid(images, responses)
        is_peak = find_peaks(responses.detach(), valid, window=self.window)[0]
        found, logits = [], []
        for class_id in classes:
            places = is_peak[class_id].nonzero()
            values, order = responses[0, class_id][is_peak[class_id]].sort(
                descending=True, stable=True
            )
            count = max(int((values >= min_response).sum()), 1)
            for value, place in zip(values[:count], places[order].tolist()):
                found.append((class_id, place[1], place[0], value.item()))
                logits.append(value)
        table = torch.tensor(found, dtype=torch.float64).reshape(-1, 4)
        return Peaks(
            table[:, 0].long(),
            (table[:, 1:3] * self.stride + self.first_center).float(),
            table[:, 3].float(),
            logits,
            tensor,
            images.image_sizes[0],
        )

    def _preprocessed(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def _valid(self, images: ImageList, responses: Tensor) -> Tensor:
        """Bool (N, 1, h, w): what of the maps is of the images, and not of their padding."""
        valid = torch.zeros_like(responses[:, :1], dtype=torch.bool)
        for mask, (height, width) in zip(valid, images.image_sizes):
            mask[:, : math.ceil(height / self.stride), : math.ceil(width / self.stride)] = True
        return valid

    def _target(self, x: dict[str, Any]) -> Tensor:
        """(K,): 1 for the labels of an image."""
        labels = x.get("image_labels")
        if labels is None:
            labels = x["instances"].gt_classes.tolist()
        target = torch.zeros(self.num_classes, device=self.device)
        target[list(labels)] = 1
        return target
