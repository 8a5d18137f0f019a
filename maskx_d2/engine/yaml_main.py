"""Training and evaluation from a yaml config, as in detectron2's ``tools/train_net.py``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.evaluation import verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_maskx_config
from .checkpointing import MaskXCheckpointer
from .overrides import merge_overrides, no_such_key
from .trainer import MaskXTrainer

__all__ = ["load_config", "setup", "yaml_main"]


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """
    A yaml config file with its overrides.

    Raises:
        ValueError: if the file is not a config, or it or an override has a key that there is not.
    """
    cfg = get_cfg()
    add_maskx_config(cfg)
    try:
        cfg.merge_from_file(config_file)
    except KeyError as e:
        unknown = str(e.args[0]).rpartition(": ")[2]
        raise ValueError(f"file '{config_file}': {no_such_key(cfg, unknown)}") from e
    except (AttributeError, TypeError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ValueError(
            f"file '{config_file}' is not a config of detectron2; name a .yaml or .py file such "
            "as the config.yaml that a training leaves."
        ) from e
    merge_overrides(cfg, opts)
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config file and the command line's overrides, and start detectron2's logging."""
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="maskx_d2")
    return cfg


def yaml_main(args: argparse.Namespace) -> Any:
    """Train (``--resume`` goes on where a run stopped), or evaluate with ``--eval-only``."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = MaskXTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        if cfg.TEST.AUG.ENABLED:
            _end_with_augmentation(trainer)
        return trainer.train()
    model = MaskXTrainer.build_model(cfg)
    datasets = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    MaskXCheckpointer(model, cfg.OUTPUT_DIR, datasets=datasets).resume_or_load(
        cfg.MODEL.WEIGHTS, resume=args.resume
    )
    results = MaskXTrainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(_test_with_augmentation(cfg, GeneralizedRCNNWithTTA(cfg, model)))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _end_with_augmentation(trainer: MaskXTrainer) -> None:
    """Let a training end with test-time augmentation, whose figures are logged as the others."""
    model = getattr(trainer.model, "whole", trainer.model)  # of one on cached RoIs
    augmented = GeneralizedRCNNWithTTA(trainer.cfg, model)  # refuses other models, so now

    def evaluate() -> dict[str, Any]:
        results = _test_with_augmentation(trainer.cfg, augmented)
        trainer._last_eval_results.update(results)
        return results

    trainer.register_hooks([EvalHook(0, evaluate)])
    trainer._hooks.sort(key=lambda hook: isinstance(hook, PeriodicWriter))  # these end last


def _test_with_augmentation(cfg: CfgNode, model: GeneralizedRCNNWithTTA) -> dict[str, Any]:
    """The results of detectron2's test-time augmentation, as ``<task>_TTA``."""
    evaluators = [
        MaskXTrainer.build_evaluator(cfg, name, os.path.join(cfg.OUTPUT_DIR, "inference_TTA"))
        for name in cfg.DATASETS.TEST
    ]
    results = MaskXTrainer.test(cfg, model, evaluators)
    return {f"{task}_TTA": metrics for task, metrics in results.items()}
