"""Data sets of one's own without a line of Python: a yaml file that names them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

from .._yaml import load_yaml
from ..splits import load_split
from .datasets import register_partial

__all__ = ["ENVIRONMENT_VARIABLE", "register_datasets_of_file"]

#: Path of such a file, or several with ``:`` between them (``;`` on Windows).
ENVIRONMENT_VARIABLE = "MASKX_DATASETS"

_KEYS = {"json": str, "images": str, "base": str, "split": str, "keep_masks": bool}


def register_datasets_of_file(path: str | os.PathLike[str]) -> list[str]:
    """
    Register the data sets that a yaml file names.

    Each is a COCO JSON file with its folder of images, or a view of a registered data set::

        fruit_train:
          json: fruit/train.json        # relative to the yaml file; ~ and $VARIABLES will do
          images: fruit/images
          split: fruit_split.json       # as load_split reads it; leave it out to keep all masks
        fruit_val:
          json: fruit/val.json
          images: fruit/images
          split: fruit_split.json
          keep_masks: true              # to evaluate on: masks of B, boxes and masks of C stay
        coco_fruit:
          base: coco_2017_train
          split: coco_fruit_split.json

    Those with a JSON file are registered as ``<name>_all_masks`` first, which is what detectron2
    makes of it. The JSON files and images are not looked at.

    Args:
        path: of the yaml file.

    Returns:
        The names.

    Raises:
        FileNotFoundError: if the file, or a split's, does not exist.
        ValueError: if something in it is not as above, or a name is taken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"file '{path}' of {ENVIRONMENT_VARIABLE} does not exist.")
    try:
        content = load_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as e:
        raise ValueError(f"data sets file '{path}' is no valid yaml: {e}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"data sets file '{path}' must map names to data sets.")
    for name, said in content.items():
        try:
            _register(str(name), _checked(said), path.parent)
        except (ValueError, FileNotFoundError) as e:
            raise type(e)(f"data set '{name}' of file '{path}': {e}") from None
    return list(map(str, content))


def _register(name: str, said: Mapping[str, Any], folder: Path) -> None:
    base = said.get("base") or f"{name}_all_masks"
    for new in (name,) if "base" in said else (name, base):
        if new in DatasetCatalog.list():
            raise ValueError(f"'{new}' is registered already; choose another name.")
    split = said.get("split")
    # Read first: a split that is wrong leaves nothing registered.
    class_split = None if split is None else load_split(_path(folder, split))
    if "base" not in said:
        register_coco_instances(base, {}, *(_path(folder, said[key]) for key in ("json", "images")))
    register_partial(name, base=base, split=class_split, keep_masks=said.get("keep_masks", False))


def _path(folder: Path, said: str) -> str:
    if "://" in said:  # detectron2 fetches it
        return said
    # Where it is not set, detectron2 takes ./datasets.
    datasets = os.path.abspath(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
    for name in ("$DETECTRON2_DATASETS", "${DETECTRON2_DATASETS}"):
        said = said.replace(name, datasets)
    path = os.path.expanduser(os.path.expandvars(said))
    if "$" in path:
        raise ValueError(f"path '{path}' names an environment variable that is not set.")
    return str(folder / path)


def _checked(said: Any) -> Mapping[str, Any]:
    if not isinstance(said, Mapping):
        raise ValueError("it must be a mapping with the keys json and images, or base.")
    for key, value in said.items():
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"keys are {', '.join(_KEYS)}."
            raise ValueError(f"'{key}' is no key; {hint}")
        if not isinstance(value, _KEYS[key]):
            kind = "true or false" if _KEYS[key] is bool else "text"
            raise ValueError(f"{key} must be {kind}, not {value!r}.")
    if "base" in said and ("json" in said or "images" in said):
        raise ValueError("it has a base, and json or images as well; remove one of them.")
    for key in () if "base" in said else ("json", "images"):
        if key not in said:
            raise ValueError(f"it lacks the key '{key}' (or base).")
    if said.get("keep_masks") and "split" not in said:
        raise ValueError("keep_masks is for data sets with a split; without one, all masks stay.")
    return said
