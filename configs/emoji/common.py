"""
The network of the shapes data set on emoji scenes: 40 categories, half of which have masks.

For 120 categories override, in each config,
``dataloader.train.dataset.names=emoji120_train_random_a60_seed0
dataloader.test.dataset.names=emoji120_val_random_a60_seed0 model.roi_heads.num_classes=120``.
"""

from ..shapes.common import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.num_classes = 40
dataloader.train.dataset.names = "emoji40_train_random_a20_seed0"
dataloader.test.dataset.names = "emoji40_val_random_a20_seed0"
