"""
Reading Visual Genome's files, which are lists of hundreds of megabytes, object by object.

A file that is not what its name says is a ValueError of one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskx_d2.data.coco_reader import read_list

OBJECT_KEYS = ("x", "y", "w", "h", "synsets")


def read_images(path: Path) -> list[dict[str, Any]]:
    """
    The images of ``image_data.json`` in COCO's terms, in the file's order.

    Returns:
        ``id``, ``width``, ``height``, ``file_name`` from the folder that the archives are unpacked
        in (``VG_100K/1.jpg``), and ``coco_id``, None for images that COCO does not have.
    """
    images: list[dict[str, Any]] = []
    seen = set()
    for number, entry in enumerate(_read_list(path, progress=False)):
        missing = [k for k in ("image_id", "width", "height", "url", "coco_id") if k not in entry]
        if missing:
            raise ValueError(
                f"{path}: entry {number} has no '{missing[0]}'; it is not Visual Genome's "
                "image_data.json of version 1.2 or later."
            )
        if entry["image_id"] in seen:
            raise ValueError(f"{path}: two images have the image_id {entry['image_id']}.")
        seen.add(entry["image_id"])
        # Some of those that COCO lacks have the coco_id -1 instead of null.
        in_coco = entry["coco_id"] is not None and entry["coco_id"] >= 0
        images.append(
            {
                "id": entry["image_id"],
                "width": entry["width"],
                "height": entry["height"],
                "file_name": "/".join(entry["url"].split("/")[-2:]),
                "coco_id": entry["coco_id"] if in_coco else None,
            }
        )
    if not images:
        raise ValueError(f"{path} has no images.")
    return images


def read_objects(path: Path, *, progress: bool) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """
    The objects of ``objects.json``: an image's id and its list of objects, in the file's order.

    Each object has numbers ``x``, ``y``, ``w`` and ``h`` in pixels, and a list ``synsets``.
    """
    seen = set()
    for number, entry in enumerate(_read_list(path, progress=progress)):
        image_id, objects = entry.get("image_id"), entry.get("objects")
        if not isinstance(image_id, int) or not isinstance(objects, list):
            raise ValueError(
                f"{path}: entry {number} needs an integer 'image_id' and a list 'objects'; it is "
                "not Visual Genome's objects.json."
            )
        if image_id in seen:
            raise ValueError(f"{path}: two entries have the image_id {image_id}.")
        seen.add(image_id)
        for thing in objects:
            _check_object(thing, path, image_id)
        yield image_id, objects


def read_coco(path: Path) -> tuple[dict[int, str], set[int]]:
    """
    Of a COCO file, its category names by id, in the order of the ids, and its image ids.

    Files about images alone, such as ``image_info_test2017.json``, will do where categories are
    not needed.
    """
    if not path.is_file():
        raise ValueError(
            f"'{path}' does not exist; it is COCO's, whose images are kept out of training: "
            "download it (docs/VISUAL_GENOME.md) or say where it is."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {c["id"]: c["name"] for c in content.get("categories", ())}
        images = {image["id"] for image in content["images"]}
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise ValueError(f"'{path}' is not a COCO JSON file.") from e
    return dict(sorted(names.items())), images


def _check_object(thing: Any, path: Path, image_id: int) -> None:
    missing = [k for k in OBJECT_KEYS if not isinstance(thing, dict) or k not in thing]
    if missing:
        raise ValueError(
            f"{path}: an object of image {image_id} has no '{missing[0]}'; objects.json of "
            "version 1.2 or 1.4 is needed."
        )
    numbers = all(isinstance(thing[k], (int, float)) for k in "xywh")
    if not numbers or not isinstance(thing["synsets"], list):
        raise ValueError(
            f"{path}: object {thing.get('object_id')} of image {image_id} needs numbers 'x', 'y', "
            "'w', 'h' and a list 'synsets'."
        )


def _read_list(path: Path, *, progress: bool) -> Iterator[dict[str, Any]]:
    """The objects of a file that is one JSON list."""
    if not path.is_file():
        raise ValueError(
            f"'{path}' does not exist; download Visual Genome's JSON files and unpack them there "
            "(docs/VISUAL_GENOME.md)."
        )
    yield from read_list(path, progress=progress)
