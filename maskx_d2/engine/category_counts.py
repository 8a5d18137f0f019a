"""Whether a model has as many categories as the data that it is trained on."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from detectron2.data import MetadataCatalog
from torch import nn

from ..data.coco_reader import read_categories
from ..image_labels import PeakResponseClassifier

__all__ = ["check_category_counts"]

# In place of a detector's
_KEYS_OF_CLASSIFIER = {
    "MODEL.ROI_HEADS.NUM_CLASSES": "MODEL.IMAGE_LABELS.NUM_CLASSES",
    "model.roi_heads.num_classes": "model.num_classes",
}


def check_category_counts(
    model: nn.Module, datasets: Iterable[str], key: str, *, tested_on: Iterable[str] = ()
) -> None:
    """
    Stop a training whose model has categories that the data lack, or lacks some of theirs.

    Detectron2 trains both: a category without instances is only ever a negative, and where the
    model has fewer, an index is out of range, on a GPU without saying which. The first is what a
    config made for COCO does with other data, and shows when the model is evaluated.

    Args:
        model: in DistributedDataParallel or not: one with ROI heads, or a classifier of image
            labels; of another nothing is checked.
        datasets: names of data sets that are loaded. Those that don't name their categories are
            not checked.
        key: of the config, which says how many categories a detector has.
        tested_on: names of other data sets, which the training ends with. They need not be loaded.

    Raises:
        ValueError: if there are more or fewer.
    """
    model = getattr(model, "module", model)
    num_classes = getattr(getattr(model, "roi_heads", None), "num_classes", None)
    if isinstance(model, PeakResponseClassifier):
        num_classes, key = model.num_classes, _KEYS_OF_CLASSIFIER[key]
    if num_classes is None:
        return
    for name in datasets:
        names = MetadataCatalog.get(name).get("thing_classes")
        if names and len(names) != num_classes:
            raise ValueError(
                f"the model has {num_classes} categories, but data set '{name}' has {len(names)}; "
                f"set {key} to {len(names)}."
            )
    for name in tested_on:
        names = _categories_of(name)
        if names and len(names) != num_classes:
            raise ValueError(
                f"the model has {num_classes} categories, but data set '{name}', which it is to be "
                f"tested on, has {len(names)}; test on one with the same categories."
            )


def _categories_of(name: str) -> Collection[str]:
    """Those of a data set; of one that only names them when it is loaded, those of its file."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") or metadata.get("base_dataset"):
        return metadata.get("thing_classes") or _categories_of(metadata.base_dataset)
    file = metadata.get("json_file", "")
    if metadata.get("evaluator_type") not in ("coco", "lvis") or not os.path.isfile(file):
        return ()
    return read_categories(file, progress=False).values()
