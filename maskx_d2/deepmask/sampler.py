"""Training patches with and without an object, cut out of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import Instances
from torch import Tensor

from .patches import canonical_patches, jittered, patch_boxes, sample_negatives

__all__ = ["PatchSampler", "Patches"]


class Patches(NamedTuple):
    """
    Training patches.

    ``images`` (R, C, P, P), float; ``labels`` (R,) bool, which have an object; ``masks``
    (number of these, M, M) bool, in their order.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor


class PatchSampler:
    """
    Cuts patches out of an image (Pinheiro et al., NIPS 2015, section 3).

    Half of them are positives: an object with a mask, about in the middle and of about canonical
    size. The other half are negatives, away from where any object belongs, whether it has a mask
    or not: an object of set B is an object. An image without any mask has no patches. What stands
    in for missing masks (see :class:`~maskx_d2.data.PartialMaskDatasetMapper`) is not read. Crowds
    are not among detectron2's instances, so a negative may be of one. Half of the patches are
    mirrored.

    The random numbers are PyTorch's.
    """

    def __init__(
        self,
        *,
        patch_size: int,
        object_size: float,
        context: int,
        mask_size: int,
        patches_per_image: int,
        positive_jitter: tuple[float, float],
        negative_distance: tuple[float, float],
        scales: tuple[float, float],
    ) -> None:
        """
        Args:
            patch_size, object_size: see :func:`add_deepmask_config`, as all that follow.
            context: pixels that are added to the patch on each side.
            mask_size: M.
            patches_per_image: half of them with an object.
            positive_jitter: the most, and
            negative_distance: the least distance from an object's patch: pixels of the patch, and
                octaves of scale.
            scales: the smallest and the largest scale of patches without an object.

        Raises:
            ValueError: if positives reach as far as negatives, or there is no pair of patches.
        """
        if patches_per_image < 2 or patches_per_image % 2:
            raise ValueError(
                f"{patches_per_image} patches of an image can't be with and without an object by "
                "halves; set MODEL.DEEPMASK.PATCHES_PER_IMAGE to an even number."
            )
        if any(p >= n for p, n in zip(positive_jitter, negative_distance)):
            raise ValueError(
                f"patches with an object are up to {positive_jitter} (pixels, octaves) from where "
                f"it belongs and those without at least {negative_distance}; set "
                "MODEL.DEEPMASK.POSITIVE_SHIFT and POSITIVE_OCTAVES below NEGATIVE_SHIFT and "
                "NEGATIVE_OCTAVES."
            )
        self.patch_size, self.object_size, self.context = patch_size, object_size, context
        self.mask_size, self.patches_per_image = mask_size, patches_per_image
        self.positive_jitter, self.negative_distance = positive_jitter, negative_distance
        self.scales = scales

    def __call__(self, image: Tensor, target: Instances) -> Patches:
        """
        Sample an image's patches.

        Args:
            image: (C, H, W) float, normalized: outside of it patches are 0.
            target: ``gt_boxes``, ``gt_masks`` and ``gt_has_mask``, which may lack: then all have a
                mask if there are ``gt_masks``, and else none has.
        """
        with torch.no_grad():
            positives, objects = self._positives(target)
            negatives = self._negatives(target, len(positives))
            masks = self._masks(target, positives, objects).to(image.device)
            patches = torch.cat([positives, negatives]).to(image.device)
            images = self._crops(image, patches)
            labels = torch.arange(len(patches), device=image.device) < len(positives)
            mirrored = torch.rand(len(patches), device=image.device) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
            masks[mirrored[labels]] = masks[mirrored[labels]].flip(-1)
            return Patches(images, labels, masks)

    def _positives(self, target: Instances) -> tuple[Tensor, Tensor]:
        """Patches (P, 3) with an object, and which object each has, (P,)."""
        with_mask = _has_mask(target).nonzero()[:, 0]
        if not len(with_mask):
            return target.gt_boxes.tensor.new_empty(0, 3), with_mask
        drawn = torch.randint(
            len(with_mask), (self.patches_per_image // 2,), device=with_mask.device
        )
        objects = with_mask[drawn]
        shift, octaves = self.positive_jitter
        canonical = canonical_patches(target.gt_boxes.tensor[objects], self.object_size)
        return jittered(canonical, shift=shift, octaves=octaves), objects

    def _negatives(self, target: Instances, count: int) -> Tensor:
        shift, octaves = self.negative_distance
        return sample_negatives(
            count,
            canonical_patches(target.gt_boxes.tensor, self.object_size),
            target.image_size,
            self.scales,
            shift=shift,
            octaves=octaves,
        )

    def _masks(self, target: Instances, patches: Tensor, objects: Tensor) -> Tensor:
        if not len(objects):
            return torch.zeros(0, self.mask_size, self.mask_size, dtype=torch.bool)
        boxes = patch_boxes(patches, self.patch_size)
        masks: Tensor = target.gt_masks[objects].crop_and_resize(boxes, self.mask_size)
        return masks

    def _crops(self, image: Tensor, patches: Tensor) -> Tensor:
        # It averages where the image is made smaller, and gives 0 outside of it.
        size = self.patch_size + 2 * self.context
        crop = ROIAlign((size, size), spatial_scale=1.0, sampling_ratio=0, aligned=True)
        boxes = patch_boxes(patches, size).to(image.dtype)
        crops: Tensor = crop(image[None], torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1))
        return crops


def _has_mask(target: Instances) -> Tensor:
    if target.has("gt_has_mask"):
        return target.gt_has_mask
    return torch.full((len(target),), target.has("gt_masks"), device=target.gt_boxes.device)
