"""
What a frozen detector hands to the mask head, kept in files.

In stage-wise training (paper, section 3.3) the images, the backbone, the proposals and the box
head give the mask head the same features in every epoch. Computed once, a mask branch trains in a
fraction of the time, and so does the next one on the same detector and data.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from tqdm import tqdm

from ..data.dataset_hash import dataset_hash
from ..data.train_loader import SeededMapper, derived_seed, random_state_kept
from ..modeling.box_supervision import BoxTargets
from ..modeling.freeze import MASK_MODULES
from .roi_cache import CachedRoIs, RoICache, RoIWriter

__all__ = ["RoIRecorder", "collect_rois", "frozen_weights_hash"]

logger = logging.getLogger(__name__)

_FORMAT = "masks, boxes and others"  # of the files, so that others are left alone


def frozen_weights_hash(model: nn.Module) -> str:
    """A hash of all weights that :func:`freeze_detector` freezes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith((*MASK_MODULES, "roi_heads.class_embedding")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def collect_rois(
    folder: str | os.PathLike[str],
    model: nn.Module,
    dataset_dicts: list[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], Any],
    *,
    settings: str,
    seed: int = 0,
    num_workers: int = 0,
    batch_size: int = 4,
) -> RoICache:
    """
    Run a frozen detector over a training set once, and keep what reaches its mask head.

    Each image is augmented once, and its RoIs are sampled once, as in training but in float32;
    those without a mask are left out. A cache of the same detector, data and settings that is in
    the folder already is used.

    Args:
        folder: for caches; each has a folder of its own below it.
        model: in training mode, its detector frozen.
        dataset_dicts: the training set.
        mapper: of the training.
        settings: all else that the RoIs depend on, as text.
        seed: of augmentation and sampling.
        num_workers, batch_size: of the data loader. They don't change what is kept, apart from
            how images are padded in a batch.

    Raises:
        ValueError: if no RoI has a mask, the mask head is none that sees one tensor of RoI
            features, or the disk is too small.
    """
    key = [_FORMAT, frozen_weights_hash(model), dataset_hash(dataset_dicts), settings]
    key += [seed, batch_size]
    key += _mask_training_of(model)
    folder = Path(folder, hashlib.sha256("\n".join(map(str, key)).encode()).hexdigest()[:16])
    if not folder.is_dir():
        _remove_abandoned(folder)
        # Another process may be filling it as well: whoever is done first names the folder.
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        try:
            _collect(unfinished, model, dataset_dicts, mapper, seed, num_workers, batch_size)
            with contextlib.suppress(OSError):  # it is there by now
                unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    cache = RoICache(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*.bin"))
    without = f", {len(cache.boxes)} of them with a box alone," if cache.boxes else ""
    logger.info(
        f"Training on {len(cache)} RoIs{without} of {cache.num_images} images in {folder} "
        f"({size / 2**30:.2f} GB), not on images."
    )
    return cache


def _mask_training_of(model: nn.Module) -> list[Any]:
    """The options of the mask head's training that decide which RoIs are kept, and with what."""
    heads = model.roi_heads
    options: list[Any] = []
    if getattr(heads, "mask_rois", "proposals") != "proposals":
        options += [heads.mask_rois, heads.mask_roi_jitter]
    supervision = getattr(heads, "box_supervision", None)
    if supervision is not None:
        options += ["boxes", supervision.affinity_weight > 0, supervision.affinity_threshold]
        options += [supervision.background_weight > 0]
    return options


def _remove_abandoned(folder: Path) -> None:
    """What a process that was killed has left of this cache."""
    for unfinished in folder.parent.glob(f"{folder.name}.*"):
        pid = unfinished.suffix[1:]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(unfinished, ignore_errors=True)


def _collect(
    folder: Path,
    model: nn.Module,
    dataset_dicts: list[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], Any],
    seed: int,
    num_workers: int,
    batch_size: int,
) -> None:
    loader = build_detection_test_loader(
        list(enumerate(dataset_dicts)),
        mapper=SeededMapper(mapper, seed),
        num_workers=num_workers,
        batch_size=batch_size,
    )
    recorder = RoIRecorder(model)
    parts = {"masks": RoIWriter(folder / "masks")}
    if recorder.records_boxes:
        parts["boxes"] = RoIWriter(folder / "boxes")
    with (
        tqdm(total=len(dataset_dicts), unit="image", desc="RoI features") as bar,
        random_state_kept(next(model.parameters()).device),
    ):
        for i, batch in enumerate(loader):
            torch.manual_seed(derived_seed(seed, i))  # workers take random numbers as well
            for part, rois in recorder(batch):
                parts[part].write(rois)
            bar.update(len(batch))
            size = sum(writer.size for writer in parts.values())
            _check_disk(folder, size * (bar.total - bar.n) // max(bar.n, 1))
    if not sum(writer.size for writer in parts.values()):
        raise ValueError(
            "no RoI of the training set has a mask"
            f"{' or is of an object' if recorder.records_boxes else ''}, so there is nothing to "
            "cache."
        )
    (folder / "about.json").write_text(json.dumps({"images": len(dataset_dicts)}))


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the RoI cache needs {needed / 2**30:.0f} GB more, but {folder} has "
            f"{free / 2**30:.0f} GB free; name a folder on a larger disk, sample fewer RoIs an "
            "image (MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE), or train without a cache."
        )


class RoIRecorder:
    """Runs a model as in training, and catches what its mask branch is given."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._heads = model.roi_heads
        self._head = model.roi_heads.mask_head
        self.records_boxes = getattr(self._heads, "box_supervision", None) is not None
        self._caught: list[tuple[str, CachedRoIs]] = []

    @torch.no_grad()
    def __call__(self, batch: list[dict[str, Any]]) -> list[tuple[str, CachedRoIs]]:
        """The batch's RoIs, each time with their part of the cache: "masks" or "boxes"."""
        self._caught = []
        with self._watched(), EventStorage():  # whose figures are of no training
            self._model(batch)
        return self._caught

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        forward = self._head.forward
        self._head.forward = functools.partial(self._catch_masks, forward)
        if self.records_boxes:
            logits = self._heads.mask_logits
            self._heads.mask_logits = functools.partial(self._catch_boxes, logits)
            hook = self._heads.box_supervision.register_forward_pre_hook(self._catch_targets)
        try:
            yield
        finally:
            del self._head.forward  # the class's own is back
            if self.records_boxes:
                del self._heads.mask_logits
                hook.remove()

    def _catch_masks(
        self, forward: Callable[..., Any], features: Any, instances: list[Instances], **kwargs: Any
    ) -> Any:
        if not isinstance(features, Tensor):
            raise ValueError(
                f"mask head {type(self._head).__name__} is not given one tensor of RoI features, "
                "so they can't be cached; train without a cache."
            )
        watched = []
        for each in instances:
            copy = Instances(each.image_size, **each.get_fields())
            if len(each):
                copy.gt_masks = _WatchedMasks(each.gt_masks)
            watched.append(copy)
        losses = forward(features, watched, **kwargs)
        targets = [w.gt_masks.cropped for w in watched if len(w)]
        if targets:
            classes = torch.cat([w.gt_classes for w in watched if len(w)])
            rois = CachedRoIs(features, torch.cat(targets).bool(), classes)
            self._caught.append(("masks", rois))
        return losses

    def _catch_boxes(
        self, mask_logits: Callable[[Tensor, Tensor], Tensor], features: Tensor, classes: Tensor
    ) -> Tensor:
        self._box_features, self._box_classes = features, classes
        return mask_logits(features, classes)

    def _catch_targets(self, _: nn.Module, args: tuple[Tensor, BoxTargets]) -> None:
        rois = CachedRoIs(self._box_features, args[1].packed(), self._box_classes)
        self._caught.append(("boxes", rois))


class _WatchedMasks:
    """Ground-truth masks that remember what they were last cropped to."""

    def __init__(self, masks: Any) -> None:
        self._masks = masks
        self.cropped: Tensor

    def __len__(self) -> int:
        return len(self._masks)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        self.cropped = self._masks.crop_and_resize(boxes, mask_size)
        return self.cropped
