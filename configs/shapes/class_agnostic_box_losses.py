"""The class-agnostic baseline on shapes that also learns from B's boxes."""

from maskx_d2 import apply_box_supervision

from .class_agnostic import model
from .common import dataloader, lr_multiplier, optimizer, train

apply_box_supervision(model, projection_weight=0.3, background_weight=0.3)
train.output_dir = "output/shapes/class_agnostic_box_losses"
