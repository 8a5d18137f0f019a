"""Which parts of a model a config trains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..modeling import freeze_all_but, freeze_detector
from ..modeling.freeze import MASK_MODULES

__all__ = ["freeze", "trains_masks"]


def freeze(model: nn.Module, all_but_masks: bool, trained: Sequence[str]) -> nn.Module:
    """
    Freeze what a config does not train.

    Args:
        model: it is changed in place.
        all_but_masks: ``MODEL.MASKX.FREEZE_DETECTOR``.
        trained: ``MODEL.MASKX.TRAINED_MODULES``.

    Returns:
        ``model``.

    Raises:
        ValueError: if both are given; see also :func:`freeze_all_but`.
    """
    if all_but_masks and trained:
        raise ValueError(
            "FREEZE_DETECTOR trains the mask branch and TRAINED_MODULES says which parts to train; "
            "give one of them."
        )
    if all_but_masks:
        return freeze_detector(model)
    return freeze_all_but(model, trained) if trained else model


def trains_masks(trained: Sequence[str]) -> bool:
    """Whether masks are learnt, of ``MODEL.MASKX.TRAINED_MODULES``."""
    return not trained or any(
        part.startswith(name) or name.startswith(f"{part}.")
        for part in trained
        for name in MASK_MODULES
    )
