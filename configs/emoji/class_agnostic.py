"""The class-agnostic baseline on emoji scenes, with the same masks."""

from maskx_d2.modeling import SupervisedMasksROIHeads

from .common import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads._target_ = SupervisedMasksROIHeads
model.roi_heads.mask_head.num_classes = 1
train.output_dir = "output/emoji/class_agnostic"
