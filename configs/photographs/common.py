"""
Mask R-CNN, R-50-FPN, of a size that learns some hundred photographs on a CPU in an hour.

ImageNet's ResNet-50 stays as it is; the FPN and the heads behind it, half as wide as detectron2's,
are trained from scratch.
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
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from maskx_d2.data import PartialMaskDatasetMapper
from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.modeling import SupervisedMasksROIHeads

SIZE = 480  # of the shorter side, in pixels

model = get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 5
model.backbone.out_channels = 128
model.proposal_generator.head.in_channels = 128
model.proposal_generator.update(pre_nms_topk=(500, 500), post_nms_topk=(300, 100))
heads = model.roi_heads
heads.update(_target_=SupervisedMasksROIHeads, batch_size_per_image=64)
heads.box_head.update(input_shape=ShapeSpec(channels=128, height=7, width=7), fc_dims=[512, 512])
heads.box_predictor.input_shape = ShapeSpec(channels=512)
heads.mask_head.update(
    input_shape=ShapeSpec(channels=128, height=14, width=14), conv_dims=[128] * 5, num_classes=1
)

_resize = L(T.ResizeShortestEdge)(short_edge_length=SIZE, max_size=SIZE * 3 // 2)
dataloader = get_config("common/data/coco.py").dataloader
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train_voc2nonvoc"),
    mapper=L(PartialMaskDatasetMapper)(
        is_train=True,
        augmentations=[_resize, L(T.RandomFlip)(horizontal=True)],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    ),
    total_batch_size=2,
    num_workers=1,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val_voc2nonvoc", filter_empty=False),
    mapper=L(PartialMaskDatasetMapper)(is_train=False, augmentations=[_resize], image_format="BGR"),
    num_workers=1,
)
dataloader.evaluator = L(SplitCOCOEvaluator)(dataset_name="${..test.dataset.names}")

train = get_config("common/train.py").train
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="output/photographs",
    max_iter=1500,
    eval_period=0,
    log_period=10,
    seed=1,
    device="cuda" if torch.cuda.is_available() else "cpu",
)
train.amp.enabled = True
train.checkpointer.update(period=200, max_to_keep=1)

optimizer = get_config("common/optim.py").AdamW
optimizer.update(lr=3e-4, weight_decay=0.05)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=0.05,
    warmup_factor=0.01,
)
