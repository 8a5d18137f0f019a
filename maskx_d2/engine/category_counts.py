"""Whether a model has as many categories as the data that it is trained on."""

from __future__ import annotations

from collections.abc import Iterable

from detectron2.data import MetadataCatalog
from torch import nn

__all__ = ["check_category_counts"]


def check_category_counts(model: nn.Module, datasets: Iterable[str], key: str) -> None:
    """
    Stop a training whose model has categories that the data lack, or lacks some of theirs.

    Detectron2 trains both: a category without instances is only ever a negative, and where the
    model has fewer, an index is out of range, on a GPU without saying which. The first is what a
    config made for COCO does with other data, and shows when the model is evaluated.

    Args:
        model: in DistributedDataParallel or not; without ROI heads nothing is checked.
        datasets: names of data sets that are loaded. Those that don't name their categories are
            not checked.
        key: of the config, which says how many categories the model has.

    Raises:
        ValueError: if there are more or fewer.
    """
    roi_heads = getattr(getattr(model, "module", model), "roi_heads", None)
    num_classes = getattr(roi_heads, "num_classes", None)
    if num_classes is None:
        return
    for name in datasets:
        names = MetadataCatalog.get(name).get("thing_classes")
        if names and len(names) != num_classes:
            raise ValueError(
                f"the model has {num_classes} categories, but data set '{name}' has {len(names)}; "
                f"set {key} to {len(names)}."
            )
