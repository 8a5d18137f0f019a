"""Mask^X R-CNN on photographs, whose masks of B also learn from B's boxes."""

from maskx_d2 import apply_box_supervision, apply_maskx

from .common import dataloader, lr_multiplier, model, optimizer, train

apply_maskx(model, transfer_input="cls", transfer_hidden_dims=(64,))
apply_box_supervision(model, projection_weight=0.3, background_weight=0.3)
train.output_dir = "output/photographs/box_losses"
