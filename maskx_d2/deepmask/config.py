"""The config keys of DeepMask."""

from __future__ import annotations

from detectron2.config import CfgNode

__all__ = ["add_deepmask_config"]


def add_deepmask_config(cfg: CfgNode) -> None:
    """
    Add ``MODEL.DEEPMASK``, which takes effect with ``MODEL.META_ARCHITECTURE: DeepMask``.

    :func:`~maskx_d2.add_maskx_config` calls it. The defaults are the paper's (Pinheiro et al.,
    NIPS 2015). Pixels are those of a patch, after the image was scaled.
    """
    cfg.MODEL.DEEPMASK = CfgNode()
    # The side of a patch, and the longer side of an object in it; stride 16 makes 14×14 features.
    cfg.MODEL.DEEPMASK.PATCH_SIZE = 224
    cfg.MODEL.DEEPMASK.OBJECT_SIZE = 128
    # What the trunk sees around a patch in training, as it does in a scene, in pixels: a multiple
    # of its stride. Without, the trunk pads each patch with zeros, which a scene has not.
    cfg.MODEL.DEEPMASK.CONTEXT = 0
    # The mask branch: the mask's side, its convolution's channels, the rank of its classifier.
    cfg.MODEL.DEEPMASK.MASK_SIZE = 56
    cfg.MODEL.DEEPMASK.CONV_DIM = 512
    cfg.MODEL.DEEPMASK.RANK = 512
    # The score branch: its hidden layers, their dropout, and λ, its weight in the loss.
    cfg.MODEL.DEEPMASK.SCORE_DIMS = [512, 1024]
    cfg.MODEL.DEEPMASK.SCORE_DROPOUT = 0.5
    cfg.MODEL.DEEPMASK.SCORE_WEIGHT = 1.0 / 32
    # Training patches of each image, half of them with an object, if there is one with a mask.
    cfg.MODEL.DEEPMASK.PATCHES_PER_IMAGE = 16
    # How far those with an object are from where it belongs, at most: pixels, and octaves of scale.
    cfg.MODEL.DEEPMASK.POSITIVE_SHIFT = 16.0
    cfg.MODEL.DEEPMASK.POSITIVE_OCTAVES = 0.25
    # How far those without are from where any object belongs, at least.
    cfg.MODEL.DEEPMASK.NEGATIVE_SHIFT = 32.0
    cfg.MODEL.DEEPMASK.NEGATIVE_OCTAVES = 1.0
    # The scales of a scene: 2^-2 to 2^1 in steps of 2^1/2. Training takes patches without an
    # object of all scales between the smallest and the largest.
    cfg.MODEL.DEEPMASK.SCALES = [2.0 ** (octave / 2) for octave in range(-4, 3)]
    # What is object in a mask, as a probability.
    cfg.MODEL.DEEPMASK.MASK_THRESH = 0.2
    # Proposals of an image, the best. Of these, those whose box has a larger IoU with a better
    # one's than NMS_THRESH are dropped; 1.0 drops none.
    cfg.MODEL.DEEPMASK.TOPK_TEST = 1000
    cfg.MODEL.DEEPMASK.NMS_THRESH = 1.0
