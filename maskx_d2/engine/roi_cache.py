"""
What a frozen detector hands to the mask head, kept in files.

In stage-wise training (paper, section 3.3) the images, the backbone, the proposals and the box
head give the mask head the same features in every epoch. Computed once, a mask branch trains in a
fraction of the time, and so does the next one on the same detector and data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from tqdm import tqdm

from ..data.train_loader import SeededMapper, derived_seed, random_state_kept
from ..modeling.freeze import MASK_MODULES

__all__ = [
    "CachedMaskBranch",
    "CachedRoIs",
    "RoICache",
    "ShuffledRoIs",
    "check_roi_cache",
    "collect_rois",
    "frozen_weights_hash",
    "train_on_rois",
]

logger = logging.getLogger(__name__)

_FEATURES, _TARGETS, _CLASSES, _ABOUT = "features.bin", "targets.bin", "classes.bin", "about.json"


class RoICache:
    """
    RoIs that all have a mask to learn from, as :func:`collect_rois` found them.

    Attributes:
        num_images: the images that they are from.
        features: (R, C, H, W) float16, read from its file as it is used.
        targets: (R, M * M / 8) uint8, the masks within the boxes, 8 pixels a byte.
        classes: (R,) int64.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """
        Args:
            folder: that :func:`collect_rois` has filled.
        """
        folder = Path(folder)
        about = json.loads((folder / _ABOUT).read_text())
        self.num_images: int = about["images"]
        self.mask_size: int = about["mask_size"]
        self.classes = np.fromfile(folder / _CLASSES, dtype=np.int64)
        shape = (len(self.classes), *about["feature_shape"])
        self.features = np.memmap(folder / _FEATURES, dtype=np.float16, mode="r", shape=shape)
        self.targets = np.fromfile(folder / _TARGETS, dtype=np.uint8).reshape(len(self), -1)

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, indices: Sequence[int]) -> CachedRoIs:
        """Some of the RoIs."""
        rows = np.sort(np.asarray(indices))  # in the file's order, which is faster to read
        m = self.mask_size
        targets = np.unpackbits(self.targets[rows], axis=1, count=m * m)
        return CachedRoIs(
            torch.from_numpy(self.features[rows]),
            torch.from_numpy(targets.reshape(-1, m, m)).bool(),
            torch.from_numpy(self.classes[rows]),
        )


class CachedRoIs:
    """
    A batch for :class:`CachedMaskBranch`.

    Attributes:
        features: (R, C, H, W) float16.
        targets: (R, M, M) bool.
        classes: (R,) int64.
    """

    def __init__(self, features: Tensor, targets: Tensor, classes: Tensor) -> None:
        self.features, self.targets, self.classes = features, targets, classes


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

    def forward(self, rois: CachedRoIs) -> dict[str, Tensor]:
        """The losses of the mask head, as the model itself gives them for images."""
        device = next(self.whole.parameters()).device
        instances = Instances((1, 1))
        # The masks are cropped already, so where the boxes were does not matter.
        instances.proposal_boxes = Boxes(torch.zeros(len(rois.classes), 4, device=device))
        instances.gt_classes = rois.classes.to(device)
        instances.gt_masks = _CroppedMasks(rois.targets.to(device))
        losses: dict[str, Tensor] = self.whole.roi_heads.mask_head(
            rois.features.to(device).float(), [instances]
        )
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


class ShuffledRoIs:
    """
    Batches of a cache without end: each RoI once, in random order, then again in another.

    Attributes:
        start_iter: the iteration whose batch comes first when it is iterated over.
    """

    def __init__(self, cache: RoICache, images_per_batch: int, seed: int) -> None:
        """
        Args:
            cache: to draw from.
            images_per_batch: a batch has as many RoIs as this many images have on average.
            seed: the same batches for the same seed, whatever iteration they are asked from.
        """
        self.start_iter = 0
        self._cache, self._seed = cache, seed
        self._size = max(1, round(len(cache) / cache.num_images * images_per_batch))

    def __iter__(self) -> Iterator[CachedRoIs]:
        position = self.start_iter * self._size
        while True:
            yield self._cache.batch([self._at(i) for i in range(position, position + self._size)])
            position += self._size

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self._cache))
        if getattr(self, "_epoch", None) != epoch:
            rng = np.random.default_rng(derived_seed(self._seed, epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self._cache))
        return int(self._order[place])


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
    heads = model.roi_heads
    if getattr(heads, "box_supervision", None) is not None:
        raise ValueError(
            "a RoI cache keeps RoIs that have a mask, and the box losses learn from those that "
            "have none: set MODEL.MASKX.ROI_CACHE to '', or BOX_PROJECTION_WEIGHT and "
            "BOX_AFFINITY_WEIGHT to 0.0."
        )
    key = [frozen_weights_hash(model), _data_hash(dataset_dicts), settings, seed, batch_size]
    if getattr(heads, "mask_rois", "proposals") != "proposals":
        key += [heads.mask_rois, heads.mask_roi_jitter]
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
    logger.info(
        f"Training on {len(cache)} RoIs of {cache.num_images} images in {folder} "
        f"({(folder / _FEATURES).stat().st_size / 2**30:.2f} GB), not on images."
    )
    return cache


def _data_hash(dataset_dicts: list[dict[str, Any]]) -> str:
    """A hash of all that a data set says, so that no mask of another split is ever used."""
    digest = hashlib.sha256()
    for record in dataset_dicts:
        digest.update(json.dumps(record, sort_keys=True, default=_as_text).encode())
    return digest.hexdigest()


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.tobytes().hex() if isinstance(value, np.ndarray) else str(value)


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
    recorder = _Recorder(model)
    with (
        open(folder / _FEATURES, "wb") as features,
        open(folder / _TARGETS, "wb") as targets,
        open(folder / _CLASSES, "wb") as classes,
        tqdm(total=len(dataset_dicts), unit="image", desc="RoI features") as bar,
        random_state_kept(next(model.parameters()).device),
    ):
        for i, batch in enumerate(loader):
            torch.manual_seed(derived_seed(seed, i))  # workers take random numbers as well
            for rois in recorder(batch):
                rois.features.cpu().half().numpy().tofile(features)
                pixels = rois.targets.flatten(1).cpu().numpy()
                np.packbits(pixels, axis=1).tofile(targets)
                rois.classes.cpu().numpy().tofile(classes)
            bar.update(len(batch))
            _check_disk(folder, features.tell() * (bar.total - bar.n) // max(bar.n, 1))
    if recorder.last is None:
        raise ValueError("no RoI of the training set has a mask, so there is nothing to cache.")
    about = {
        "images": len(dataset_dicts),
        "feature_shape": list(recorder.last.features.shape[1:]),
        "mask_size": recorder.last.targets.shape[-1],
    }
    (folder / _ABOUT).write_text(json.dumps(about))


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the RoI cache needs {needed / 2**30:.0f} GB more, but {folder} has "
            f"{free / 2**30:.0f} GB free; name a folder on a larger disk, sample fewer RoIs an "
            "image (MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE), or train without a cache."
        )


class _Recorder:
    """Runs a model as in training, and catches what its mask head is given."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._head = model.roi_heads.mask_head
        self._forward = self._head.forward
        self._caught: list[CachedRoIs] = []
        self.last: CachedRoIs | None = None

    @torch.no_grad()
    def __call__(self, batch: list[dict[str, Any]]) -> list[CachedRoIs]:
        self._caught = []
        self._head.forward = self._catch
        try:
            with EventStorage():  # whose figures are of no training
                self._model(batch)
        finally:
            del self._head.forward  # the class's own is back
        if self._caught:
            self.last = self._caught[-1]
        return self._caught

    def _catch(self, features: Any, instances: list[Instances], **kwargs: Any) -> Any:
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
        losses = self._forward(features, watched, **kwargs)
        targets = [w.gt_masks.cropped for w in watched if len(w)]
        if targets:
            classes = torch.cat([w.gt_classes for w in watched if len(w)])
            self._caught.append(CachedRoIs(features, torch.cat(targets).bool(), classes))
        return losses


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
