"""From a detector's config and checkpoint to a config that trains masks for it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig, OmegaConf

from .._files import sha256_of
from ..data.datasets import check_registered, thing_classes_of
from ..engine.lazy_main import as_text, is_lazy, load_lazy
from ..engine.overrides import merge_lazy_overrides, merge_overrides
from ..engine.yaml_main import load_config
from .attached_cfg import attach_cfg
from .attached_lazy import attach_lazy

__all__ = ["attached_config", "check_output", "is_evaluated", "write_attached_config"]

_CONFIG = "attached.yaml"
_DETECTOR = "attached_to.json"


def attached_config(
    config_file: str,
    weights: str,
    output: str | os.PathLike[str],
    *,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    transfer_input: str | None = None,
    learn_from_boxes: bool = False,
    roi_cache: bool = False,
    opts: Sequence[str] = (),
) -> CfgNode | DictConfig:
    """
    The config of a training that attaches a mask branch to a detector.

    Args:
        config_file: the detector's, ``.yaml`` or ``.py``.
        weights: its checkpoint.
        output: the folder of the training's results.
        train: registered data sets to learn masks from; by default the config's.
        test: registered data sets to evaluate on; by default the config's.
        transfer_input, learn_from_boxes: see :func:`attach_cfg`.
        roi_cache: whether the detector runs over the training set only once, see
            ``MODEL.MASKX.ROI_CACHE``. The features go to the folder ``roi_cache`` of ``output``.
        opts: overrides, as on the command line of ``train_net.py``.

    Raises:
        FileNotFoundError: if the config file or the checkpoint does not exist.
        ValueError: if the model is none that masks can be attached to, or its categories are not
            as many as the data set's.
    """
    for path in (config_file, weights):
        if "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(f"file '{path}' does not exist.")
    cache = str(Path(output, "roi_cache")) if roi_cache else ""
    how: dict[str, Any] = {"transfer_input": transfer_input, "learn_from_boxes": learn_from_boxes}
    if is_lazy(config_file):
        if len(test) > 1:
            raise ValueError(
                "a LazyConfig's evaluator is of one data set; give one --test, and evaluate on the "
                "others with train_net.py --eval-only."
            )
        lazy = attach_lazy(load_lazy(config_file), **how)
        lazy.train.update(init_checkpoint=weights, output_dir=str(output), roi_cache=cache)
        for part, names in (("train", train), ("test", test)):
            if names:
                lazy.dataloader[part].dataset.names = list(names) if names[1:] else names[0]
        lazy = merge_lazy_overrides(lazy, opts)
        names = lazy.dataloader.train.dataset.names
        _check_categories(names if isinstance(names, str) else names[0], _num_classes(lazy))
        return lazy
    cfg = attach_cfg(load_config(config_file), **how)
    cfg.MODEL.WEIGHTS = weights
    cfg.OUTPUT_DIR = str(output)
    cfg.MODEL.MASKX.ROI_CACHE = cache
    cfg.DATASETS.TRAIN = tuple(train) or cfg.DATASETS.TRAIN
    cfg.DATASETS.TEST = tuple(test) or cfg.DATASETS.TEST
    merge_overrides(cfg, opts)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("the config names no DATASETS.TRAIN to learn masks from; give one.")
    _check_categories(cfg.DATASETS.TRAIN[0], cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    return cfg


def write_attached_config(cfg: CfgNode | DictConfig, output: str | os.PathLike[str]) -> Path:
    """
    Write an :func:`attached_config` as ``attached.yaml``, which ``train_net.py`` takes.

    Args:
        cfg: the config.
        output: a folder, which is made.

    Returns:
        The file.
    """
    path = Path(output, _CONFIG)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(cfg, DictConfig):
        LazyConfig.save(cfg, str(path))
    else:
        path.write_text(cfg.dump(), encoding="utf-8")
    return path


def check_output(cfg: CfgNode | DictConfig, weights: str, output: str | os.PathLike[str]) -> None:
    """
    Note in a folder which detector masks are attached to; of one in use, check that it is this one.

    A training goes on from its last checkpoint, whatever the config says by then.

    Args:
        cfg: the config that is to be trained.
        weights: the detector's checkpoint.
        output: the folder.

    Raises:
        ValueError: if the folder has a training of another model, data or detector. Its schedule
            and what it is tested on may change.
    """
    detector = {"weights": weights}
    if "://" not in weights:
        detector["sha256"] = sha256_of(weights)
    noted = Path(output, _DETECTOR)
    if Path(output, "last_checkpoint").is_file():
        if not Path(output, _CONFIG).is_file() or not noted.is_file():
            raise ValueError(f"'{output}' has another training; give an --output of its own.")
        before = json.loads(noted.read_text(encoding="utf-8"))
        if before != detector:
            raise ValueError(
                f"the training in '{output}' is of the detector '{before['weights']}'"
                f"{' as it was' if before['weights'] == weights else ''}; give another --output."
            )
        with TemporaryDirectory() as scratch:
            new = _what_stays(write_attached_config(cfg, scratch))
        old = _what_stays(Path(output, _CONFIG))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise ValueError(
                    f"the training in '{output}' has {key} {old.get(key)}, not {new.get(key)}; "
                    "give another --output."
                )
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.write_text(json.dumps(detector), encoding="utf-8")


def _what_stays(path: Path) -> dict[str, Any]:
    """What a training can't change when it goes on, key by key."""
    if is_lazy(str(path)):
        lazy = load_lazy(str(path))
        parts = {
            "model": OmegaConf.to_container(lazy.model, resolve=True),
            "dataloader.train.dataset": OmegaConf.to_container(lazy.dataloader.train.dataset),
        }
    else:
        cfg = load_config(str(path))
        cfg.MODEL.DEVICE = ""
        parts = {"MODEL": yaml.safe_load(cfg.MODEL.dump()), "DATASETS.TRAIN": cfg.DATASETS.TRAIN}
    found: dict[str, Any] = {}

    def flatten(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for k, v in value.items():
                flatten(f"{key}.{k}", v)
        else:
            found[key] = json.loads(as_text(value))

    for key, value in parts.items():
        flatten(key, value)
    return found


def is_evaluated(output: str | os.PathLike[str]) -> bool:
    """Whether a training in this folder is done, and its final checkpoint was evaluated."""
    metrics = Path(output, "metrics.json")
    if not Path(output, "model_final.pth").is_file() or not metrics.is_file():
        return False
    try:  # a kill may have cut the last line off
        last = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
    except (ValueError, IndexError):
        return False
    return any(key.endswith("/AP") for key in last)


def _num_classes(lazy: DictConfig) -> int:
    return int(lazy.model.roi_heads.num_classes)


def _check_categories(dataset: str, num_classes: int) -> None:
    check_registered(dataset)
    names = thing_classes_of(dataset)
    if len(names) != num_classes:
        raise ValueError(
            f"the detector has {num_classes} categories, but data set '{dataset}' has "
            f"{len(names)}; masks are learnt for the detector's own categories, in its order. "
            "Give the data set it was trained on, or another with the same categories."
        )
