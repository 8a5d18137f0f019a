"""Which evaluations take run lengths in place of bitmaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from torch import nn

from ..postprocessing import rle_masks
from .mask_probe import MaskProbe
from .split_evaluator import SplitCOCOEvaluator
from .split_lvis_evaluator import SplitLVISEvaluator

__all__ = ["rle_evaluation"]


@contextmanager
def rle_evaluation(
    model: nn.Module, evaluators: DatasetEvaluator | Sequence[DatasetEvaluator]
) -> Iterator[None]:
    """
    While it is open, the model gives :class:`RLEMasks` if all the evaluators can read them.

    Those of this package can. One with a ``process`` of its own may want bitmaps, so then the
    model stays as it is; who knows better opens :func:`~maskx_d2.postprocessing.rle_masks`.

    Args:
        model: see :func:`~maskx_d2.postprocessing.rle_masks`.
        evaluators: what will be given the model's outputs.
    """
    if not _reads_rles(evaluators):
        yield
        return
    with rle_masks(model):
        yield


def _reads_rles(evaluators: DatasetEvaluator | Sequence[DatasetEvaluator]) -> bool:
    if isinstance(evaluators, DatasetEvaluators):
        evaluators = evaluators._evaluators
    if isinstance(evaluators, DatasetEvaluator):
        return type(evaluators).process in (
            SplitCOCOEvaluator.process,
            SplitLVISEvaluator.process,
            MaskProbe.process,
        )
    return all(_reads_rles(evaluator) for evaluator in evaluators)
