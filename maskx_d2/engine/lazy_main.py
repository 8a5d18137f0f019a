"""
Training and evaluation from a LazyConfig ``.py`` file.

The same steps in the same order as detectron2's ``tools/lazyconfig_train_net.py``, which is a
script and can't be imported, out of the same parts.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import (
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import (
    SimpleTrainer,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..data import PartialMaskDatasetMapper, TrainLoader, log_supervision
from ..deepmask import DeepMask
from ..evaluation import MaskProbe, rle_evaluation
from ..image_labels import PeakResponseClassifier
from ..modeling import check_supervised_masks_only
from .autocast import CPUAutocastTrainer, GPUAutocastTrainer
from .category_counts import check_category_counts
from .checkpointing import MaskXCheckpointer
from .freezing import freeze, trains_masks
from .monitoring import BestCheckpointer, PredictionImages
from .overrides import merge_lazy_overrides
from .resuming import SeedEachIteration
from .roi_cache import ShuffledRoIs
from .roi_training import check_roi_cache, train_on_rois

__all__ = ["build_train_loader", "dataset_names", "is_lazy", "lazy_main", "load_lazy"]


def is_lazy(config_file: str) -> bool:
    """Whether it is a LazyConfig: a Python file, or the yaml that a run of one leaves."""
    if config_file.endswith(".py"):
        return True
    # In bytes, so that it can be asked of any file.
    with PathManager.open(config_file, "rb") as f:
        return any(line.startswith((b"dataloader:", b"lr_multiplier:")) for line in f)


def load_lazy(config_file: str, opts: Sequence[str] = ()) -> DictConfig:
    """
    A LazyConfig file with its overrides.

    Raises:
        ValueError: if the file describes no model, or an override can't be read or is taken for a
            typing mistake, see :func:`~maskx_d2.engine.overrides.merge_lazy_overrides`.
    """
    cfg = LazyConfig.load(config_file)
    if not isinstance(cfg, DictConfig) or "model" not in cfg:
        raise ValueError(
            f"file '{config_file}' is not a LazyConfig: it has no 'model'; name a config of "
            "detectron2, .yaml or .py."
        )
    return merge_lazy_overrides(cfg, opts)


def lazy_main(args: argparse.Namespace) -> Any:
    """Train (``--resume`` goes on where a run stopped), or evaluate with ``--eval-only``."""
    cfg = load_lazy(args.config_file, args.opts)
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="maskx_d2")
    model = instantiate(cfg.model).to(cfg.train.device)
    freeze(model, cfg.train.get("freeze_detector", False), cfg.train.get("trained_modules") or [])
    ddp = dict(cfg.train.ddp)
    if torch.device(cfg.train.device).type == "cpu":
        ddp.setdefault("device_ids", None)  # detectron2 would name a GPU
    model = create_ddp_model(model, **ddp)
    if not args.eval_only:
        return _train(args, cfg, model)
    _checkpointer(cfg, model).resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    return _evaluate(cfg, model)


def _train(args: argparse.Namespace, cfg: DictConfig, model: nn.Module) -> None:
    sampler = cfg.dataloader.train.get("sampler") or {"_target_": "TrainingSampler"}
    check_roi_cache(
        cfg.train.get("roi_cache", ""),
        cfg.train.get("freeze_detector", False),
        getattr(sampler["_target_"], "__name__", str(sampler["_target_"])).split(".")[-1],
    )
    bare_model = getattr(model, "module", model)
    train_loader = build_train_loader(cfg)
    trained_on = _names(cfg, "train")
    check_category_counts(
        bare_model,
        trained_on,
        "model.roi_heads.num_classes",
        tested_on=_names(cfg, "test") if "evaluator" in cfg.dataloader else (),
    )
    mapper = cfg.dataloader.train.get("mapper")  # None: a loader of one's own has its ways
    if mapper is not None and isinstance(instantiate(mapper), PartialMaskDatasetMapper):
        check_supervised_masks_only(bare_model)
    cfg.optimizer.params.model = bare_model
    trainer = _trainer_class(cfg)(model, train_loader, instantiate(cfg.optimizer))
    checkpointer = _checkpointer(cfg, model, trainer=trainer)
    seed = cfg.train.get("seed", -1)
    main_process = comm.is_main_process()
    trainer.register_hooks(
        [
            SeedEachIteration(seed) if seed is not None and seed >= 0 else None,
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
            if main_process
            else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: _evaluate(cfg, model)),
            BestCheckpointer(cfg.train.eval_period, checkpointer, cfg.train.best_checkpoint)
            if main_process and cfg.train.get("best_checkpoint")
            else None,
            PredictionImages(
                cfg.train.vis_period,
                model,
                dataset_names(cfg)[0],
                instantiate(cfg.dataloader.test.mapper),
            )
            if cfg.train.get("vis_period", 0) > 0 and dataset_names(cfg)
            else None,
            hooks.PeriodicWriter(
                default_writers(cfg.train.output_dir, cfg.train.max_iter),
                period=cfg.train.log_period,
            )
            if main_process
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    if cfg.train.get("roi_cache"):
        train_loader = _train_on_cached_rois(cfg, trainer)
    resumed = args.resume and checkpointer.has_checkpoint()
    start_iter = trainer.iter + 1 if resumed else 0
    if isinstance(train_loader, (TrainLoader, ShuffledRoIs)):
        train_loader.start_iter = start_iter
    trainer.train(start_iter, cfg.train.max_iter)


def _checkpointer(cfg: DictConfig, model: nn.Module, **checkpointables: Any) -> MaskXCheckpointer:
    return MaskXCheckpointer(
        model,
        cfg.train.output_dir,
        datasets=dataset_names(cfg),
        dump_config=lambda: _saved_config(cfg.train.output_dir),
        **checkpointables,
    )


def _saved_config(folder: str) -> str:
    """As detectron2's ``default_setup`` has written it, which can dump any LazyConfig."""
    path = os.path.join(folder, "config.yaml")
    if not PathManager.isfile(path):
        return ""
    with PathManager.open(path) as f:
        return str(f.read())


def dataset_names(cfg: DictConfig, *parts: str) -> list[str]:
    """Those that a config tests on, followed by those that it trains on; or of one part alone."""
    return [name for part in parts or ("test", "train") for name in _names(cfg, part)]


def _names(cfg: DictConfig, part: str) -> list[str]:
    names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names") or []
    return [names] if isinstance(names, str) else list(names)


def _train_on_cached_rois(cfg: DictConfig, trainer: SimpleTrainer) -> ShuffledRoIs:
    """Of the detector's weights that have been loaded just now."""
    return train_on_rois(
        trainer,
        cfg.train.roi_cache,
        instantiate(cfg.dataloader.train.dataset),
        instantiate(cfg.dataloader.train.mapper),
        settings=_what_rois_depend_on(cfg),
        seed=max(cfg.train.get("seed", -1) or 0, 0),
        num_workers=cfg.dataloader.train.num_workers,
        images_per_batch=cfg.dataloader.train.total_batch_size,
    )


def _what_rois_depend_on(cfg: DictConfig) -> str:
    """The settings that change which RoIs there are, or what the mask head sees of them."""
    parts = [
        OmegaConf.to_container(p, resolve=True) for p in (cfg.model, cfg.dataloader.train.mapper)
    ]
    roi_heads = parts[0]["roi_heads"]
    for key in list(roi_heads):
        if key in ("_target_", "mask_head", "class_embedding", "stop_grad") or (
            key.startswith("transfer_")
        ):
            roi_heads.pop(key)
    return as_text(parts)


def as_text(container: Any) -> str:
    """What a part of a LazyConfig says, the same in every process."""
    return json.dumps(_plain(container), sort_keys=True)


def _plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """Of what JSON has no word for, something that it has, without an address in memory."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in within:
        return "itself"
    within = (*within, id(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v, within) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, within) for v in value]
    if isinstance(value, partial):
        return [_plain(part, within) for part in (value.func, value.args, value.keywords)]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value).__repr__ is object.__repr__:
        return [_plain(type(value)), _plain(getattr(value, "__dict__", {}), within)]
    return str(value)


def _trainer_class(cfg: DictConfig) -> type[SimpleTrainer]:
    if not cfg.train.amp.enabled:
        return SimpleTrainer
    on_cpu = torch.device(cfg.train.device).type == "cpu"
    return CPUAutocastTrainer if on_cpu else GPUAutocastTrainer


def build_train_loader(cfg: DictConfig) -> Any:
    """
    The config's loader; in place of detectron2's own, one that a training can resume.

    Raises:
        ValueError: if it keeps from the model what that learns from, or there is no mask to learn
            from.
    """
    if _located(cfg.dataloader.train._target_) is not build_detection_train_loader:
        return instantiate(cfg.dataloader.train)
    _check_what_is_kept_back(cfg)
    kwargs = {k: instantiate(v) for k, v in cfg.dataloader.train.items() if k != "_target_"}
    names = cfg.dataloader.train.dataset.get("names")
    if names and isinstance(kwargs["dataset"], list):
        log_supervision(
            [names] if isinstance(names, str) else list(names),
            kwargs["dataset"],
            masks_needed=_located(cfg.model._target_) is DeepMask
            or (
                _has_mask_head(cfg)
                and trains_masks(cfg.train.get("trained_modules") or [])
                and not _boxes_need_no_mask(cfg.model.roi_heads)
            ),
        )
    return TrainLoader(**kwargs)


def _boxes_need_no_mask(roi_heads: DictConfig) -> bool:
    """See :attr:`BoxSupervision.needs_no_mask`, of one that is not made yet."""
    boxes = roi_heads.get("box_supervision")
    if boxes is None:
        return False
    return bool(boxes.get("projection_weight", 1.0) or boxes.get("affinity_weight", 0.0))


def _check_what_is_kept_back(cfg: DictConfig) -> None:
    """What models of yaml configs check for themselves: here they don't see the data's config."""
    model, data = _located(cfg.model._target_), cfg.dataloader.train
    if model is PeakResponseClassifier:
        is_stock = _located(data.dataset.get("_target_")) is get_detection_dataset_dicts
        if is_stock and data.dataset.get("filter_empty", True):
            raise ValueError(
                "PeakResponseClassifier learns from images that have labels and no instance; set "
                "dataloader.train.dataset.filter_empty to False."
            )
    elif model is DeepMask:
        mapper = _located(data.mapper.get("_target_"))
        is_stock = isinstance(mapper, type) and issubclass(mapper, DatasetMapper)
        if is_stock and not data.mapper.get("use_instance_mask", False):
            raise ValueError(
                "DeepMask learns from masks; set dataloader.train.mapper.use_instance_mask to True."
            )


def _located(target: Any) -> Any:
    return locate(target) if isinstance(target, str) else target


def _has_mask_head(cfg: DictConfig) -> bool:
    return (cfg.model.get("roi_heads") or {}).get("mask_head") is not None


def _evaluate(cfg: DictConfig, model: nn.Module) -> Any:
    if "evaluator" not in cfg.dataloader:
        return None
    evaluator = instantiate(cfg.dataloader.evaluator)
    if cfg.train.get("mask_probe", False) and _has_mask_head(cfg):
        folder = os.path.join(cfg.train.output_dir, "inference")
        names = cfg.dataloader.test.dataset.names
        if not isinstance(names, str) and len(names) != 1:
            raise ValueError(
                "train.mask_probe needs one data set in dataloader.test.dataset.names."
            )
        name = names if isinstance(names, str) else names[0]
        evaluator = DatasetEvaluators([evaluator, MaskProbe(name, model, output_dir=folder)])
    with rle_evaluation(model, evaluator):
        results = inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results
