"""Detectron2's trainer with the two parts that partial masks change."""

from __future__ import annotations

import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer

from ..data import PartialMaskDatasetMapper
from ..evaluation import SplitCOCOEvaluator

__all__ = ["MaskXTrainer"]


class MaskXTrainer(DefaultTrainer):
    """
    :class:`DefaultTrainer` that loads samples with missing masks and evaluates A and B.

    For your own trainer, override these two methods in the same way.
    """

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
        return SplitCOCOEvaluator(
            dataset_name, output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        )
