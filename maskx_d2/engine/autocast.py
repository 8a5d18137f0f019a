"""Mixed precision, with a GPU and without."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import nn
from torch.optim import Optimizer

from ..modeling.exact_pooling import pool_exactly

__all__ = ["CPUAutocastTrainer", "GPUAutocastTrainer"]


class CPUAutocastTrainer(SimpleTrainer):
    """
    :class:`SimpleTrainer` that computes in bfloat16 what PyTorch's autocast deems safe.

    It is to CPUs what detectron2's :class:`AMPTrainer`, which insists on CUDA, is to GPUs. Since
    bfloat16 has the range of float32, there is no gradient scaler, and checkpoints are those of
    :class:`SimpleTrainer`. CPUs without instructions for bfloat16 gain nothing.

    RoIs are pooled in float32, whichever ROI heads the model has: see :func:`pool_exactly`.
    """

    def __init__(self, model: nn.Module, data_loader: Any, optimizer: Optimizer) -> None:
        super().__init__(pool_exactly(model), data_loader, optimizer)

    def run_step(self) -> None:
        """See :meth:`SimpleTrainer.run_step`."""
        # Around the whole step, because the parent has no place for it around the model alone. The
        # backward pass takes its types from the forward pass: a test compares the gradients.
        with torch.autocast("cpu", torch.bfloat16):
            super().run_step()


class GPUAutocastTrainer(AMPTrainer):
    """
    :class:`AMPTrainer` that also goes on where there was no gradient scaler, as on a CPU.

    RoIs are pooled in float32, whichever ROI heads the model has: see :func:`pool_exactly`.
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(pool_exactly(model), *args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`AMPTrainer.load_state_dict`."""
        super().load_state_dict({"grad_scaler": self.grad_scaler.state_dict(), **state_dict})
