"""The config keys of this package."""

from __future__ import annotations

from detectron2.config import CfgNode

from .deepmask.config import add_deepmask_config
from .image_labels.config import add_image_labels_config

__all__ = ["add_maskx_config"]


def add_maskx_config(cfg: CfgNode) -> None:
    """
    Add ``MODEL.MASKX`` and two keys of ``TEST`` to a detectron2 config, before a file is merged.

    Also ``MODEL.DEEPMASK``, see :func:`~maskx_d2.deepmask.add_deepmask_config`, and
    ``MODEL.IMAGE_LABELS``, see :func:`~maskx_d2.image_labels.add_image_labels_config`.

    Those of the first take effect with ``MODEL.ROI_HEADS.NAME: MaskXROIHeads`` (or another that
    mixes in :class:`~maskx_d2.modeling.MaskXMixin`) and
    ``MODEL.ROI_MASK_HEAD.NAME: MaskXConvUpsampleHead``.
    The defaults are the paper's best setting, without the MLP branch. Tables are the paper's.
    """
    cfg.MODEL.MASKX = CfgNode()
    # What the weight transfer function T sees of a category (Table 1a): its box-head weights
    # "cls", "box" or "cls+box" (class-agnostic box regression leaves "cls" only), or a fixed
    # vector: "embedding", of EMBEDDING_FILE, or "random".
    cfg.MODEL.MASKX.TRANSFER_INPUT = "cls+box"
    # A .npy or .pt file with a vector for each category, matched by name; see
    # maskx_d2/modeling/embedding_files.py.
    cfg.MODEL.MASKX.EMBEDDING_FILE = ""
    # Widths of T's hidden layers: [] is one layer, [256] two, [256, 256] three (Table 1b).
    cfg.MODEL.MASKX.TRANSFER_HIDDEN_DIMS = [256]
    # Slope of the LeakyReLU after each hidden layer, a float; 0.0 is ReLU (Table 1b).
    cfg.MODEL.MASKX.TRANSFER_NEGATIVE_SLOPE = 0.1
    # Parts of T's input that are zero in a training step, and noise that is added to it, relative
    # to its own spread; neither in the paper. Both keep T from learning few categories by heart.
    cfg.MODEL.MASKX.TRANSFER_DROPOUT = 0.0
    cfg.MODEL.MASKX.TRANSFER_NOISE = 0.0
    # Cut the gradient between T and the box head; needed in end-to-end training (Table 1d).
    cfg.MODEL.MASKX.STOP_GRAD = True
    # Add the class-agnostic mask of one fully connected layer to the logits (Table 1c).
    cfg.MODEL.MASKX.MLP_BRANCH = False
    # Its rank; 0 is the paper's full rank, 157 M parameters for 256 channels and 28×28 masks.
    cfg.MODEL.MASKX.MLP_RANK = 0
    # Widths of its hidden layers, each with a ReLU; none in the paper.
    cfg.MODEL.MASKX.MLP_HIDDEN_DIMS = []
    # Residual blocks in front of the mask head's convolutions: "bottleneck", "hourglass" or "" for
    # none, and how many. They need ROI_MASK_HEAD.NORM, and may replace its NUM_CONV convolutions.
    cfg.MODEL.MASKX.MASK_TRUNK = ""
    cfg.MODEL.MASKX.MASK_TRUNK_DEPTH = 1
    # What the mask head is trained on: "proposals", as in Mask R-CNN, or "ground_truth" boxes,
    # whose sides are each moved at random by up to half of MASK_ROI_JITTER of the box's size.
    cfg.MODEL.MASKX.MASK_ROIS = "proposals"
    cfg.MODEL.MASKX.MASK_ROI_JITTER = 0.0
    # Learn from boxes that have no mask: that the mask reaches the box's sides, that neighbouring
    # pixels of one colour belong together (both BoxInst's), and that it is neither outside the box
    # nor on other objects' known masks. The weights of these losses, 0.0 is off, and the iterations
    # over which they grow.
    cfg.MODEL.MASKX.BOX_PROJECTION_WEIGHT = 0.0
    cfg.MODEL.MASKX.BOX_AFFINITY_WEIGHT = 0.0
    cfg.MODEL.MASKX.BOX_BACKGROUND_WEIGHT = 0.0
    cfg.MODEL.MASKX.BOX_WARMUP_ITERS = 0
    # Stage-wise training: all but the mask branch stays as MODEL.WEIGHTS has it (Table 1d).
    cfg.MODEL.MASKX.FREEZE_DETECTOR = False
    # Or else the parts that are trained, by name, such as ["roi_heads.box_predictor"] for
    # categories that come later; [] is all.
    cfg.MODEL.MASKX.TRAINED_MODULES = []
    # A folder in which stage-wise training keeps what the detector hands to the mask head, so that
    # it runs once, on one augmentation of each image; see maskx_d2/engine/roi_cache.py. "" is none.
    cfg.MODEL.MASKX.ROI_CACHE = ""
    # Evaluate masks on ground-truth boxes too: maskx_d2/evaluation/mask_probe.py.
    cfg.TEST.MASK_PROBE = False
    # Keep the checkpoint that is best in this metric, such as "segm_B/AP", as model_best.pth; of
    # those that are evaluated every TEST.EVAL_PERIOD iterations. "" is none.
    cfg.TEST.BEST_CHECKPOINT = ""
    add_deepmask_config(cfg)
    add_image_labels_config(cfg)
