"""Stage-wise training: a detector that is trained already, and stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = ["MASK_MODULES", "freeze_detector"]

#: The parts of a model that stage 2 trains (paper, section 3.3), by their place.
MASK_MODULES = ("roi_heads.mask_head", "roi_heads.weight_transfer")


def freeze_detector(model: nn.Module, *, trained: Sequence[str] = MASK_MODULES) -> nn.Module:
    """
    Freeze all of a model but its mask branch: parameters, and statistics of normalisations.

    The boxes that the model predicts are bit-identical before and after training the rest, also
    where batch norm was trained: frozen normalisations and dropouts stay in evaluation mode
    whatever :meth:`~torch.nn.Module.train` says.

    Args:
        model: a detectron2 model with ROI heads. It is changed in place, before its optimizer is
            made.
        trained: the parts that are not frozen, by their names in the model.

    Returns:
        ``model``, for chaining.

    Raises:
        ValueError: if the model has none of the ``trained`` parts.
    """
    modules = dict(model.named_modules())
    kept = [modules[name] for name in trained if name in modules]
    if not kept:
        raise ValueError(
            f"the model has none of {', '.join(trained)}, so nothing would be left to train; "
            "freezing the detector is for models with a mask head."
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for part in kept:
        for parameter in part.parameters():
            parameter.requires_grad_(True)
    inside = {module for part in kept for module in part.modules()}
    for module in modules.values():
        # What has a mode of its own: normalisations and dropout. Containers keep the model's
        # mode, by which RPN and ROI heads decide whether to sample and to compute losses.
        if module not in inside and not any(True for _ in module.children()):
            module.eval()
            module.register_forward_pre_hook(_to_evaluation_mode)
    return model


def _to_evaluation_mode(module: nn.Module, _args: object) -> None:
    # A hook and not an override of train(): it is copied and pickled with the module, and acts
    # whoever has changed the mode.
    module.training = False
