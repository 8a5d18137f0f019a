"""Mixed precision where there is no GPU."""

from __future__ import annotations

import torch
from detectron2.engine import SimpleTrainer

__all__ = ["CPUAutocastTrainer"]


class CPUAutocastTrainer(SimpleTrainer):
    """
    :class:`SimpleTrainer` that computes in bfloat16 what PyTorch's autocast deems safe.

    It is to CPUs what detectron2's :class:`AMPTrainer`, which insists on CUDA, is to GPUs. Since
    bfloat16 has the range of float32, there is no gradient scaler, and checkpoints are those of
    :class:`SimpleTrainer`. CPUs without instructions for bfloat16 gain nothing.
    """

    def run_step(self) -> None:
        """See :meth:`SimpleTrainer.run_step`."""
        # Around the whole step, because the parent has no place for it around the model alone. The
        # backward pass takes its types from the forward pass: a test compares the gradients.
        with torch.autocast("cpu", torch.bfloat16):
            super().run_step()
