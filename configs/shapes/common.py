"""
A Mask R-CNN of 2.2 M parameters that learns the shapes data set from scratch on a CPU.

The parts are detectron2's, narrower and shallower: one basic block a stage, 64 FPN channels, RoIs
from the finest level, because the objects are 24 to 60 pixels wide.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from maskx_d2.data import PartialMaskDatasetMapper
from maskx_d2.evaluation import SplitCOCOEvaluator

model = get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=32, norm="BN"),
    stages=[
        L(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=1,
            stride_per_block=[stride],
            in_channels=in_channels,
            out_channels=out_channels,
            norm="BN",
        )
        for stride, in_channels, out_channels in [
            (1, 32, 32),
            (2, 32, 64),
            (2, 64, 128),
            (2, 128, 192),
        ]
    ],
    out_features=["res2", "res3", "res4", "res5"],
)
model.backbone.update(out_channels=64, norm="BN", top_block=None)
model.proposal_generator.update(
    in_features=["p2", "p3"],
    batch_size_per_image=64,
    pre_nms_topk=(300, 300),
    post_nms_topk=(100, 100),
)
model.proposal_generator.head.in_channels = 64
model.proposal_generator.anchor_generator.update(sizes=[[28], [48]], strides=[4, 8])
heads = model.roi_heads
heads.update(num_classes=36, batch_size_per_image=32, positive_fraction=0.5)
heads.box_in_features = heads.mask_in_features = ["p2"]
heads.box_pooler.scales = heads.mask_pooler.scales = (1.0 / 4,)
heads.box_head.update(
    input_shape=ShapeSpec(channels=64, height=7, width=7),
    conv_dims=[64],
    conv_norm="BN",
    fc_dims=[256, 256],
)
heads.box_predictor.input_shape = ShapeSpec(channels=256)
heads.mask_head.update(
    input_shape=ShapeSpec(channels=64, height=14, width=14), conv_dims=[64, 64, 64]
)

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="shapes_train_a27b9"),
    mapper=L(PartialMaskDatasetMapper)(
        is_train=True,
        augmentations=[L(T.RandomFlip)(horizontal=True)],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    ),
    total_batch_size=8,
    num_workers=1,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="shapes_val_a27b9", filter_empty=False),
    mapper=L(PartialMaskDatasetMapper)(is_train=False, augmentations=[], image_format="BGR"),
    num_workers=1,
)
dataloader.evaluator = L(SplitCOCOEvaluator)(
    dataset_name="${..test.dataset.names}", tasks=("bbox", "segm")
)

train = get_config("common/train.py").train
train.update(
    output_dir="output/shapes",
    max_iter=1200,
    eval_period=0,
    log_period=10,
    seed=1,
    device="cuda" if torch.cuda.is_available() else "cpu",
)
train.checkpointer.update(period=200, max_to_keep=1)

optimizer = get_config("common/optim.py").AdamW
optimizer.update(lr=1e-3, weight_decay=0.05)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=0.1,
    warmup_factor=0.01,
)
