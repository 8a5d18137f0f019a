"""
DeepMask on shapes: class-agnostic mask proposals from the masks of 27 of the 36 categories.

The paper's numbers at the data's size. Objects are 24 to 60 pixels wide: 36 of a patch's 64, as 128
of 224. A stride of 8 makes 8×8 features and, as the paper's, moves a patch by less than the jitter.
"""

from detectron2.config import LazyCall as L

from maskx_d2.deepmask import DeepMask
from maskx_d2.evaluation import MaskProposalEvaluator

from .common import dataloader, lr_multiplier, optimizer, train
from .common import model as mask_rcnn

trunk = mask_rcnn.backbone.bottom_up
trunk.stages = trunk.stages[:3]
trunk.stages[2].stride_per_block = [1]
trunk.out_features = ["res4"]
model = L(DeepMask)(
    backbone=trunk,
    patch_size=64,
    object_size=36,
    context=16,
    mask_size=32,
    conv_dim=128,
    rank=128,
    score_dims=(128, 256),
    patches_per_image=8,
    positive_jitter=(8.0, 0.25),
    negative_distance=(16.0, 1.0),
    scales=(0.5, 0.71, 1.0, 1.41, 2.0),
    topk=100,
    pixel_mean=mask_rcnn.pixel_mean,
    pixel_std=mask_rcnn.pixel_std,
)

dataloader.evaluator = L(MaskProposalEvaluator)(
    dataset_name="${..test.dataset.names}", output_dir="${...train.output_dir}/inference"
)
train.output_dir = "output/shapes/deepmask"
