"""One part of a data set: what it is, whether it is there, and how it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from make_shapes import json_path
from tqdm import tqdm

from .backgrounds import crop_photograph, draw_background, photographs_of
from .cast import Cast
from .coco import annotate, licences
from .files import write_png, write_text
from .scenes import render_scene
from .sources import STYLES

# Part of each JSON's "info": raise it whenever the same arguments would give other files.
VERSION = "1"
PARTS = ("train", "val", "test", "test_seen")


def describe_part(part: str, count: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON file's "info", which tells a part from one that is made with other arguments."""
    held_out = arguments["held_out"]
    return {
        "description": "maskx_d2 emoji scenes, made by datasets/make_emoji.py",
        "version": VERSION,
        "arguments": {"part": part, "num_images": count, **arguments},
        "styles": [style for style in STYLES if (style == held_out) == (part == "test")],
    }


def make_part(
    directory: Path,
    part: str,
    info: dict[str, Any],
    categories: Sequence[Mapping[str, Any]],
    cast: Cast,
    photographs: Sequence[Path],
    bar: tqdm,
) -> None:
    """Write the images of one part, then its JSON file."""
    arguments = info["arguments"]
    size = arguments["image_size"]
    grounds = photographs_of(part, photographs)
    (directory / part).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(arguments["num_images"]):
        rng = np.random.default_rng((arguments["seed"], PARTS.index(part), index))
        if grounds:
            image = crop_photograph(rng, grounds[rng.integers(len(grounds))], size)
        else:
            image = draw_background(rng, size)
        objects = render_scene(rng, cast, image)
        file_name = f"{index:08d}.png"
        write_png(directory / part / file_name, image)
        images.append({"id": index + 1, "file_name": file_name, "height": size, "width": size})
        for instance, pair in objects:
            ids = {"id": len(annotations) + 1, "image_id": index + 1}
            annotations.append(ids | annotate(instance, pair))
        bar.update()
    content = {
        "info": info,
        "licenses": licences(info["styles"]),
        "categories": [{k: c[k] for k in ("id", "name", "supercategory")} for c in categories],
        "images": images,
        "annotations": annotations,
    }
    path = json_path(directory, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, separators=(",", ":")))
