"""Detectron2's trainer with the two parts that partial masks change."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, defaults
from detectron2.engine.hooks import PeriodicWriter
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..data import PartialMaskDatasetMapper, TrainLoader, log_supervision
from ..evaluation import (
    ImageLabelEvaluator,
    MaskProbe,
    MaskProposalEvaluator,
    SplitCOCOEvaluator,
    SplitLVISEvaluator,
    rle_evaluation,
)
from ..modeling import BoxSupervision, check_supervised_masks_only
from .autocast import CPUAutocastTrainer, GPUAutocastTrainer
from .category_counts import check_category_counts
from .checkpointing import MaskXCheckpointer
from .freezing import freeze, trains_masks
from .monitoring import BestCheckpointer, PredictionImages
from .resuming import SeedEachIteration
from .roi_cache import ShuffledRoIs
from .roi_training import CachedMaskBranch, check_roi_cache, train_on_rois

__all__ = ["MaskXTrainer"]


class MaskXTrainer(DefaultTrainer):
    """
    :class:`DefaultTrainer` that loads samples with missing masks and evaluates A and B.

    With a fixed ``SEED``, a training that was killed and resumed goes on exactly as it would have.

    For your own trainer, override ``build_train_loader`` and ``build_evaluator`` in the same way.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Raises:
            ValueError: if samples may lack masks and the model would not notice, see
                :func:`check_supervised_masks_only`.
        """
        # Detectron2 sets up its own loggers only, and what this package has to say matters.
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="maskx_d2")
        check_roi_cache(
            cfg.MODEL.MASKX.ROI_CACHE,
            cfg.MODEL.MASKX.FREEZE_DETECTOR,
            cfg.DATALOADER.SAMPLER_TRAIN,
        )
        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        with _ddp_on_cpu() if on_cpu else nullcontext():
            super().__init__(cfg)
        # Not earlier: a data set may name its categories only once it is loaded.
        check_category_counts(
            self._trainer.model,
            cfg.DATASETS.TRAIN,
            "MODEL.ROI_HEADS.NUM_CLASSES",
            tested_on=cfg.DATASETS.TEST,
        )
        made = self._trainer
        mapper = getattr(made.data_loader, "mapper", None)  # None: a loader of one's own
        if mapper is None or isinstance(mapper, PartialMaskDatasetMapper):
            check_supervised_masks_only(getattr(made.model, "module", made.model))
        if cfg.SOLVER.AMP.ENABLED:
            trainer = CPUAutocastTrainer if on_cpu else GPUAutocastTrainer
            self._trainer = trainer(made.model, made.data_loader, made.optimizer)

    def resume_or_load(self, resume: bool = True) -> None:
        """See :meth:`DefaultTrainer.resume_or_load`; the data goes on from there as well."""
        super().resume_or_load(resume)
        if self.cfg.MODEL.MASKX.ROI_CACHE:
            self._train_on_cached_rois()
        loader = self._trainer.data_loader
        if isinstance(loader, (TrainLoader, ShuffledRoIs)):
            loader.start_iter = self.start_iter

    def _train_on_cached_rois(self) -> None:
        """Of the detector's weights that have been loaded just now."""
        cfg = self.cfg
        train_on_rois(
            self._trainer,
            cfg.MODEL.MASKX.ROI_CACHE,
            build_detection_train_loader.from_config(cfg, mapper=None)["dataset"],
            PartialMaskDatasetMapper(cfg, is_train=True),
            settings=_what_rois_depend_on(cfg),
            seed=max(cfg.SEED, 0),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            images_per_batch=cfg.SOLVER.IMS_PER_BATCH,
        )

    def build_hooks(self) -> list[HookBase | None]:
        """See :meth:`DefaultTrainer.build_hooks`."""
        # The hooks are the first that keep the checkpointer.
        self.checkpointer = MaskXCheckpointer(
            self._trainer.model,
            self.cfg.OUTPUT_DIR,
            datasets=(*self.cfg.DATASETS.TRAIN, *self.cfg.DATASETS.TEST),
            dump_config=self.cfg.dump,
            trainer=weakref.proxy(self),
        )
        reproducible = [SeedEachIteration(self.cfg.SEED)] if self.cfg.SEED >= 0 else []
        return [*reproducible, *self._with_monitoring(super().build_hooks())]

    def _with_monitoring(self, found: list[HookBase | None]) -> list[HookBase | None]:
        """The hooks with those that the config asks for, where they belong among them."""
        cfg = self.cfg
        writer = next((i for i, h in enumerate(found) if isinstance(h, PeriodicWriter)), len(found))
        added: list[HookBase | None] = []
        if cfg.TEST.BEST_CHECKPOINT and comm.is_main_process():
            added.append(
                BestCheckpointer(cfg.TEST.EVAL_PERIOD, self.checkpointer, cfg.TEST.BEST_CHECKPOINT)
            )
        if cfg.VIS_PERIOD > 0 and cfg.DATASETS.TEST:
            mapper = DatasetMapper(cfg, is_train=False)
            added.append(
                PredictionImages(cfg.VIS_PERIOD, self._trainer.model, cfg.DATASETS.TEST[0], mapper)
            )
        return [*found[:writer], *added, *found[writer:]]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See :meth:`DefaultTrainer.build_model`; what is to be trained is said by the config."""
        model: nn.Module = super().build_model(cfg)
        return freeze(model, cfg.MODEL.MASKX.FREEZE_DETECTOR, cfg.MODEL.MASKX.TRAINED_MODULES)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """
        See :meth:`DefaultTrainer.build_train_loader`. It logs how many boxes have a mask.

        Raises:
            ValueError: if there is a mask head, but no mask to train it with, and it doesn't learn
                from boxes.
        """
        # What detectron2's own function would build the loader of.
        kwargs = build_detection_train_loader.from_config(
            cfg, mapper=PartialMaskDatasetMapper(cfg, is_train=True)
        )
        if isinstance(kwargs["dataset"], list):  # else one that is read as it is used
            boxes = BoxSupervision.of_config(cfg)
            needed = cfg.MODEL.META_ARCHITECTURE == "DeepMask" or (
                cfg.MODEL.MASK_ON
                and trains_masks(cfg.MODEL.MASKX.TRAINED_MODULES)
                and not (boxes is not None and boxes.needs_no_mask)
            )
            log_supervision(cfg.DATASETS.TRAIN, kwargs["dataset"], masks_needed=needed)
        return TrainLoader(**kwargs)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """See :meth:`DefaultTrainer.test`; with ``TEST.MASK_PROBE`` also :class:`MaskProbe`."""
        if isinstance(model, CachedMaskBranch):
            model = model.whole
        if evaluators is None:
            try:
                evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            except NotImplementedError:  # which the parent warns of
                none: dict[str, Any] = super().test(cfg, model)
                return none
            if cfg.TEST.MASK_PROBE and cfg.MODEL.MASK_ON:
                evaluators = [
                    DatasetEvaluators(
                        [evaluator, MaskProbe(name, model, output_dir=_folder_of(cfg, name))]
                    )
                    for name, evaluator in zip(cfg.DATASETS.TEST, evaluators)
                ]
        with rle_evaluation(model, evaluators):
            results: dict[str, Any] = super().test(cfg, model, evaluators)
        return results

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """
        See :meth:`DefaultTrainer.build_evaluator`. Predictions go to ``OUTPUT_DIR/inference``.

        Raises:
            ValueError: if the data set is to be evaluated with other than COCO's or LVIS's
                metrics.
        """
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if evaluator_type not in ("coco", "lvis"):
            raise ValueError(
                f"data set '{dataset_name}' asks for evaluator '{evaluator_type}', but only COCO's "
                "and LVIS's are built in; override MaskXTrainer.build_evaluator."
            )
        if cfg.MODEL.META_ARCHITECTURE == "DeepMask":  # proposals have no category to score
            folder = output_folder or _folder_of(cfg, dataset_name)
            return MaskProposalEvaluator(dataset_name, output_dir=folder)
        output_folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        if cfg.MODEL.META_ARCHITECTURE == "PeakResponseClassifier":
            return ImageLabelEvaluator(dataset_name)
        tasks = ["bbox"]
        tasks += ["segm"] if cfg.MODEL.MASK_ON else []
        if evaluator_type == "lvis":
            return SplitLVISEvaluator(dataset_name, tasks, output_dir=output_folder)
        tasks += ["keypoints"] if cfg.MODEL.KEYPOINT_ON else []
        return SplitCOCOEvaluator(
            dataset_name,
            tasks,
            output_dir=output_folder,
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )


def _folder_of(cfg: CfgNode, dataset_name: str) -> str:
    """Where what is found in a data set is written; of several, each has a folder of its own."""
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder


@contextmanager
def _ddp_on_cpu() -> Iterator[None]:
    """Detectron2 gives each process its GPU's number, which a model on a CPU must not have."""
    original = defaults.create_ddp_model
    defaults.create_ddp_model = partial(original, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = original


def _what_rois_depend_on(cfg: CfgNode) -> str:
    """The settings that change which RoIs there are, or what the mask head sees of them."""
    model = cfg.MODEL.clone()
    for key in ("MASKX", "DEEPMASK", "IMAGE_LABELS", "WEIGHTS", "DEVICE"):
        model.pop(key)
    model.ROI_HEADS.pop("NAME")
    for key in list(model.ROI_MASK_HEAD):
        if not key.startswith("POOLER"):
            model.ROI_MASK_HEAD.pop(key)
    return f"{model.dump()}\n{cfg.INPUT.dump()}"
