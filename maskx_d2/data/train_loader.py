"""
A training data loader that can start at any iteration, and then gives what it would have given.

Detectron2's loader starts anew when a training is resumed: other images, and other augmentations.
Here each sample's random numbers follow from its position in the stream of samples and from
nothing else, not even from the number of worker processes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.common import ToIterableDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.utils.data import Dataset, IterableDataset, Sampler

__all__ = ["SeededMapper", "TrainLoader", "derived_seed", "random_state_kept"]


def derived_seed(*numbers: int) -> int:
    """A seed in [0, 2³²) for something that is one of many, such as a sample or an iteration."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class TrainLoader:
    """
    Detectron2's :func:`build_detection_train_loader`, from any iteration on.

    It takes the same arguments. Batches are the same for the same seed (of detectron2's
    :func:`default_setup`), whatever iteration they are asked from.

    Attributes:
        start_iter: the iteration whose batch comes first when the loader is iterated over.
        mapper: makes the samples.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        mapper: Callable[[dict[str, Any]], Any],
        sampler: Sampler[int] | None = None,
        total_batch_size: int,
        aspect_ratio_grouping: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            dataset, mapper, sampler, total_batch_size, aspect_ratio_grouping, **kwargs: as for
                :func:`build_detection_train_loader`. An iterable data set has no positions to
                start at: it is used from its beginning.
        """
        if isinstance(dataset, list):
            dataset = DatasetFromList(dataset, copy=False)
        self.start_iter = 0
        self._dataset = dataset
        self.mapper = mapper
        self._is_iterable = isinstance(dataset, IterableDataset)
        self._sampler = sampler
        if sampler is None and not self._is_iterable:
            self._sampler = TrainingSampler(len(dataset))
        self._batch_size = total_batch_size // comm.get_world_size()
        self._grouping = aspect_ratio_grouping
        self._kwargs = {
            "total_batch_size": total_batch_size,
            "aspect_ratio_grouping": aspect_ratio_grouping,
            **kwargs,
        }
        self._seed = comm.shared_random_seed()

    def __iter__(self) -> Iterator[list[Any]]:
        # The training's own random numbers must be the same wherever it starts.
        with random_state_kept():
            batches = iter(self._build())
        while True:
            with random_state_kept():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def _build(self) -> Any:
        if self._is_iterable:
            return build_detection_train_loader(self._dataset, mapper=self.mapper, **self._kwargs)
        stream = ToIterableDataset(
            _Positioned(self._dataset),
            _Stream(self._sampler, *self._position_of(self.start_iter)),
            # With grouping, workers take turns sample by sample, and the order is the stream's.
            shard_chunk_size=1 if self._grouping else self._batch_size,
        )
        mapper = SeededMapper(self.mapper, self._seed)
        return build_detection_train_loader(stream, mapper=mapper, **self._kwargs)

    def _position_of(self, iteration: int) -> tuple[list[tuple[int, int]], int]:
        """
        Where in the stream a training stands before an iteration.

        Returns:
            the (position, index) of the samples that wait for others of their shape to make a
            batch (see :class:`AspectRatioGroupedDataset`), and the position of the next.
        """
        if not self._grouping:
            return [], iteration * self._batch_size
        waiting: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        if iteration == 0:
            return [], 0
        wide = [self._is_wide(self._dataset[i]) for i in range(len(self._dataset))]
        batches = 0
        for sample in enumerate(self._sampler):
            group = waiting[0 if wide[sample[1]] else 1]
            group.append(sample)
            if len(group) == self._batch_size:
                group.clear()
                batches += 1
                if batches == iteration:
                    return sorted(waiting[0] + waiting[1]), sample[0] + 1
        raise ValueError(f"the sampler ends before iteration {iteration}; it must be infinite.")

    @staticmethod
    def _is_wide(record: dict[str, Any]) -> bool:
        if "width" not in record or "height" not in record:
            raise ValueError(
                f"image '{record.get('file_name')}' has no 'width' and 'height', without which a "
                "resumed training can't find its place; give them in the dataset dicts, or set "
                "DATALOADER.ASPECT_RATIO_GROUPING to False."
            )
        return bool(record["width"] > record["height"])


class _Stream(Sampler[tuple[int, int]]):
    """A sampler's indices with their positions: those that wait, then the stream from there."""

    def __init__(
        self, sampler: Sampler[int], waiting: list[tuple[int, int]], position: int
    ) -> None:
        self._sampler, self._waiting, self._position = sampler, waiting, position

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from self._waiting
        yield from itertools.islice(enumerate(self._sampler), self._position, None)


class _Positioned(Dataset[tuple[int, dict[str, Any]]]):
    """A data set that hands out a sample's position in the stream with it."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, sample: Any) -> tuple[int, dict[str, Any]]:
        position, index = sample
        return position, self._dataset[index]


class SeededMapper:
    """Calls a mapper with random numbers that follow from the sample's position."""

    def __init__(self, mapper: Callable[[dict[str, Any]], Any], seed: int) -> None:
        """
        Args:
            mapper: of one dataset dict.
            seed: of all of them.
        """
        self._mapper, self._seed = mapper, seed
        self._rank = comm.get_rank()  # not known in worker processes

    def __call__(self, sample: tuple[int, dict[str, Any]]) -> Any:
        """Map a record that comes with its position in the stream."""
        position, record = sample
        seed_all_rng(derived_seed(self._seed, self._rank, position))
        return self._mapper(record)


@contextmanager
def random_state_kept(device: torch.device | None = None) -> Iterator[None]:
    """
    Random numbers go on afterwards as if nothing had been drawn in it.

    Args:
        device: a GPU whose generator is kept as well.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device and device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
