"""A control for Mask^X on shapes: T sees a fixed random vector for each category."""

from maskx_d2 import apply_maskx
from maskx_d2.splits import SHAPES_CLASSES

from .common import dataloader, lr_multiplier, model, optimizer, train

apply_maskx(
    model,
    transfer_input="random",
    transfer_hidden_dims=(64,),
    thing_classes=list(SHAPES_CLASSES),
)
train.output_dir = "output/shapes/random_vectors"
