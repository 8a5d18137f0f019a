"""A detector without masks on emoji scenes: what stage-wise training starts from."""

from .common import dataloader, lr_multiplier, model, optimizer, train

for key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(key)
dataloader.train.mapper.update(use_instance_mask=False)
dataloader.evaluator.tasks = ("bbox",)
train.output_dir = "output/emoji/detector"
