"""Stage-wise training: a detector that is trained already, and stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

__all__ = ["MASK_MODULES", "freeze_all_but", "freeze_detector"]

#: The parts of a model that stage 2 trains (paper, section 3.3), by their place.
MASK_MODULES = ("roi_heads.mask_head", "roi_heads.weight_transfer")


def freeze_detector(model: nn.Module) -> nn.Module:
    """
    Freeze all of a model but its mask branch, see :func:`freeze_all_but`.

    The boxes that the model predicts are bit-identical before and after training the rest.

    Raises:
        ValueError: if the model has no mask branch.
    """
    modules = dict(model.named_modules())
    trained = [name for name in MASK_MODULES if name in modules]
    if not trained:
        raise ValueError(
            f"the model has none of {', '.join(MASK_MODULES)}, so nothing would be left to train; "
            "freezing the detector is for models with a mask head."
        )
    return freeze_all_but(model, trained)


def freeze_all_but(model: nn.Module, trained: Sequence[str]) -> nn.Module:
    """
    Freeze all of a model but some parts: parameters, and statistics of normalisations.

    Frozen normalisations and dropouts stay in evaluation mode whatever
    :meth:`~torch.nn.Module.train` says.

    Args:
        model: a detectron2 model. It is changed in place, before its optimizer is made.
        trained: the parts that are not frozen, by their names in the model, such as
            ``"roi_heads.box_predictor"``.

    Returns:
        ``model``, for chaining.

    Raises:
        ValueError: if the model has no such part.
    """
    modules = dict(model.named_modules())
    for name in trained:
        if name not in modules:
            close = get_close_matches(name, modules, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "model.named_modules() lists them."
            raise ValueError(f"the model has no part '{name}' to train (TRAINED_MODULES); {hint}")
    kept = [modules[name] for name in trained]
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
