"""RoIs pooled where they are, also in mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import nn

__all__ = ["pool_exactly"]


def pool_exactly(module: nn.Module) -> nn.Module:
    """
    Make every :class:`ROIPooler` of a module pool in float32 under autocast.

    Detectron2 gives boxes the type of the features. In bfloat16, which has 8 significant bits,
    their sides are then whole multiples of 2 pixels from 256 pixels on and of 4 from 512 on, so
    that heads see another place than the one that they are to say something about; float16 does
    the same from 2,048 on. Under autocast pooling is computed in float32 in any case (torchvision
    casts), so this costs the type of its result alone. A model that is of another type as a whole
    (``model.half()``) stays as detectron2 has it, rounded boxes included.

    Args:
        module: any; asked twice, nothing more happens.

    Returns:
        The module.
    """
    for part in module.modules():
        if isinstance(part, ROIPooler) and _in_float32 not in part._forward_pre_hooks.values():
            part.register_forward_pre_hook(_in_float32)
    return module


def _in_float32(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    features, *boxes = args
    if not _is_autocast(features[0].device.type):
        return args
    return [f.float() for f in features], *boxes


def _is_autocast(device_type: str) -> bool:
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # before torch 2.4
        on_cpu = device_type == "cpu"
        return torch.is_autocast_cpu_enabled() if on_cpu else torch.is_autocast_enabled()
