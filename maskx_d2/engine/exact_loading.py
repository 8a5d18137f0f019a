"""Checkpoints that must fit their model: whoever uses one must not get random numbers from it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

from torch import nn

from .checkpointing import MaskXCheckpointer

__all__ = ["load_exactly"]

_SHOWN = 3  # problems, in a message of one sentence

#: Counters of batch norm that no inference uses and that older checkpoints lack. (Detectron2 sees
#: to pixel_mean and pixel_std, which come from the config.)
_NOT_NEEDED = ".num_batches_tracked"

#: What torch, pickle and fvcore raise on files that are something else, or were cut off.
_BROKEN = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ImportError),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),
)


def load_exactly(
    model: nn.Module, weights: str, *, datasets: Iterable[str] = (), allow_more: bool = False
) -> dict[str, Any] | None:
    """
    Load a checkpoint that has each of the model's parameters and buffers, in its shape.

    Detectron2 logs what does not fit and goes on, which is right to start a training. Whoever
    only uses a model would be given random weights.

    Args:
        model: to load it into.
        weights: the checkpoint.
        datasets: names of the model's data sets, see :class:`MaskXCheckpointer`.
        allow_more: whether the checkpoint may have parameters that the model has not, such as the
            mask head's where only boxes are wanted. They are logged.

    Returns:
        What the checkpoint says of itself, see :func:`~maskx_d2.engine.model_card.model_card`;
        None if nothing.

    Raises:
        ValueError: if it is not such a checkpoint.
    """
    checkpointer = _ExactCheckpointer(model, datasets=datasets, allow_more=allow_more)
    try:
        checkpointer.load(weights, checkpointables=[])
    except _BROKEN as e:
        raise ValueError(
            f"'{weights}' is not a checkpoint of detectron2's, or was cut off "
            f"({type(e).__name__} when it was read)."
        ) from e
    problems = checkpointer.problems
    if problems:
        more = len(problems) - _SHOWN
        raise ValueError(
            f"checkpoint '{weights}' is not of this config's model: "
            f"{'; '.join(problems[:_SHOWN])}"
            f"{f', and {more} more of the kind' if more > 0 else ''}. Give the config.yaml that "
            "its training has left."
        )
    return checkpointer.card


class _ExactCheckpointer(MaskXCheckpointer):
    """Remembers what did not fit, in words."""

    def __init__(self, model: nn.Module, *, datasets: Iterable[str], allow_more: bool) -> None:
        super().__init__(model, datasets=datasets)
        self.problems: list[str] = []
        self._allow_more = allow_more

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = incompatible.incorrect_shapes
        shapes = {k for k, _, _ in wrong}
        missing = [k for k in incompatible.missing_keys if k not in shapes]
        self.problems = [f"{k} is {tuple(c)} instead of {tuple(m)}" for k, c, m in wrong]
        self.problems += [f"{k} is missing" for k in missing if not k.endswith(_NOT_NEEDED)]
        if not self._allow_more:
            self.problems += [f"the model has no {k}" for k in incompatible.unexpected_keys]
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        if not self.problems:  # else the error says it
            super()._log_incompatible_keys(incompatible)
