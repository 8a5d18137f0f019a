"""
T sees a moving average of the classifier's weights, where detector and masks learn together.

There the weights that T sees change with every step. Of a detector that stays as it is the average
is the weights themselves, so this is a question for end-to-end training alone::

    export PYTHONPATH=benchmarks
    for seed in 1 2 3; do
      ./train_net.py --config-file configs/shapes/maskx.py train.amp.enabled=True \\
          model.roi_heads._target_=moving_average.AveragedVectorsROIHeads train.seed=$seed \\
          dataloader.test.dataset.names=shapes_test_a27b9 \\
          train.output_dir=output/moving_average/seed$seed
    done
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maskx_d2.modeling import MaskXROIHeads

# Of an average over some 100 steps of 1,200.
MOMENTUM = 0.99


class AveragedVectorsROIHeads(MaskXROIHeads):
    """Mask^X's ROI heads whose T sees an average of the classifier's weights over past steps."""

    averaged: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.transfer_input != "cls" or not self.stop_grad:
            raise ValueError("this averages the classifier's weights; set transfer_input to 'cls'")
        self.register_buffer("averaged", super()._class_vectors().clone())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; a training step moves the average first."""
        if self.training:
            self.averaged.lerp_(super()._class_vectors(), 1 - MOMENTUM)
        return super().forward(*args, **kwargs)

    def _class_vectors(self, classes: Tensor | None = None) -> Tensor:
        if "averaged" not in self._buffers:  # T asks for their length while all is being built
            return super()._class_vectors(classes)
        return self.averaged if classes is None else self.averaged[classes]
