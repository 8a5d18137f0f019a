"""Contact sheets, to look at what was made."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from make_shapes import json_path

from .categories import choose_categories
from .drawing import Drawn, paint
from .files import write_png
from .parts import PARTS
from .rules import REFERENCE_SIZE
from .sources import STYLES
from .sprites import read_sprites


def draw_scene_sheet(directory: Path, file: str | os.PathLike[str], columns: int = 4) -> None:
    """
    Draw scenes of every part, each beside its masks.

    Outlines are green on singles, and yellow and magenta on the two of a pair.
    """
    rows = []
    for part in PARTS:
        path = json_path(directory, part)
        if not path.is_file():
            continue
        content = json.loads(path.read_text())
        names = {c["id"]: c["name"] for c in content["categories"]}
        by_image = defaultdict(list)
        for annotation in content["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        tiles = []
        for image in content["images"][: 3 * columns if part == "train" else columns]:
            pixels = cv2.imread(str(directory / part / image["file_name"]))
            tiles.append(_scene_tile(pixels, by_image[image["id"]], names))
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
        title = np.full((20, tiles[0].shape[1] * columns, 3), 255, np.uint8)
        _put_text(title, f"{part}: {', '.join(content['info']['styles'])}", 4, 14)
        rows.append(title)
        rows += [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    write_png(Path(file), np.vstack(rows)[:, :, ::-1])


def _scene_tile(
    pixels: np.ndarray, annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> np.ndarray:
    zoom = max(1, 256 // len(pixels))
    pixels = cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    overlay = pixels // 2
    labels = []
    named = set()
    for annotation in annotations:
        colour = (0, 255, 0)
        if annotation["pair"]:
            colour = (255, 0, 255) if annotation["pair"] in named else (0, 255, 255)
            named.add(annotation["pair"])
        mask = mask_utils.decode(annotation["segmentation"])
        mask = cv2.resize(mask, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        overlay[mask > 0] = overlay[mask > 0] // 2 + pixels[mask > 0] // 2
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(overlay, contours, -1, colour, 1)
        labels.append((names[annotation["category_id"]], annotation["bbox"], colour))
    for name, (x, y, _, height), colour in labels:
        # The second of a pair is named below it.
        y = y + height + 5 if colour == (255, 0, 255) else y + 2
        x = min(x, len(pixels) / zoom - 3.2 * len(name))
        _put_text(overlay, name, max(0, x) * zoom, min(y * zoom, len(pixels) - 4), colour)
    return np.pad(np.hstack([pixels, overlay]), ((1, 1), (1, 1), (0, 0)))


def draw_category_sheet(
    sources: Path, categories: int, file: str | os.PathLike[str], columns: int = 10
) -> None:
    """Draw all categories in all styles, with their names, in the order of the categories."""
    chosen = choose_categories(sources, categories)
    sprites = read_sprites(sources, chosen, STYLES, REFERENCE_SIZE)
    width, height = 70 * len(STYLES), 84
    rows = -(-categories // columns)
    sheet = np.full((rows * height, columns * width, 3), 205, np.uint8)
    for index, category in enumerate(chosen):
        x, y = index % columns * width, index // columns * height
        for k in range(len(STYLES)):
            pixels = sprites[index * len(STYLES) + k].levels[0]
            shrink = 66 / max(pixels.shape[:2])
            pixels = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            paint(sheet, Drawn(sprites[0], x + 70 * k + 2, y + 2, pixels))
        _put_text(sheet, f"{index + 1} {category['name'][:30]}", x + 2, y + 79, (0, 0, 0))
    write_png(Path(file), sheet)


def _put_text(
    image: np.ndarray, text: str, x: float, y: float, colour: Sequence[int] = (0, 0, 0)
) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, text, (int(x), int(y)), font, 0.38, tuple(colour), 1, cv2.LINE_AA)
