"""Mask^X R-CNN on emoji scenes: T sees the classifier's weights."""

from maskx_d2 import apply_maskx

from .common import dataloader, lr_multiplier, model, optimizer, train

apply_maskx(model, transfer_input="cls", transfer_hidden_dims=(64,))
train.output_dir = "output/emoji/maskx"
