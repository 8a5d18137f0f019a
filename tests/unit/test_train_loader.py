"""The training loader's batches depend on the seed and the iteration, and on nothing else."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils.env import seed_all_rng
from torch.utils.data import IterableDataset

from maskx_d2.data import TrainLoader

RECORDS = [
    {"file_name": f"{i}.png", "width": 10, "height": 5 if i % 3 else 20, "i": i} for i in range(7)
]


def draw(record):
    return {**record, "drawn": (np.random.rand(), float(torch.rand(1)))}


def batches(start, count=6, num_workers=0, mapper=draw, **kwargs):
    seed_all_rng(1)
    loader = TrainLoader(
        RECORDS, mapper=mapper, total_batch_size=2, num_workers=num_workers, **kwargs
    )
    loader.start_iter = start
    return [[(r["i"], r["drawn"]) for r in batch] for batch in islice(loader, count)]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_iteration_gives_what_it_would_have_given(grouping, num_workers):
    whole = batches(0, 12, aspect_ratio_grouping=grouping)
    for start in (1, 5):
        resumed = batches(start, 5, num_workers, aspect_ratio_grouping=grouping)
        assert resumed == whole[start : start + 5]
    assert len({drawn for batch in whole for _, drawn in batch}) == 24, "augmentations repeat"


@pytest.mark.parametrize("grouping", [True, False])
def test_the_images_are_those_of_detectron2s_loader(grouping):
    seed_all_rng(1)
    stock = build_detection_train_loader(
        RECORDS, mapper=draw, total_batch_size=2, aspect_ratio_grouping=grouping
    )
    expected = [[r["i"] for r in batch] for batch in islice(stock, 6)]
    ours = batches(0, aspect_ratio_grouping=grouping)
    assert [[i for i, _ in batch] for batch in ours] == expected


def test_other_samplers_are_resumed_as_well():
    def sampler():
        return RepeatFactorTrainingSampler(torch.linspace(1, 3, 7), seed=4)

    assert batches(3, 4, sampler=sampler()) == batches(0, 7, sampler=sampler())[3:]


def test_loading_leaves_the_trainings_random_numbers_alone():
    seed_all_rng(1)
    loader = iter(TrainLoader(RECORDS, mapper=draw, total_batch_size=2))
    seed_all_rng(2)
    expected = (np.random.rand(), float(torch.rand(1)))
    seed_all_rng(2)
    next(loader)
    assert (np.random.rand(), float(torch.rand(1))) == expected


def test_records_without_a_size_cannot_be_resumed_into_groups():
    records = [{"file_name": "a.png", "i": 0}]
    loader = TrainLoader(records, mapper=draw, total_batch_size=2)
    loader.start_iter = 1
    with pytest.raises(ValueError, match=r"'a\.png' has no 'width'.*ASPECT_RATIO_GROUPING"):
        next(iter(loader))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield from RECORDS


def test_an_iterable_data_set_is_detectron2s_business():
    loader = TrainLoader(Endless(), mapper=draw, total_batch_size=2, aspect_ratio_grouping=False)
    assert [[r["i"] for r in batch] for batch in islice(loader, 3)] == [[0, 1], [2, 3], [4, 5]]
