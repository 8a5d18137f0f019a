"""
The recommended Mask^X R-CNN on ViTDet, ViT-B, which starts from a masked autoencoder of ImageNet.

Optimizer, augmentation and schedule are those of detectron2's ViTDet-B (Li et al., ECCV 2022): 100
epochs of COCO with large-scale jittering. It needs `pip install timm`, as detectron2's ViT does.
"""

from functools import partial

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from maskx_d2 import apply_box_supervision, apply_maskx
from maskx_d2.data import PartialMaskDatasetMapper
from maskx_d2.evaluation import SplitCOCOEvaluator

model = apply_maskx(get_config("common/models/mask_rcnn_vitdet.py").model)
apply_box_supervision(model, projection_weight=0.3, warmup_iters=1000)

SIZE = 1024
dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.mapper = L(PartialMaskDatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.RandomFlip)(horizontal=True),
        L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=SIZE, target_width=SIZE),
        L(T.FixedSizeCrop)(crop_size=(SIZE, SIZE), pad=False),
    ],
    image_format="RGB",
    use_instance_mask=True,
    recompute_boxes=True,
)
dataloader.train.dataset.names = "coco_2017_train_voc2nonvoc"
dataloader.train.total_batch_size = 64
dataloader.test.dataset = L(get_detection_dataset_dicts)(
    names="coco_2017_val_voc2nonvoc", filter_empty=False
)
dataloader.test.mapper.augmentations[0].update(short_edge_length=SIZE, max_size=SIZE)
dataloader.evaluator = L(SplitCOCOEvaluator)(dataset_name="${..test.dataset.names}")

train = get_config("common/train.py").train
train.update(
    output_dir="output/recommended/maskx_rcnn_vitdet_b",
    init_checkpoint="detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True",
    max_iter=184375,  # 100 epochs of 118,000 images, 64 at a time
)
train.amp.enabled = train.ddp.fp16_compression = True

optimizer = get_config("common/optim.py").AdamW
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[163889, 177546, 184375]
    ),
    warmup_length=250 / train.max_iter,
    warmup_factor=0.001,
)
