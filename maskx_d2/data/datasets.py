"""
Data sets of which some categories have boxes or image labels only, made from any other.

Which masks and boxes a training may see is decided by the data set's name in
``cfg.DATASETS.TRAIN`` and by nothing else, as in ``coco_2017_train_voc2nonvoc``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..splits import ClassSplit, load_split
from .coco_json import load_coco_json
from .coco_reader import read_categories
from .image_labels import keep_labels_only
from .lvis_json import load_lvis_json
from .partial_masks import drop_masks
from .supervision import SupervisionSummary

__all__ = [
    "NotRegisteredError",
    "check_registered",
    "class_split_of",
    "log_supervision",
    "register_partial",
    "thing_classes_of",
]

logger = logging.getLogger(__name__)

#: Makes a split from all category names of a data set, in its order.
SplitFunction = Callable[[Sequence[str]], ClassSplit]


class NotRegisteredError(ValueError):
    """There is no data set of that name; a mistake in a command or a config."""


def check_registered(name: str) -> None:
    """
    Raises:
        NotRegisteredError: if there is no data set of that name. It says which may be meant.
    """
    known = DatasetCatalog.list()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise NotRegisteredError(f"data set '{name}' is not registered{hint}")


def register_partial(
    name: str,
    *,
    base: str,
    split: ClassSplit | SplitFunction | str | os.PathLike[str] | None = None,
    keep_masks: bool = False,
) -> None:
    """
    Register ``base`` a second time, as a data set in which only set A of ``split`` has masks.

    The data set loads as ``base`` does, whatever its format, and every box of A and B stays. The
    masks of set B are dropped while it loads, so no training on ``name`` can see them; those of a
    COCO JSON file never take memory. Where the split has a set C, the boxes of C are dropped as
    well, no image is, and each has ``image_labels``; see :mod:`~maskx_d2.data.image_labels`.

    Args:
        name: the new data set's name, for ``cfg.DATASETS``.
        base: name of a registered data set. It may be registered after this call.
        split: a :class:`ClassSplit`, a function from category names to one (such as
            :func:`~maskx_d2.splits.coco_voc2nonvoc`), or the path of a JSON file that
            :func:`~maskx_d2.splits.load_split` reads. None if masks are missing here and there
            and not by category: nothing is dropped, and every box of a COCO JSON file stays,
            also those that detectron2's loader drops for a mask of fewer than 3 points.
        keep_masks: for data sets to evaluate on: the masks of B stay, the boxes and masks of C
            too, and the split only tells the evaluator and the visualiser which categories are
            A, B and C.

    Raises:
        ValueError: if ``name`` is taken; when the data set is loaded, if the split and the
            categories of ``base`` disagree.
        FileNotFoundError: if ``split`` is a path without a file; when the data set is loaded, if
            a file of ``base`` is missing.
    """
    if name in DatasetCatalog.list():
        raise ValueError(f"data set '{name}' is registered already; choose another name.")
    if isinstance(split, (str, os.PathLike)):
        split = load_split(split)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)  # of a data set that was registered, and removed, before
    MetadataCatalog.get(name).set(
        base_dataset=base, declared_split=split, has_masks_of_boxes_only=keep_masks
    )
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
    if metadata.get("declared_split") is not None and metadata.get("class_split") is None:
        DatasetCatalog.get(dataset_name)
    split: ClassSplit | None = metadata.get("class_split")
    return split


def thing_classes_of(dataset_name: str) -> list[str]:
    """
    The category names of a registered data set, loaded if need be.

    Raises:
        KeyError: if it is not registered.
        ValueError: if it does not name its categories.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if not metadata.get("thing_classes"):
        DatasetCatalog.get(dataset_name)
    if not metadata.get("thing_classes"):
        raise ValueError(
            f"data set '{dataset_name}' does not name its categories; set "
            f"MetadataCatalog.get('{dataset_name}').thing_classes."
        )
    return list(metadata.thing_classes)


def log_supervision(
    names: Sequence[str], dataset_dicts: Sequence[dict[str, Any]], *, masks_needed: bool
) -> SupervisionSummary:
    """
    Log how many instances a training will see, and how many of them with a mask.

    Args:
        names: the data sets' names, as in ``cfg.DATASETS.TRAIN``.
        dataset_dicts: what a training on them uses, see :func:`get_detection_dataset_dicts`.
        masks_needed: whether the model has a mask head that learns from masks alone.

    Raises:
        ValueError: if masks are needed and there is none.
    """
    thing_classes = MetadataCatalog.get(names[0]).get("thing_classes")
    if thing_classes is None:
        ids = (a["category_id"] for d in dataset_dicts for a in d.get("annotations", ()))
        thing_classes = [f"category {i}" for i in range(max(ids, default=-1) + 1)]
    summary = SupervisionSummary.from_dataset_dicts(dataset_dicts, thing_classes)
    logger.info(summary.describe(" + ".join(names)))
    if masks_needed and not summary.masks.sum():
        raise ValueError(
            f"no instance of {' + '.join(names)} has a mask, so there is nothing to learn masks "
            "from; `maskx check` says what is in the data. For a box detector set "
            "MODEL.MASK_ON to False; to learn masks from boxes alone, "
            "MODEL.MASKX.BOX_PROJECTION_WEIGHT (apply_box_supervision)."
        )
    return summary


_OWN_KEYS = (
    "name",
    "base_dataset",
    "class_split",
    "declared_split",
    "has_masks_of_boxes_only",
)


def _load_partial(
    name: str, base: str, split: ClassSplit | SplitFunction | None, keep_masks: bool
) -> list[dict[str, Any]]:
    if base not in DatasetCatalog.list():
        raise KeyError(f"data set '{name}' is made from '{base}', which is not registered.")
    _check_files_exist(name, base)
    load_json = _json_loader(base)
    if load_json is not None:
        categories = _read_categories(base)
    else:
        dataset_dicts: list[dict[str, Any]] = DatasetCatalog.get(base)
    _inherit_metadata(name, base, split)
    sets = {} if split is None else _sets(name, base)
    without_masks, without_boxes = (
        ((), ()) if keep_masks else (sets.get("B", ()), sets.get("C", ()))
    )
    if load_json is None:
        dataset_dicts = drop_masks(dataset_dicts, without_masks)
    else:
        metadata = MetadataCatalog.get(base)
        dataset_dicts = load_json(
            PathManager.get_local_path(metadata.json_file),
            metadata.image_root,
            categories,
            boxes_only=without_masks,
            labels_only=without_boxes,
        )
    return keep_labels_only(dataset_dicts, without_boxes) if "C" in sets else dataset_dicts


def _sets(name: str, base: str) -> dict[str, list[int]]:
    """The contiguous ids of set A, of set B, and of set C where there is one."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("class_split") is None:
        raise ValueError(
            f"data set '{base}' does not name its categories; set "
            f"MetadataCatalog.get('{base}').thing_classes before '{name}' is used."
        )
    sets: dict[str, list[int]] = metadata.class_split.indices_of_sets(metadata.thing_classes)
    return sets


# What registers a JSON file and nothing more → what reads it here
_JSON_LOADERS = {
    register_coco_instances.__module__: load_coco_json,
    register_lvis_instances.__module__: load_lvis_json,
}


def _json_loader(name: str) -> Callable[..., list[dict[str, Any]]] | None:
    """What reads the file of a data set that detectron2's own functions registered, else None."""
    return _JSON_LOADERS.get(getattr(DatasetCatalog[name], "__module__", ""))


def _read_categories(base: str) -> dict[int, str]:
    """The categories of a JSON file, also as the metadata that detectron2 makes of them."""
    metadata = MetadataCatalog.get(base)
    id_map = metadata.get("thing_dataset_id_to_contiguous_id")
    if _json_loader(base) is load_lvis_json and not id_map and metadata.get("thing_classes"):
        # Detectron2 takes LVIS's ids to be 1, 2, …, and calls one category other than the file.
        id_map = {i: i - 1 for i in range(1, len(metadata.thing_classes) + 1)}
        metadata.thing_dataset_id_to_contiguous_id = id_map
    if id_map and metadata.get("thing_classes"):  # detectron2's own, the user's, or read before
        if [id_map[c] for c in sorted(id_map)] != list(range(len(id_map))):
            raise ValueError(
                f"data set '{base}': thing_dataset_id_to_contiguous_id does not number the ids 0, "
                "1, 2, … in their order, as detectron2 does with a JSON file's; leave it and "
                "thing_classes out where the data set is registered, and both are read from the "
                "file."
            )
        return {c: metadata.thing_classes[i] for c, i in sorted(id_map.items())}
    json_file = PathManager.get_local_path(metadata.json_file)
    categories = read_categories(json_file, progress=comm.is_main_process())
    names = list(categories.values())
    known = metadata.get("thing_classes", names)
    if known != names:
        difference = next(
            (n for n in [*names, *known] if (n in names) != (n in known)), "the order"
        )
        raise ValueError(
            f"data set '{base}' is registered with {len(known)} categories, but its JSON file "
            f"'{json_file}' has {len(names)}; they differ in '{difference}'. Register that file "
            "under a name of its own."
        )
    metadata.thing_classes = names
    metadata.thing_dataset_id_to_contiguous_id = {c: i for i, c in enumerate(categories)}
    return categories


def _inherit_metadata(name: str, base: str, split: ClassSplit | SplitFunction | None) -> None:
    """Give ``name`` what is known of ``base`` by now: some of it appears when the base loads."""
    metadata = MetadataCatalog.get(name)
    for key, value in MetadataCatalog.get(base).as_dict().items():
        # A base may itself be partial; its split is not this one's.
        if key not in _OWN_KEYS and metadata.get(key) is None:
            metadata.set(**{key: value})
    thing_classes = metadata.get("thing_classes")
    if split is not None and thing_classes and metadata.get("class_split") is None:
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
