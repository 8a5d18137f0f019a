"""The upper reference on shapes: Mask^X R-CNN with the masks of all 36 categories."""

from .maskx import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "shapes_train"
train.output_dir = "output/shapes/maskx_all_masks"
