"""The mask losses of RoIs whose object has a box and no mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import cat
from detectron2.structures import ImageList, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torchvision.ops import roi_align

from .box_losses import (
    box_projections,
    color_affinity,
    color_affinity_loss,
    known_background,
    known_background_loss,
    projection_loss,
    rgb_to_lab,
)

__all__ = ["BoxSupervision", "BoxTargets"]


@dataclass
class BoxTargets:
    """
    What boxes, colours and other objects say about the masks of R RoIs.

    Attributes:
        columns, rows: (R, M) float, 1 where the object's box is.
        alike: bool (R, 4, M, M), neighbouring pixels that have the same colour; all False where
            colours are not asked for.
        others: bool (R, M, M), the masks of other objects; all False where they are not asked for.
    """

    columns: Tensor
    rows: Tensor
    alike: Tensor
    others: Tensor

    @property
    def inside(self) -> Tensor:
        """(R, M, M) float, 1 in the object's box."""
        return self.rows[:, :, None] * self.columns[:, None, :]

    @property
    def background(self) -> Tensor:
        """bool (R, M, M), see :func:`known_background`."""
        return known_background(self.inside, self.others)

    def packed(self) -> Tensor:
        """As bool (R, 6, M, M): the box, ``alike``, ``others``."""
        box = self.inside[:, None].bool()
        return torch.cat([box, self.alike, self.others[:, None]], dim=1)

    @classmethod
    def unpacked(cls, packed: Tensor) -> BoxTargets:
        """What was :meth:`packed`."""
        inside = packed[:, 0]
        columns, rows = inside.any(1).float(), inside.any(2).float()
        return cls(columns, rows, packed[:, 1:-1], packed[:, -1])


class BoxSupervision(nn.Module):
    """
    Trains the mask branch on objects that have a box and no mask.

    It adds to a model's losses ``loss_box_projection`` and ``loss_color_affinity`` (BoxInst, CVPR
    2021) and ``loss_known_background`` (ours), of the foreground RoIs that
    :class:`~maskx_d2.modeling.SupervisedMasksOnly` keeps away from ``loss_mask``. It has no
    parameters.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        projection_weight: float = 1.0,
        affinity_weight: float = 0.0,
        background_weight: float = 0.0,
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
            background_weight: of the loss that no part of the mask is outside its box, nor on
                another object whose mask is known.
            affinity_threshold: how alike such pixels are at least, in [0, 1]; 0.3 in BoxInst.
            warmup_iters: iterations over which the weights grow from 0.
            pixel_mean, pixel_std, input_format: the model's, with which colours are read from its
                images: "BGR" or "RGB".

        Raises:
            ValueError: if a weight is negative, or the images are not in colour.
        """
        super().__init__()
        weights = projection_weight, affinity_weight, background_weight
        if min(*weights, warmup_iters) < 0:
            raise ValueError(
                "the weights of the box losses and their warm-up must not be negative, got "
                f"{', '.join(map(str, weights))} and {warmup_iters} (MODEL.MASKX."
                "BOX_PROJECTION_WEIGHT, BOX_AFFINITY_WEIGHT, BOX_BACKGROUND_WEIGHT, "
                "BOX_WARMUP_ITERS)."
            )
        if affinity_weight and input_format not in ("BGR", "RGB"):
            raise ValueError(
                f"the colours of images in '{input_format}' can't be compared; set INPUT.FORMAT to "
                "BGR or RGB, or MODEL.MASKX.BOX_AFFINITY_WEIGHT to 0."
            )
        self.projection_weight = projection_weight
        self.affinity_weight = affinity_weight
        self.background_weight = background_weight
        self.affinity_threshold = affinity_threshold
        self.warmup_iters = warmup_iters
        self.is_bgr = input_format == "BGR"
        # The model has them in its checkpoints already.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), persistent=False)

    @property
    def needs_no_mask(self) -> bool:
        """Whether boxes alone can train a mask head; known background can't."""
        return bool(self.projection_weight or self.affinity_weight)

    @classmethod
    def of_config(cls, cfg: Any) -> BoxSupervision | None:
        """What a yaml config asks for; None without such losses."""
        ours = cfg.MODEL.get("MASKX", {})
        weights = {
            f"{name}_weight": ours.get(f"BOX_{name.upper()}_WEIGHT", 0.0)
            for name in ("projection", "affinity", "background")
        }
        if not any(weights.values()):
            return None
        return cls(
            **weights,
            warmup_iters=ours.BOX_WARMUP_ITERS,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
        )

    @torch.no_grad()
    def targets(
        self,
        images: ImageList,
        instances: Sequence[Instances],
        ground_truth: Sequence[Instances],
        size: int,
    ) -> BoxTargets:
        """
        Args:
            images: N images as the backbone sees them.
            instances: N images' RoIs without a mask, R in all, with ``proposal_boxes`` and
                ``gt_boxes``.
            ground_truth: N images' objects, with ``gt_masks`` and ``gt_has_mask`` where there are
                masks.
            size: M.
        """
        boxes = [i.proposal_boxes.tensor for i in instances]
        rois = cat(boxes)
        # An image without objects has no RoI here, and no gt_boxes either.
        objects = [i.gt_boxes.tensor for i in instances if len(i)]
        columns, rows = box_projections(rois, cat(objects) if objects else rois, size)
        if self.affinity_weight:
            colors = roi_align(images.tensor.float(), boxes, size, aligned=True)
            colors = colors * self.pixel_std[:, None, None] + self.pixel_mean[:, None, None]
            # In full precision: half of it is as coarse as the differences that are looked for.
            with torch.autocast(colors.device.type, enabled=False):
                colors = rgb_to_lab((colors.flip(1) if self.is_bgr else colors) / 255)
                alike = color_affinity(colors) >= self.affinity_threshold
        else:
            alike = rois.new_zeros((len(rois), 4, size, size), dtype=torch.bool)
        if self.background_weight:
            parts = [_known_masks(t, b, size) for t, b in zip(ground_truth, boxes)]
            others = torch.cat(parts)
        else:
            others = rois.new_zeros((len(rois), size, size), dtype=torch.bool)
        return BoxTargets(columns, rows, alike, others)

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
            loss = color_affinity_loss(logits, targets.alike, targets.inside)
            losses["loss_color_affinity"] = loss * self.affinity_weight * grown
        if self.background_weight:
            loss = known_background_loss(logits, targets.background)
            losses["loss_known_background"] = loss * self.background_weight * grown
        return losses


def _known_masks(ground_truth: Instances, rois: Tensor, size: int) -> Tensor:
    """
    Where in an image's RoIs there is any object with a known mask: bool (R, M, M).

    No RoI is of such an object itself.
    """
    nothing = rois.new_zeros((len(rois), size, size), dtype=torch.bool)
    if not len(rois) or not ground_truth.has("gt_masks"):
        return nothing
    masks = ground_truth.gt_masks
    if ground_truth.has("gt_has_mask"):
        masks = masks[ground_truth.gt_has_mask]
    if not len(masks):
        return nothing
    if isinstance(masks, PolygonMasks):  # all at once: they make one bitmap
        polygons = [polygon for of_object in masks.polygons for polygon in of_object]
        bitmap = torch.from_numpy(polygons_to_bitmask(polygons, *ground_truth.image_size))
    else:
        bitmap = masks.tensor.any(dim=0)
    any_mask = bitmap.to(rois)
    return roi_align(any_mask[None, None], [rois], size, aligned=True)[:, 0] >= 0.5
