"""Mask^X R-CNN on shapes, whose masks of B also learn from B's boxes."""

from maskx_d2 import apply_box_supervision

from .common import dataloader, lr_multiplier, optimizer, train
from .maskx import model

apply_box_supervision(model, projection_weight=0.3, background_weight=0.3)
train.output_dir = "output/shapes/box_losses"
