"""The data sets that are registered when the package is imported."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.data.datasets import register_coco_instances

from ..splits import (
    SHAPES_CLASSES,
    ClassSplit,
    coco_a20b30c30,
    coco_nonvoc2voc,
    coco_random_splits,
    coco_voc2nonvoc,
    load_split,
    shapes_a18b9c9,
    shapes_a27b9,
)
from .dataset_file import ENVIRONMENT_VARIABLE, register_datasets_of_file
from .datasets import SplitFunction, register_partial
from .lvis import register_lvis_presets
from .visual_genome import register_visual_genome

__all__ = ["own_datasets_registered", "register_presets"]

logger = logging.getLogger(__name__)

_UNREGISTERED: list[str] = []  # files of ``MASKX_DATASETS``

_TRAINING, _EVALUATION = False, True  # evaluation keeps the masks of B
_COCO_SPLITS = {
    "voc2nonvoc": coco_voc2nonvoc,
    "nonvoc2voc": coco_nonvoc2voc,
    "a20b30c30": coco_a20b30c30,
    **coco_random_splits(),
}
_SHAPES_SPLITS = {"a27b9": shapes_a27b9, "a18b9c9": shapes_a18b9c9}

# base data set → what it is used for, and its splits
_PRESETS: dict[str, tuple[bool, dict[str, SplitFunction]]] = {
    "coco_2014_train": (_TRAINING, _COCO_SPLITS),
    "coco_2014_valminusminival": (_TRAINING, _COCO_SPLITS),
    "coco_2014_minival": (_EVALUATION, _COCO_SPLITS),
    "coco_2017_train": (_TRAINING, _COCO_SPLITS),
    "coco_2017_val": (_EVALUATION, _COCO_SPLITS),
    "coco_2017_val_100": (_EVALUATION, _COCO_SPLITS),
    "shapes_train": (_TRAINING, _SHAPES_SPLITS),
    "shapes_val": (_EVALUATION, _SHAPES_SPLITS),
    "shapes_test": (_EVALUATION, _SHAPES_SPLITS),
}


def register_presets() -> None:
    """
    Register the generated data sets, each data set of the table as ``<base>_<split>``, and those
    of the file that the environment variable ``MASKX_DATASETS`` names.

    The shapes and the emoji scenes live under ``$DETECTRON2_DATASETS``, or ``datasets``, as
    detectron2's own data sets do. No data are read.
    """
    datasets = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
    _register_generated("shapes", datasets, ("train", "val", "test"), SHAPES_CLASSES)
    for count in (40, 120, 600):
        _register_emoji(f"emoji{count}", datasets, count)
    for base, (keep_masks, splits) in _PRESETS.items():
        for split_name, split in splits.items():
            register_partial(f"{base}_{split_name}", base=base, split=split, keep_masks=keep_masks)
    register_visual_genome(datasets)
    register_lvis_presets()
    _register_own()


def _register_own() -> None:
    """
    An import must not fail over a file that the program may not need; the commands stop, see
    :func:`own_datasets_registered`.
    """
    for path in filter(None, os.getenv(ENVIRONMENT_VARIABLE, "").split(os.pathsep)):
        try:
            register_datasets_of_file(os.path.expanduser(path))
        except (OSError, ValueError) as e:
            _UNREGISTERED.append(path)
            logger.error(str(e))  # to stderr, where logging is not set up yet


def own_datasets_registered() -> bool:
    """Whether all that ``MASKX_DATASETS`` names is registered; the log has said why not."""
    return not _UNREGISTERED


def _register_emoji(name: str, datasets: Path, count: int) -> None:
    parts = ("train", "val", "test", "test_seen")
    _register_generated(name, datasets, parts)
    sizes = [count * share // 4 for share in (1, 2, 3)]  # those that make_emoji.py makes
    random = [f"random_a{size}_seed{seed}" for size in sizes for seed in (0, 1, 2)]
    for split in ("by_group", *random):
        file = datasets / name / "splits" / f"{split}.json"
        for part in parts:
            register_partial(
                f"{name}_{part}_{split}",
                base=f"{name}_{part}",
                split=partial(_split_in_file, file),
                keep_masks=_TRAINING if part == "train" else _EVALUATION,
            )


def _split_in_file(file: Path, _categories: Sequence[str]) -> ClassSplit:
    return load_split(file)


def _register_generated(
    name: str, datasets: Path, parts: Sequence[str], classes: Sequence[str] | None = None
) -> None:
    """Register the parts of a data set that one of the scripts in ``datasets/`` makes."""
    root = datasets / name
    for part in parts:
        register_coco_instances(
            f"{name}_{part}",
            {} if classes is None else {"thing_classes": list(classes)},
            str(root / "annotations" / f"instances_{part}.json"),
            str(root / part),
        )
