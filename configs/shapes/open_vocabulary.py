"""Mask^X on shapes where T and the classifier see each category's attributes."""

import os

from maskx_d2 import apply_open_vocabulary
from maskx_d2.splits import SHAPES_CLASSES

from .common import dataloader, lr_multiplier, model, optimizer, train

apply_open_vocabulary(
    model,
    transfer_hidden_dims=(64,),
    thing_classes=list(SHAPES_CLASSES),
    # Written by make_shapes.py, beside the images.
    embedding_file=os.path.join(
        os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        "shapes",
        "attributes.npy",
    ),
)
train.output_dir = "output/shapes/open_vocabulary"
