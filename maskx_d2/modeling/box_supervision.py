"""The mask losses of RoIs whose object has a box and no mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import cat
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torchvision.ops import roi_align

from .box_losses import (
    box_projections,
    color_affinity,
    color_affinity_loss,
    projection_loss,
    rgb_to_lab,
)

__all__ = ["BoxSupervision", "BoxTargets"]


@dataclass
class BoxTargets:
    """
    What boxes and colours say about the masks of R RoIs.

    Attributes:
        columns, rows: (R, M) float, 1 where the object's box is.
        alike: bool (R, 4, M, M), neighbouring pixels that have the same colour; all False where
            colours are not asked for.
    """

    columns: Tensor
    rows: Tensor
    alike: Tensor

    def packed(self) -> Tensor:
        """As bool (R, 5, M, M): the box, then ``alike``."""
        inside = self.rows[:, :, None] * self.columns[:, None, :]
        return torch.cat([inside[:, None].bool(), self.alike], dim=1)

    @classmethod
    def unpacked(cls, packed: Tensor) -> BoxTargets:
        """What was :meth:`packed`."""
        inside = packed[:, 0]
        return cls(inside.any(1).float(), inside.any(2).float(), packed[:, 1:])


class BoxSupervision(nn.Module):
    """
    Trains the mask branch on objects that have a box and no mask (BoxInst, CVPR 2021).

    It adds to a model's losses ``loss_box_projection`` and ``loss_color_affinity``, of the
    foreground RoIs that :class:`~maskx_d2.modeling.SupervisedMasksOnly` keeps away from
    ``loss_mask``. It has no parameters.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        projection_weight: float = 1.0,
        affinity_weight: float = 0.0,
        affinity_threshold: float = 0.3,
        warmup_iters: int = 0,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
    ) -> None:
        """
        Args:
            projection_weight: of the loss that the mask's extents are the box's.
            affinity_weight: of the loss that neighbouring pixels of the same colour are on the
                same side of the contour; 0 leaves colours alone.
            affinity_threshold: how alike such pixels are at least, in [0, 1]; 0.3 in BoxInst.
            warmup_iters: iterations over which both weights grow from 0.
            pixel_mean, pixel_std, input_format: the model's, with which colours are read from its
                images: "BGR" or "RGB".

        Raises:
            ValueError: if a weight is negative, or the images are not in colour.
        """
        super().__init__()
        if min(projection_weight, affinity_weight, warmup_iters) < 0:
            raise ValueError(
                "the weights of the box losses and their warm-up must not be negative, got "
                f"{projection_weight}, {affinity_weight} and {warmup_iters} "
                "(MODEL.MASKX.BOX_PROJECTION_WEIGHT, BOX_AFFINITY_WEIGHT, BOX_WARMUP_ITERS)."
            )
        if affinity_weight and input_format not in ("BGR", "RGB"):
            raise ValueError(
                f"the colours of images in '{input_format}' can't be compared; set INPUT.FORMAT to "
                "BGR or RGB, or MODEL.MASKX.BOX_AFFINITY_WEIGHT to 0."
            )
        self.projection_weight = projection_weight
        self.affinity_weight = affinity_weight
        self.affinity_threshold = affinity_threshold
        self.warmup_iters = warmup_iters
        self.is_bgr = input_format == "BGR"
        # The model has them in its checkpoints already.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), persistent=False)

    @classmethod
    def of_config(cls, cfg: Any) -> BoxSupervision | None:
        """What a yaml config asks for; None without such losses."""
        ours = cfg.MODEL.get("MASKX", {})
        projection = ours.get("BOX_PROJECTION_WEIGHT", 0.0)
        affinity = ours.get("BOX_AFFINITY_WEIGHT", 0.0)
        if not projection and not affinity:
            return None
        return cls(
            projection_weight=projection,
            affinity_weight=affinity,
            warmup_iters=ours.BOX_WARMUP_ITERS,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
        )

    @torch.no_grad()
    def targets(self, images: ImageList, instances: Sequence[Instances], size: int) -> BoxTargets:
        """
        Args:
            images: N images as the backbone sees them.
            instances: N images' RoIs, R in all, with ``proposal_boxes`` and ``gt_boxes``.
            size: M.
        """
        rois = cat([i.proposal_boxes.tensor for i in instances])
        columns, rows = box_projections(rois, cat([i.gt_boxes.tensor for i in instances]), size)
        if self.affinity_weight:
            boxes = [i.proposal_boxes.tensor for i in instances]
            colors = roi_align(images.tensor.float(), boxes, size, aligned=True)
            colors = colors * self.pixel_std[:, None, None] + self.pixel_mean[:, None, None]
            colors = rgb_to_lab((colors.flip(1) if self.is_bgr else colors) / 255)
            alike = color_affinity(colors) >= self.affinity_threshold
        else:
            alike = rois.new_zeros((len(rois), 4, size, size), dtype=torch.bool)
        return BoxTargets(columns, rows, alike)

    def forward(self, logits: Tensor, targets: BoxTargets) -> dict[str, Tensor]:
        """
        Args:
            logits: (R, M, M), of each RoI's own category.
            targets: of the same RoIs.

        Returns:
            The weighted losses; zero with a gradient where there is no RoI.
        """
        storage = get_event_storage()
        storage.put_scalar("mask_head/num_box_supervised_rois", len(logits))
        grown = min(1.0, (storage.iter + 1) / self.warmup_iters) if self.warmup_iters else 1.0
        losses = {}
        if self.projection_weight:
            loss = projection_loss(logits, targets.columns, targets.rows)
            losses["loss_box_projection"] = loss * self.projection_weight * grown
        if self.affinity_weight:
            inside = targets.rows[:, :, None] * targets.columns[:, None, :]
            loss = color_affinity_loss(logits, targets.alike, inside)
            losses["loss_color_affinity"] = loss * self.affinity_weight * grown
        return losses
