"""
A control for Mask^X on emoji scenes: T sees a fixed random vector for each category.

With another number of categories override
``model.roi_heads.class_embedding.thing_classes.dataset_name`` too.
"""

from maskx_d2 import apply_maskx

from .common import dataloader, lr_multiplier, model, optimizer, train

apply_maskx(
    model,
    transfer_input="random",
    transfer_hidden_dims=(64,),
    thing_classes=dataloader.train.dataset.names,
)
train.output_dir = "output/emoji/random_vectors"
