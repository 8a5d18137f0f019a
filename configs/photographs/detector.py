"""The class-agnostic baseline on photographs: its features have been trained for masks of A."""

from .common import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/photographs/detector"
