"""Stage-wise training on cached RoIs in place of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from ..modeling.box_supervision import BoxTargets
from .roi_cache import CachedBatch, ShuffledRoIs
from .roi_collecting import collect_rois

__all__ = ["CachedMaskBranch", "check_roi_cache", "train_on_rois"]


class CachedMaskBranch(nn.Module):
    """The mask branch of a model, trained on cached RoIs in place of images."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: a model whose detector is frozen, see :func:`freeze_detector`. It stays whole:
                what trains are its own parameters.
        """
        super().__init__()
        self.whole = model

    def forward(self, rois: CachedBatch) -> dict[str, Tensor]:
        """The losses of the mask branch, as the model itself gives them for images."""
        heads, device = self.whole.roi_heads, next(self.whole.parameters()).device
        losses: dict[str, Tensor] = {}
        if rois.masks is not None:
            instances = Instances((1, 1))
            # The masks are cropped already, so where the boxes were does not matter.
            instances.proposal_boxes = Boxes(torch.zeros(len(rois.masks.classes), 4, device=device))
            instances.gt_classes = rois.masks.classes.to(device)
            instances.gt_masks = _CroppedMasks(rois.masks.targets.to(device))
            losses.update(heads.mask_head(rois.masks.features.to(device).float(), [instances]))
        if rois.boxes is not None:
            features = rois.boxes.features.to(device).float()
            logits = heads.mask_logits(features, rois.boxes.classes.to(device))
            targets = BoxTargets.unpacked(rois.boxes.targets.to(device))
            losses.update(heads.box_supervision(logits, targets))
        return losses


class _CroppedMasks:
    """In the place of :class:`BitMasks`: what their ``crop_and_resize`` would return."""

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets

    def __len__(self) -> int:
        return len(self._targets)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        if mask_size != self._targets.shape[-1]:
            raise ValueError(
                f"the cached masks are {self._targets.shape[-1]} pixels wide, but the mask head "
                f"predicts {mask_size}; give it another folder for its cache."
            )
        return self._targets


def check_roi_cache(folder: str, is_frozen: bool, sampler: str = "TrainingSampler") -> None:
    """
    Whether a training can use a cache.

    Args:
        folder: the setting, "" for none.
        is_frozen: whether the detector is.
        sampler: name of the training's sampler.

    Raises:
        ValueError: if the detector is not frozen, there are several processes, or images are
            not to be seen equally often.
    """
    if folder and not is_frozen:
        raise ValueError(
            "a RoI cache is for stage-wise training: set MODEL.MASKX.FREEZE_DETECTOR to True "
            "(train.freeze_detector), or ROI_CACHE to ''."
        )
    if folder and sampler != "TrainingSampler":
        raise ValueError(
            f"a RoI cache shows all RoIs equally often, which sampler '{sampler}' does not; set "
            "ROI_CACHE to '', or DATALOADER.SAMPLER_TRAIN to TrainingSampler."
        )
    if folder and comm.get_world_size() > 1:
        raise ValueError("a RoI cache is for one process; train with --num-gpus 1.")


def train_on_rois(
    trainer: SimpleTrainer,
    folder: str,
    dataset_dicts: list[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], Any],
    *,
    settings: str,
    seed: int,
    num_workers: int,
    images_per_batch: int,
) -> ShuffledRoIs:
    """
    Let a trainer train on cached RoIs from now on; its model's weights have been loaded.

    ``trainer.model`` is a :class:`CachedMaskBranch` afterwards, whose ``whole`` is the model.

    Args:
        trainer: of a model whose detector is frozen.
        images_per_batch: see :class:`ShuffledRoIs`.
        folder, dataset_dicts, mapper, settings, seed, num_workers: see :func:`collect_rois`.

    Returns:
        The trainer's new data loader.
    """
    model = trainer.model.whole if isinstance(trainer.model, CachedMaskBranch) else trainer.model
    cache = collect_rois(
        folder,
        model.train(),
        dataset_dicts,
        mapper,
        settings=settings,
        seed=seed,
        num_workers=num_workers,
    )
    trainer.model = CachedMaskBranch(model)
    trainer.data_loader = ShuffledRoIs(cache, images_per_batch, seed)
    return trainer.data_loader
