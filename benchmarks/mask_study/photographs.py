"""A data set of photographs in two parts: one to choose methods on, one to report them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from maskx_d2._files import written_whole


def register_parts(name: str) -> tuple[str, str]:
    """
    Register every third image of a COCO data set as ``<name>_choose``, the others as ``_report``.

    Files are read when a part is.
    """
    parts = {f"{name}_choose": lambda i: i % 3 == 0, f"{name}_report": lambda i: i % 3 != 0}
    for part, wanted in parts.items():
        if part not in DatasetCatalog.list():
            DatasetCatalog.register(part, lambda n=part, w=wanted: _load(name, n, w))
    choose, report = parts
    return choose, report


def _load(name: str, part: str, wanted: Any) -> list[dict[str, Any]]:
    whole = MetadataCatalog.get(name)
    content = json.loads(Path(whole.json_file).read_text())
    images = sorted(content["images"], key=lambda image: image["id"])
    content["images"] = [image for i, image in enumerate(images) if wanted(i)]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    file = Path("output", "mask_study", f"{part}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(content))
    MetadataCatalog.get(part).set(
        json_file=str(file), image_root=whole.image_root, evaluator_type="coco"
    )
    records: list[dict[str, Any]] = load_coco_json(str(file), whole.image_root, part)
    return records
