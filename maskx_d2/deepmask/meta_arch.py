"""
DeepMask: a network that segments the object in the middle of a patch, and says if there is one.

Shape shorthand, beside that of docs/DESIGN.md: P is the side of a patch in pixels and F in
features of the trunk, K the number of an image's proposals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from ..postprocessing import paste_masks_as_rles
from .branches import MaskBranch, ScoreBranch
from .losses import deepmask_losses
from .sampler import PatchSampler

__all__ = ["DeepMask"]


class _Scan(NamedTuple):
    """
    An image at one scale.

    ``features`` (1, C, H, W) of the trunk; ``scores`` (H', W') logits at all places of a patch;
    ``scale`` (2,) from pixels of the scaled image to pixels of the image, x before y.
    """

    features: Tensor
    scores: Tensor
    scale: Tensor


@META_ARCH_REGISTRY.register()
class DeepMask(nn.Module):
    """
    Class-agnostic mask proposals (Pinheiro, Collobert, Dollár, NIPS 2015, arXiv 1506.06204).

    In training it takes detectron2's inputs, cuts patches out of them with :class:`PatchSampler`
    and returns the losses of :func:`deepmask_losses`, which are learnt jointly. Only instances
    with a mask teach it one.

    At inference each image is scanned at several scales: the branches are convolutions, so every
    place of a patch at the trunk's stride has a score and a mask. For each input there is
    ``{"proposals": Instances}`` of the size that the input asks for with ``height`` and ``width``,
    by falling score:

    - ``proposal_boxes``: of the masks;
    - ``objectness_logits``: (K,) float;
    - ``pred_masks``: :class:`~maskx_d2.postprocessing.RLEMasks`, because a thousand bitmaps of an
      image would be large. Masks without a pixel are left out.

    Unlike the paper's alternation between the two branches, every step trains both. A trunk whose
    batch normalization learns sees patches in training and scenes at inference.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        patch_size: int = 224,
        object_size: float = 128,
        context: int = 0,
        mask_size: int = 56,
        conv_dim: int = 512,
        rank: int = 512,
        score_dims: Sequence[int] = (512, 1024),
        score_dropout: float = 0.5,
        score_weight: float = 1 / 32,
        patches_per_image: int = 16,
        positive_jitter: tuple[float, float] = (16.0, 0.25),
        negative_distance: tuple[float, float] = (32.0, 1.0),
        scales: Sequence[float] = tuple(2.0 ** (octave / 2) for octave in range(-4, 3)),
        mask_thresh: float = 0.2,
        topk: int = 1000,
        nms_thresh: float = 1.0,
        pixel_mean: Sequence[float] = (103.53, 116.28, 123.675),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """
        Args:
            backbone: the trunk, with one feature map.
            patch_size: P, with F = P / stride an even number.
            object_size, context, mask_size, conv_dim, rank, score_dims, score_dropout,
            score_weight, patches_per_image, mask_thresh, nms_thresh: see
                :func:`add_deepmask_config`.
            positive_jitter, negative_distance: see :class:`PatchSampler`.
            scales: of a scene.
            topk: K at most.
            pixel_mean, pixel_std: of each channel of images.

        Raises:
            ValueError: if the trunk has several feature maps, sizes don't fit its stride, or a
                value is out of range.
        """
        super().__init__()
        shapes = backbone.output_shape()
        if len(shapes) != 1:
            raise ValueError(
                f"DeepMask needs a backbone with one feature map, not {sorted(shapes)}; name one "
                "in MODEL.RESNETS.OUT_FEATURES."
            )
        ((self._feature, shape),) = shapes.items()
        self.backbone = backbone
        self.stride: int = shape.stride
        self.patch_size, self.context = patch_size, context
        self.scales = list(scales)
        self.mask_thresh, self.topk, self.nms_thresh = mask_thresh, topk, nms_thresh
        self.score_weight = score_weight
        self._check(object_size)
        patch = patch_size // self.stride
        self.mask_branch = MaskBranch(
            shape.channels, patch=patch, size=mask_size, conv_dim=conv_dim, rank=rank
        )
        self.score_branch = ScoreBranch(
            shape.channels, patch=patch, dims=score_dims, dropout=score_dropout
        )
        self.sampler = PatchSampler(
            patch_size=patch_size,
            object_size=object_size,
            context=context,
            mask_size=mask_size,
            patches_per_image=patches_per_image,
            positive_jitter=tuple(positive_jitter),
            negative_distance=tuple(negative_distance),
            scales=(min(scales), max(scales)),
        )
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    def _check(self, object_size: float) -> None:
        if self.patch_size % (2 * self.stride):
            raise ValueError(
                f"a patch of {self.patch_size} pixels is not an even number of features of stride "
                f"{self.stride}; set MODEL.DEEPMASK.PATCH_SIZE to a multiple of {2 * self.stride}."
            )
        if self.context < 0 or self.context % self.stride:
            raise ValueError(
                f"a context of {self.context} pixels is not a number of features of stride "
                f"{self.stride}; set MODEL.DEEPMASK.CONTEXT to 0 or a multiple of {self.stride}."
            )
        if not 0 < object_size <= self.patch_size:
            raise ValueError(
                f"an object of {object_size} pixels has no place in a patch of {self.patch_size}; "
                "set MODEL.DEEPMASK.OBJECT_SIZE to less than PATCH_SIZE."
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(
                f"images can't be scaled by {self.scales}; set MODEL.DEEPMASK.SCALES to positive "
                "numbers."
            )
        if not (0 < self.mask_thresh < 1 and 0 < self.nms_thresh <= 1 and self.topk > 0):
            raise ValueError(
                "MODEL.DEEPMASK.MASK_THRESH is to be between 0 and 1, NMS_THRESH above 0 and at "
                f"most 1, TOPK_TEST positive, but they are {self.mask_thresh}, {self.nms_thresh} "
                f"and {self.topk}."
            )

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """
        Arguments from a config with :func:`add_deepmask_config`'s keys.

        Raises:
            ValueError: if the config keeps masks from the model.
        """
        if not cfg.MODEL.MASK_ON:
            raise ValueError("DeepMask learns from masks; set MODEL.MASK_ON to True.")
        ours = cfg.MODEL.DEEPMASK
        return {
            "backbone": build_backbone(cfg),
            "patch_size": ours.PATCH_SIZE,
            "object_size": ours.OBJECT_SIZE,
            "context": ours.CONTEXT,
            "mask_size": ours.MASK_SIZE,
            "conv_dim": ours.CONV_DIM,
            "rank": ours.RANK,
            "score_dims": tuple(ours.SCORE_DIMS),
            "score_dropout": ours.SCORE_DROPOUT,
            "score_weight": ours.SCORE_WEIGHT,
            "patches_per_image": ours.PATCHES_PER_IMAGE,
            "positive_jitter": (ours.POSITIVE_SHIFT, ours.POSITIVE_OCTAVES),
            "negative_distance": (ours.NEGATIVE_SHIFT, ours.NEGATIVE_OCTAVES),
            "scales": tuple(ours.SCALES),
            "mask_thresh": ours.MASK_THRESH,
            "topk": ours.TOPK_TEST,
            "nms_thresh": ours.NMS_THRESH,
            "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
        }

    @property
    def device(self) -> torch.device:
        """The device that images are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """
        Losses in training, else proposals.

        Args:
            batched_inputs: N times ``image``, (C, H, W); in training with ``instances``, see
                :class:`PatchSampler`; at inference ``height`` and ``width`` may be given.

        Returns:
            See the class.
        """
        images = [self._normalized(x["image"]) for x in batched_inputs]
        if self.training:
            return self.losses(images, [x["instances"].to(self.device) for x in batched_inputs])
        results = []
        for x, image in zip(batched_inputs, images):
            height, width = image.shape[1:]
            size = x.get("height", height), x.get("width", width)
            results.append({"proposals": self.propose(image, size)})
        return results

    def _normalized(self, image: Tensor) -> Tensor:
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def losses(self, images: Sequence[Tensor], targets: Sequence[Instances]) -> dict[str, Tensor]:
        """
        ``loss_mask`` and ``loss_score`` of N normalized images' patches, see the class.

        A batch without any mask gives losses of zero, and zero gradients to all parameters.
        """
        sampled = [self.sampler(image, target) for image, target in zip(images, targets)]
        patches, labels, masks = (torch.cat(parts) for parts in zip(*sampled))
        if not len(labels):
            nothing = sum(p.sum() for p in self.parameters() if p.requires_grad) * 0.0
            return {"loss_mask": nothing, "loss_score": nothing}
        features = self.features(patches)
        return deepmask_losses(
            self.mask_branch(features[labels]),  # only objects have a mask loss
            masks,
            self.score_branch(features)[:, 0, 0],
            labels,
            score_weight=self.score_weight,
        )

    def features(self, images: Tensor) -> Tensor:
        """
        What the branches take.

        Args:
            images: (N, C, H, W), normalized, with the context on all sides.

        Returns:
            The trunk's features, without those of the context.
        """
        features: Tensor = self.backbone(images)[self._feature]
        cut = self.context // self.stride
        return features[:, :, cut : features.shape[2] - cut, cut : features.shape[3] - cut]

    def scene(self, image: Tensor) -> Tensor:
        """
        An image (C, H, W), so padded with zeros that patches can be around all its pixels.

        Of the result (1, C, H', W'), the patch at place (i, j) of the branches' outputs has its
        centre at pixel (stride · i, stride · j) of the image, from its first corner to beyond its
        last.
        """
        before = self.patch_size // 2 + self.context
        height, width = image.shape[1:]
        below, right = (
            2 * before + self.stride * math.ceil(side / self.stride) - before - side
            for side in (height, width)
        )
        return F.pad(image[None], (before, right, before, below))

    def propose(self, image: Tensor, output_size: tuple[int, int]) -> Instances:
        """
        The proposals of an image.

        Args:
            image: (C, H, W), normalized.
            output_size: height and width in pixels that proposals are for.

        Returns:
            See the class.
        """
        scans = [self._scan(image, scale) for scale in self.scales]
        flat = torch.cat([scan.scores.flatten() for scan in scans]).float()
        scores, order = flat.sort(descending=True, stable=True)
        scores, order = scores[: self.topk], order[: self.topk]
        hidden, patches = self._places(scans, order)
        masks = torch.sigmoid(self.mask_branch.masks(hidden).float())
        height, width = image.shape[1:]
        ratios = (output_size[1] / width, output_size[0] / height)
        patches = patches * masks.new_tensor([*ratios, *ratios])
        # Pasting interpolates: what the paper's upsampling to the patch and scaling back do.
        rles = paste_masks_as_rles(masks, patches, output_size, self.mask_thresh)
        corners = np.asarray(mask_util.toBbox(rles.rles), dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        boxes = Boxes(torch.from_numpy(corners).to(scores.device))
        proposals = Instances(output_size)
        proposals.proposal_boxes = boxes
        proposals.objectness_logits = scores
        proposals.pred_masks = rles
        proposals = proposals[boxes.nonempty()]
        if self.nms_thresh < 1:
            kept = proposals.proposal_boxes.tensor, proposals.objectness_logits
            proposals = proposals[nms(*kept, self.nms_thresh)]
        return proposals

    def _scan(self, image: Tensor, scale: float) -> _Scan:
        """Features and scores of an image (C, H, W)."""
        height, width = (max(round(scale * side), 1) for side in image.shape[1:])
        scaled = F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)
        features = self.features(self.scene(scaled[0]))
        # Both sides are rounded to pixels, so each has a scale of its own.
        to_image = image.new_tensor([image.shape[2] / width, image.shape[1] / height])
        return _Scan(features, self.score_branch(features)[0], to_image)

    def _places(self, scans: Sequence[_Scan], order: Tensor) -> tuple[Tensor, Tensor]:
        """
        The mask branch and the patches at some places of an image.

        Args:
            scans: of its scales.
            order: (K,) positions in the scans' places one after the other.

        Returns:
            (K, rank), see :meth:`MaskBranch.hidden`, and (K, 4), XYXY in pixels of the image.
        """
        found, first = [], 0
        for scan in scans:
            size = scan.scores.numel()
            (here,) = ((order >= first) & (order < first + size)).nonzero(as_tuple=True)
            places = order[here] - first
            first += size
            rows = torch.div(places, scan.scores.shape[1], rounding_mode="floor")
            columns = places % scan.scores.shape[1]
            centers = self.stride * torch.stack([columns, rows], dim=1) * scan.scale
            half = self.patch_size / 2 * scan.scale
            boxes = torch.cat([centers - half, centers + half], dim=1)
            found.append((here, self.mask_branch.hidden_at(scan.features, rows, columns), boxes))
        positions, hidden, boxes = (torch.cat(parts) for parts in zip(*found))
        back = positions.argsort()
        return hidden[back], boxes[back]
