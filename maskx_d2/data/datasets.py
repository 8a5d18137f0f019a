"""
Data sets of which some categories have boxes only, made from any registered data set.

Which masks a training may see is decided by the data set's name in ``cfg.DATASETS.TRAIN`` and by
nothing else, as in ``coco_2017_train_voc2nonvoc``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..splits import (
    SHAPES_CLASSES,
    ClassSplit,
    coco_nonvoc2voc,
    coco_voc2nonvoc,
    load_split,
    shapes_a27b9,
)
from .partial_masks import drop_masks, has_mask

__all__ = ["class_split_of", "register_partial", "register_presets"]

logger = logging.getLogger(__name__)

#: Makes a split from all category names of a data set, in its order.
SplitFunction = Callable[[Sequence[str]], ClassSplit]


def register_partial(
    name: str,
    *,
    base: str,
    split: ClassSplit | SplitFunction | str | os.PathLike[str],
    keep_masks: bool = False,
) -> None:
    """
    Register ``base`` a second time, as a data set in which only set A of ``split`` has masks.

    The data set loads as ``base`` does, whatever its format, and every box stays. The masks of
    set B are dropped while it loads, so no training on ``name`` can see them.

    Args:
        name: the new data set's name, for ``cfg.DATASETS``.
        base: name of a registered data set. It may be registered after this call.
        split: a :class:`ClassSplit`, a function from category names to one (such as
            :func:`~maskx_d2.splits.coco_voc2nonvoc`), or the path of a JSON file that
            :func:`~maskx_d2.splits.load_split` reads.
        keep_masks: for data sets to evaluate on: the masks of B stay, and the split only tells
            the evaluator and the visualiser which categories are A and B.

    Raises:
        ValueError: if ``name`` is taken; when the data set is loaded, if the split and the
            categories of ``base`` disagree.
        FileNotFoundError: if ``split`` is a path without a file; when the data set is loaded, if
            a file of ``base`` is missing.
    """
    if name in DatasetCatalog.list():
        raise ValueError(f"data set '{name}' is registered already; choose another name.")
    if not isinstance(split, ClassSplit) and not callable(split):
        split = load_split(split)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)  # of a data set that was registered, and removed, before
    MetadataCatalog.get(name).set(base_dataset=base, has_masks_of_boxes_only=keep_masks)
    if base in DatasetCatalog.list():
        _inherit_metadata(name, base, split)
    # Last, so that nothing is registered when the split is wrong.
    DatasetCatalog.register(name, partial(_load_partial, name, base, split, keep_masks))


def class_split_of(dataset_name: str) -> ClassSplit | None:
    """
    The split that a data set was registered with, or None if it has none.

    Where the data set's categories are known only once it is loaded, it is loaded.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("base_dataset") and metadata.get("class_split") is None:
        DatasetCatalog.get(dataset_name)
    split: ClassSplit | None = metadata.get("class_split")
    return split


_OWN_KEYS = ("name", "base_dataset", "has_masks_of_boxes_only", "class_split")


def _load_partial(
    name: str, base: str, split: ClassSplit | SplitFunction, keep_masks: bool
) -> list[dict[str, Any]]:
    if base not in DatasetCatalog.list():
        raise KeyError(f"data set '{name}' is made from '{base}', which is not registered.")
    _check_files_exist(name, base)
    dataset_dicts: list[dict[str, Any]] = DatasetCatalog.get(base)
    _inherit_metadata(name, base, split)
    class_split: ClassSplit | None = MetadataCatalog.get(name).get("class_split")
    if class_split is None:
        raise ValueError(
            f"data set '{base}' does not name its categories; set "
            f"MetadataCatalog.get('{base}').thing_classes before '{name}' is used."
        )
    _, boxes_only = class_split.indices(MetadataCatalog.get(name).thing_classes)
    if not keep_masks:
        dataset_dicts = drop_masks(dataset_dicts, boxes_only)
    _log_supervision(name, dataset_dicts, frozenset(boxes_only))
    return dataset_dicts


def _inherit_metadata(name: str, base: str, split: ClassSplit | SplitFunction) -> None:
    """Give ``name`` what is known of ``base`` by now: some of it appears when the base loads."""
    metadata = MetadataCatalog.get(name)
    for key, value in MetadataCatalog.get(base).as_dict().items():
        # A base may itself be partial; its split is not this one's.
        if key not in _OWN_KEYS and metadata.get(key) is None:
            metadata.set(**{key: value})
    thing_classes = metadata.get("thing_classes")
    if thing_classes and metadata.get("class_split") is None:
        class_split = split if isinstance(split, ClassSplit) else split(thing_classes)
        class_split.indices(thing_classes)  # a split that does not fit is an error here and now
        metadata.set(class_split=class_split)


def _check_files_exist(name: str, base: str) -> None:
    metadata = MetadataCatalog.get(base)
    for key, kind in (("json_file", Path.is_file), ("image_root", Path.is_dir)):
        path = metadata.get(key)
        if path is not None and "://" not in str(path) and not kind(Path(path)):
            raise FileNotFoundError(
                f"data set '{name}' needs '{path}' ({key} of '{base}'), which does not exist; "
                f"put the data there, or register '{base}' with the right path (for detectron2's "
                "own data sets: set DETECTRON2_DATASETS)."
            )


def _log_supervision(
    name: str, dataset_dicts: Sequence[dict[str, Any]], boxes_only: frozenset[int]
) -> None:
    boxes = masks = boxes_of_b = masks_of_b = 0
    for record in dataset_dicts:
        for annotation in record.get("annotations", ()):
            masked = has_mask(annotation)
            boxes += 1
            masks += masked
            if annotation["category_id"] in boxes_only:
                boxes_of_b += 1
                masks_of_b += masked
    logger.info(
        f"{name}: {boxes} boxes, {masks} masks. Set A: {boxes - boxes_of_b} boxes, "
        f"{masks - masks_of_b} masks. Set B: {boxes_of_b} boxes, {masks_of_b} masks."
    )


# ------------------------------------------------------------------------------------- presets

_TRAINING, _EVALUATION = False, True  # evaluation keeps the masks of B
_COCO_SPLITS = {"voc2nonvoc": coco_voc2nonvoc, "nonvoc2voc": coco_nonvoc2voc}
_SHAPES_SPLITS = {"a27b9": shapes_a27b9}

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
    Register ``shapes_{train,val,test}`` and each data set of the table as ``<base>_<split>``.

    The shapes live under ``$DETECTRON2_DATASETS``, or ``datasets``, as detectron2's own data sets
    do. No file is read.
    """
    root = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "shapes")
    for part in ("train", "val", "test"):
        register_coco_instances(
            f"shapes_{part}",
            {"thing_classes": list(SHAPES_CLASSES)},
            str(root / "annotations" / f"instances_{part}.json"),
            str(root / part),
        )
    for base, (keep_masks, splits) in _PRESETS.items():
        for split_name, split in splits.items():
            register_partial(f"{base}_{split_name}", base=base, split=split, keep_masks=keep_masks)
