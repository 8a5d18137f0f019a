"""
Image labels on shapes, and where in the image they are: for the 9 categories without boxes.

A stride of 8 gives an object of 24 to 60 pixels some peaks of its own; its features see 83 pixels.
"""

from detectron2.config import LazyCall as L

from maskx_d2.evaluation import ImageLabelEvaluator
from maskx_d2.image_labels import PeakResponseClassifier

from .common import dataloader, lr_multiplier, optimizer, train
from .common import model as mask_rcnn

backbone = mask_rcnn.backbone.bottom_up
backbone.stages = backbone.stages[:3]
backbone.stages[2].stride_per_block = [1]
backbone.out_features = ["res4"]
model = L(PeakResponseClassifier)(
    backbone=backbone,
    num_classes=36,
    pixel_mean=mask_rcnn.pixel_mean,
    pixel_std=mask_rcnn.pixel_std,
)

# Images of which only labels are known have no instances, but they teach.
dataloader.train.dataset.update(names="shapes_train_a18b9c9", filter_empty=False)
dataloader.train.mapper.update(use_instance_mask=False)
dataloader.test.dataset.names = "shapes_val_a18b9c9"
dataloader.evaluator = L(ImageLabelEvaluator)(dataset_name="${..test.dataset.names}")
train.output_dir = "output/shapes/image_labels"
