"""
Visual Genome's boxes and COCO's masks under one list of 3,001 categories, COCO's 80 first.

The experiment of the paper's section 5; see docs/VISUAL_GENOME.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..splits import ClassSplit
from .coco_json import load_coco_json
from .coco_reader import read_categories
from .datasets import register_partial

__all__ = ["register_visual_genome", "register_with_categories"]

PARTS = ("train", "val", "test")
NUM_COCO_CLASSES = 80


def register_visual_genome(datasets: str | os.PathLike[str], *, prefix: str = "") -> None:
    """
    Register what ``datasets/make_visual_genome.py`` wrote, and COCO 2017 with its categories.

    - ``visual_genome_{train,val,test}``: boxes of 3,001 categories, no masks
    - ``coco_2017_{train,val}_vg3k``: COCO's boxes and masks of the first 80 of the same categories
    - each of these with ``_coco80``: the same, split into A, COCO's 80, and B, all others

    Args:
        datasets: the directory of the data sets. No file of it is read.
        prefix: stands before all names, those of COCO's data sets too: for a second copy of the
            data beside the one that is registered already.
    """
    root = Path(datasets) / "visual_genome"
    annotations = root / "annotations"
    training = {}
    for part in PARTS:
        name = f"{prefix}visual_genome_{part}"
        register_coco_instances(name, {}, str(annotations / f"instances_{part}.json"), str(root))
        training[name] = part == "train"
    for part in ("train", "val"):
        base = f"{prefix}coco_2017_{part}"
        register_with_categories(
            f"{base}_vg3k", base=base, categories_file=annotations / "categories.json"
        )
        training[f"{base}_vg3k"] = part == "train"
    for name, is_training in training.items():
        register_partial(f"{name}_coco80", base=name, split=coco80, keep_masks=not is_training)


def coco80(thing_classes: Sequence[str]) -> ClassSplit:
    """The paper's section 5: masks for the 80 categories of COCO, which come first."""
    return ClassSplit.from_with_masks("coco80", thing_classes[:NUM_COCO_CLASSES], thing_classes)


def register_with_categories(
    name: str, *, base: str, categories_file: str | os.PathLike[str]
) -> None:
    """
    Register a COCO data set a second time, with more categories than it has itself.

    Args:
        name: the new data set's name.
        base: a registered data set of which detectron2 knows ``json_file``, ``image_root``, and
            the categories' names and ids, as it does of its own COCO data sets.
        categories_file: a JSON file with ``"categories"`` as in COCO's, the base's among them
            under the same ids.

    Raises:
        FileNotFoundError: when the data set is loaded, if a file is missing.
        ValueError: if ``name`` is taken; when the data set is loaded, if the categories don't hold
            the base's.
    """
    if name in DatasetCatalog.list():
        raise ValueError(f"data set '{name}' is registered already; choose another name.")
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)  # of a data set that was registered, and removed, before
    # No json_file: the base's names fewer categories, so an evaluation makes its own of what is
    # loaded.
    MetadataCatalog.get(name).set(
        evaluator_type="coco", image_root=MetadataCatalog.get(base).image_root
    )
    DatasetCatalog.register(name, partial(_load, name, base, Path(categories_file)))


def _load(name: str, base: str, categories_file: Path) -> list[dict[str, Any]]:
    of_base = MetadataCatalog.get(base)
    json_file = PathManager.get_local_path(of_base.json_file)
    for path, remedy in (
        (categories_file, "make it with datasets/make_visual_genome.py"),
        (Path(json_file), f"put the data of '{base}' there, or set DETECTRON2_DATASETS"),
    ):
        if not path.is_file():
            raise FileNotFoundError(f"data set '{name}' needs '{path}'; {remedy}.")
    categories = read_categories(categories_file, progress=comm.is_main_process())
    for category_id, i in of_base.thing_dataset_id_to_contiguous_id.items():
        category = of_base.thing_classes[i]
        if categories.get(category_id) != category:
            raise ValueError(
                f"data set '{name}': the category '{category}' of '{base}' has the id "
                f"{category_id}, which is {categories.get(category_id)!r} in '{categories_file}'; "
                "both must use the same ids."
            )
    MetadataCatalog.get(name).set(
        thing_classes=list(categories.values()),
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(categories)},
    )
    return load_coco_json(json_file, of_base.image_root, categories)
