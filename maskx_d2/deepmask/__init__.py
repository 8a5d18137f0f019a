"""DeepMask: class-agnostic mask proposals, learnt from the masks that there are."""

from .branches import MaskBranch, ScoreBranch
from .config import add_deepmask_config
from .losses import deepmask_losses
from .meta_arch import DeepMask
from .sampler import PatchSampler
from .vgg import VGGBackbone, build_vgg_a_backbone

__all__ = [
    "DeepMask",
    "MaskBranch",
    "PatchSampler",
    "ScoreBranch",
    "VGGBackbone",
    "add_deepmask_config",
    "build_vgg_a_backbone",
    "deepmask_losses",
]
