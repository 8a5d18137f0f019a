"""Detectron2's trainer with the two parts that partial masks change."""

from __future__ import annotations

import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..data import PartialMaskDatasetMapper
from ..evaluation import SplitCOCOEvaluator
from ..modeling import check_supervised_masks_only

__all__ = ["MaskXTrainer"]


class MaskXTrainer(DefaultTrainer):
    """
    :class:`DefaultTrainer` that loads samples with missing masks and evaluates A and B.

    For your own trainer, override ``build_train_loader`` and ``build_evaluator`` in the same way.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # Detectron2 sets up its own loggers only, and what this package has to say matters.
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="maskx_d2")
        super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """
        See :meth:`DefaultTrainer.build_model`.

        Raises:
            ValueError: see :func:`check_supervised_masks_only`.
        """
        model: nn.Module = super().build_model(cfg)
        check_supervised_masks_only(model)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """See :meth:`DefaultTrainer.build_train_loader`."""
        return build_detection_train_loader(
            cfg, mapper=PartialMaskDatasetMapper(cfg, is_train=True)
        )

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> SplitCOCOEvaluator:
        """
        See :meth:`DefaultTrainer.build_evaluator`. Predictions go to ``OUTPUT_DIR/inference``.

        Raises:
            ValueError: if the data set is to be evaluated with other than COCO's metrics.
        """
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if evaluator_type != "coco":
            raise ValueError(
                f"data set '{dataset_name}' asks for evaluator '{evaluator_type}', but only COCO "
                "evaluation is built in; override MaskXTrainer.build_evaluator."
            )
        tasks = ["bbox"]
        tasks += ["segm"] if cfg.MODEL.MASK_ON else []
        tasks += ["keypoints"] if cfg.MODEL.KEYPOINT_ON else []
        return SplitCOCOEvaluator(
            dataset_name,
            tasks,
            output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"),
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )
