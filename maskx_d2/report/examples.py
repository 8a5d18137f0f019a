"""Cut-outs of the best and the worst masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_util

from ..data.partial_masks import encode_mask
from ..engine.inference import LoadedModel
from ..modeling import given_instances
from ..postprocessing import rle_inference
from ..visualization import SET_COLORS

__all__ = ["Example", "best_and_worst", "cut_out"]

_SIDE = 220  # pixels of a cut-out's longer side
_CONTEXT = 0.25  # of the box, on each side


@dataclass(frozen=True)
class Example:
    """
    An instance.

    Attributes:
        image_id, annotation: whose it is, and its place among the image's annotations.
        category: its name.
        iou: of the first model's mask on the true box, in [0, 1].
    """

    image_id: Any
    annotation: int
    category: str
    iou: float


def best_and_worst(
    probe: Sequence[dict[str, Any]], names: Sequence[str], classes: Sequence[int], count: int
) -> tuple[list[Example], list[Example]]:
    """
    Instances of a subset, each of another category as far as there are enough.

    Args:
        probe: see :class:`Measured`.
        names: of all categories.
        classes: the subset.
        count: how many of each.
    """
    wanted = set(classes)
    rows = sorted((r for r in probe if r["category_id"] in wanted), key=lambda r: r["iou"])

    def first(ordered: Sequence[dict[str, Any]]) -> list[Example]:
        seen: set[int] = set()
        others = []
        chosen = []
        for row in ordered:
            (others if row["category_id"] in seen else chosen).append(row)
            seen.add(row["category_id"])
        return [
            Example(r["image_id"], r["annotation"], names[r["category_id"]], r["iou"])
            for r in (chosen + others)[:count]
        ]

    return first(rows[::-1]), first(rows)


def cut_out(
    record: dict[str, Any], annotation: int, subset: str, models: Sequence[LoadedModel]
) -> list[str]:
    """
    An instance's true mask, and what models make of its box.

    Args:
        record: the image's dataset dict.
        annotation: the instance's place among the annotations.
        subset: its category's set, ``"A"``, ``"B"`` or ``"C"``, which chooses the colour.
        models: in order.

    Returns:
        JPEG pictures as ``data:`` URLs: the truth, then each model's.
    """
    image = read_image(record["file_name"], format="RGB")
    said = record["annotations"][annotation]
    box = BoxMode.convert(list(said["bbox"]), said["bbox_mode"], BoxMode.XYXY_ABS)
    size = image.shape[:2]
    truth = mask_util.decode(encode_mask(said["segmentation"], *size)).astype(bool)
    masks = [truth, *(_predicted(model, record, said, box) for model in models)]
    return [_drawn(image, box, mask, SET_COLORS[subset]) for mask in masks]


@torch.no_grad()
def _predicted(
    loaded: LoadedModel, record: dict[str, Any], said: dict[str, Any], box: Sequence[float]
) -> NDArray[np.bool_]:
    keys = ("file_name", "height", "width", "image_id")
    model_input = loaded.mapper({k: record[k] for k in keys if k in record})
    given = given_instances(
        model_input, torch.tensor([list(box)]), torch.tensor([said["category_id"]])
    )
    found = rle_inference(loaded.model, [model_input], [given])[0]["instances"]
    if not len(found):
        return np.zeros(found.image_size, dtype=np.bool_)
    mask: NDArray[np.bool_] = np.asarray(found.pred_masks)[0]
    return mask


def _drawn(
    image: NDArray[np.uint8],
    box: Sequence[float],
    mask: NDArray[np.bool_],
    color: tuple[float, float, float],
) -> str:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    dx, dy = _CONTEXT * (x1 - x0), _CONTEXT * (y1 - y0)
    left, top = max(0, int(x0 - dx)), max(0, int(y0 - dy))
    right, bottom = min(width, int(x1 + dx) + 2), min(height, int(y1 + dy) + 2)
    piece = image[top:bottom, left:right]
    scale = _SIDE / max(piece.shape[:2])
    shown = Image.fromarray(piece).resize(
        (max(1, round(piece.shape[1] * scale)), max(1, round(piece.shape[0] * scale)))
    )
    large = Image.fromarray(mask[top:bottom, left:right]).resize(
        shown.size, Image.Resampling.NEAREST
    )
    visualizer = Visualizer(np.asarray(shown))
    visualizer.draw_binary_mask(
        np.asarray(large).astype(np.uint8), color, alpha=0.5, area_threshold=0
    )
    corners = [(x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale]
    visualizer.draw_box(corners, edge_color="white")
    out = io.BytesIO()
    Image.fromarray(visualizer.get_output().get_image()).save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
