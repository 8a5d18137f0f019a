"""The config keys of the classifier of image labels."""

from __future__ import annotations

from detectron2.config import CfgNode

__all__ = ["add_image_labels_config"]


def add_image_labels_config(cfg: CfgNode) -> None:
    """
    Add ``MODEL.IMAGE_LABELS``, of ``MODEL.META_ARCHITECTURE: PeakResponseClassifier``.

    :func:`~maskx_d2.add_maskx_config` calls it. The defaults are those of peak response maps
    (Zhou et al., CVPR 2018).
    """
    cfg.MODEL.IMAGE_LABELS = CfgNode()
    cfg.MODEL.IMAGE_LABELS.NUM_CLASSES = 80
    # The side of the window in which a peak is the largest response, in features: an odd number.
    cfg.MODEL.IMAGE_LABELS.WINDOW = 3
