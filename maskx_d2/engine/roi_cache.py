"""RoIs of a frozen detector in files, and batches of them: what a mask branch can be trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.train_loader import derived_seed

__all__ = ["CachedBatch", "CachedRoIs", "RoICache", "RoIFiles", "RoIWriter", "ShuffledRoIs"]

_ABOUT = "about.json"
_FILES = ("features.bin", "targets.bin", "classes.bin")


@dataclass
class CachedRoIs:
    """
    Some RoIs, and what there is to learn of them.

    Attributes:
        features: (R, C, H, W) float; float16 if they are from a file.
        targets: bool (R, …): masks, (R, M, M), or what
            :meth:`~maskx_d2.modeling.box_supervision.BoxTargets.packed` makes, (R, 6, M, M).
        classes: int64 (R,).
    """

    features: Tensor
    targets: Tensor
    classes: Tensor


@dataclass
class CachedBatch:
    """
    The RoIs of a training step: those with a mask, and those with a box alone.

    None is for a cache that has none of the kind.
    """

    masks: CachedRoIs | None
    boxes: CachedRoIs | None


class RoIWriter:
    """Appends RoIs to the files of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        for name in _FILES:
            (folder / name).touch()
        self.size = 0  # bytes of features so far

    def write(self, rois: CachedRoIs) -> None:
        """Add R RoIs, features as float16 and targets as bits."""
        arrays = (
            rois.features.cpu().half().numpy(),
            np.packbits(rois.targets.flatten(1).cpu().numpy(), axis=1),
            rois.classes.cpu().numpy(),
        )
        for name, array in zip(_FILES, arrays):
            with open(self._folder / name, "ab") as file:
                array.tofile(file)
        self.size += arrays[0].nbytes
        about = {"features": rois.features.shape[1:], "targets": rois.targets.shape[1:]}
        (self._folder / _ABOUT).write_text(json.dumps(about))


class RoIFiles:
    """
    RoIs that a :class:`RoIWriter` wrote.

    Attributes:
        features: (R, C, H, W) float16, read from its file as it is used.
        targets: (R, bytes) uint8, 8 pixels a byte.
        classes: int64 (R,).
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / _ABOUT).read_text())
        features, targets, classes = (folder / name for name in _FILES)
        self.classes = np.fromfile(classes, dtype=np.int64)
        shape = (len(self.classes), *about["features"])
        # A file in which there is nothing can't be mapped.
        self.features: np.ndarray[Any, Any] = (
            np.memmap(features, dtype=np.float16, mode="r", shape=shape)
            if len(self)
            else np.zeros(shape, dtype=np.float16)
        )
        self.target_shape: list[int] = about["targets"]
        self._pixels = int(np.prod(self.target_shape))
        self.targets = np.fromfile(targets, dtype=np.uint8).reshape(
            len(self), -(-self._pixels // 8)
        )

    def __len__(self) -> int:
        return len(self.classes)

    def rois(self, rows: np.ndarray[Any, Any]) -> CachedRoIs:
        """Some of them, in this order."""
        targets = np.unpackbits(self.targets[rows], axis=1, count=self._pixels)
        return CachedRoIs(
            torch.from_numpy(self.features[rows]),
            torch.from_numpy(targets.reshape(-1, *self.target_shape)).bool(),
            torch.from_numpy(self.classes[rows]),
        )


class RoICache:
    """
    The RoIs of a data set, as :func:`~maskx_d2.engine.roi_collecting.collect_rois` found them.

    Attributes:
        num_images: the images that they are from.
        masks: those with a mask to learn from; None if there is none.
        boxes: those with a box alone, for a model that learns from boxes; None for another.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """
        Args:
            folder: that has been filled.
        """
        folder = Path(folder)
        self.num_images: int = json.loads((folder / _ABOUT).read_text())["images"]
        self.masks, self.boxes = (
            RoIFiles(folder / part) if (folder / part / _ABOUT).is_file() else None
            for part in ("masks", "boxes")
        )
        self._num_masks = len(self.masks) if self.masks else 0

    def __len__(self) -> int:
        return self._num_masks + (len(self.boxes) if self.boxes else 0)

    def batch(self, indices: Sequence[int]) -> CachedBatch:
        """Some of the RoIs; those with a mask have the first indices."""
        rows = np.sort(np.asarray(indices))  # in the files' order, which is faster to read
        has_mask = rows < self._num_masks
        return CachedBatch(
            self.masks.rois(rows[has_mask]) if self.masks else None,
            self.boxes.rois(rows[~has_mask] - self._num_masks) if self.boxes else None,
        )


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

    def __iter__(self) -> Iterator[CachedBatch]:
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
