"""A data set of photographs in two parts: one to choose methods on, one to report them on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from _trainings import ROOT
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

FOLDER = ROOT / "output" / "mask_study"


def register_parts(name: str) -> tuple[str, str]:
    """
    Register every third image of a COCO data set as ``<name>_choose``, the others as ``_report``.

    The data set is read, and a file of the part is written, when a part is loaded.
    """
    parts: dict[str, Callable[[int], bool]] = {
        f"{name}_choose": lambda i: i % 3 == 0,
        f"{name}_report": lambda i: i % 3 != 0,
    }
    for part, wanted in parts.items():
        if part not in DatasetCatalog.list():
            DatasetCatalog.register(part, lambda n=part, w=wanted: _load(name, n, w))
    choose, report = parts
    return choose, report


def _load(name: str, part: str, wanted: Callable[[int], bool]) -> list[dict[str, Any]]:
    whole = MetadataCatalog.get(name)
    with open(whole.json_file) as source:
        content = json.load(source)
    images = sorted(content["images"], key=lambda image: image["id"])
    content["images"] = [image for i, image in enumerate(images) if wanted(i)]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    file = FOLDER / f"{part}.json"
    FOLDER.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")  # another study may do the same
    unfinished.write_text(json.dumps(content))
    unfinished.rename(file)
    MetadataCatalog.get(part).set(
        json_file=str(file), image_root=whole.image_root, evaluator_type="coco"
    )
    records: list[dict[str, Any]] = load_coco_json(str(file), whole.image_root, part)
    return records
