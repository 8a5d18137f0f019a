"""
DeepMask on photographs, of a size that learns some hundred of them on a CPU in half an hour.

ImageNet's ResNet-50 up to res3 stays as it is. Patches are smaller than the paper's, 128 pixels, of
images whose shorter side is 320. AdamW, because after 600 iterations of SGD all masks were one
round patch, the mean.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.model_zoo import get_config

from maskx_d2.deepmask import DeepMask
from maskx_d2.evaluation import MaskProposalEvaluator

from .common import dataloader, lr_multiplier, optimizer, train

SIZE = 320  # of the shorter side, in pixels

trunk = get_config("common/models/mask_rcnn_c4.py").model.backbone
trunk.freeze_at = 3
model = L(DeepMask)(
    backbone=trunk,
    patch_size=128,
    object_size=72,
    context=32,
    mask_size=56,
    conv_dim=256,
    rank=256,
    score_dims=(256, 512),
    positive_jitter=(8.0, 0.25),
    negative_distance=(16.0, 1.0),
    scales=(0.25, 0.354, 0.5, 0.707, 1.0, 1.414),
    topk=100,
)

_resize = L(T.ResizeShortestEdge)(short_edge_length=SIZE, max_size=SIZE * 3 // 2)
dataloader.train.dataset.names = "coco_2017_train_a20b30c30"
dataloader.train.mapper.augmentations = [_resize]  # patches are mirrored anyway
dataloader.test.dataset.names = "coco_2017_val_a20b30c30"
dataloader.test.mapper.augmentations = [_resize]
dataloader.evaluator = L(MaskProposalEvaluator)(
    dataset_name="${..test.dataset.names}", output_dir="${...train.output_dir}/inference"
)
train.update(output_dir="output/photographs/deepmask", max_iter=1000)
