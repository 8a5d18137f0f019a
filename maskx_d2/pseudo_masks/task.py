"""An image whose boxes need masks, or whose labels need instances, and what became of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from detectron2.data.detection_utils import SizeMismatchError

__all__ = ["Box", "LabelTask", "Mask", "Proposal", "Result", "Task", "why_unusable"]


class Box(NamedTuple):
    """
    A box that needs a mask.

    Attributes:
        position: of its annotation in the JSON file.
        annotation_id, category_id: as in the JSON file.
        xywh: ``[x, y, width, height]`` in pixels.
    """

    position: int
    annotation_id: int
    category_id: int
    xywh: list[float]


class Mask(NamedTuple):
    """
    A box's mask, or an instance that was found.

    Attributes:
        position: of its annotation in the JSON file; of what was found, among that of the image.
        counts: of the mask's compressed RLE, in the size of the image.
        fields: what else its annotation says from then on; ``mask_source`` is one of them.
    """

    position: int
    counts: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """
    An image and those of its boxes that need a mask.

    Attributes:
        image: the image's position in the JSON file.
        file_name: path of the image.
        height, width: what the JSON file says of it, in pixels.
        boxes: at least one.
    """

    image: int
    file_name: str
    height: int
    width: int
    boxes: list[Box]


class Proposal(NamedTuple):
    """
    A mask that may be an object's.

    Attributes:
        counts: of its compressed RLE, in the size of the image.
        score: a logit.
    """

    counts: str
    score: float


@dataclass(frozen=True)
class LabelTask:
    """
    An image in which the instances of some categories are to be found.

    Attributes:
        image, file_name, height, width: see :class:`Task`.
        categories: ids as in the JSON file, at least one.
        proposals: masks of objects whose category is not known.
    """

    image: int
    file_name: str
    height: int
    width: int
    categories: list[int]
    proposals: list[Proposal]


@dataclass(frozen=True)
class Result:
    """
    What became of a task.

    Attributes:
        task: the task.
        masks: boxes without a pixel in the image have none.
        error: why the image can't be used, one sentence; None if it can.
    """

    task: Task | LabelTask
    masks: list[Mask]
    error: str | None = None


def why_unusable(task: Task | LabelTask, error: Exception) -> str:
    """The sentence for what was raised when the image was read."""
    if isinstance(error, FileNotFoundError):
        return f"there is no file '{task.file_name}'."
    if isinstance(error, SizeMismatchError):
        found = re.search(r"got \((\d+), (\d+)\)", str(error))
        size = " × ".join(found.groups()) if found else "another number of"
        return (
            f"'{task.file_name}' has {size} pixels, but the JSON file says "
            f"{task.width} × {task.height}."
        )
    reason = str(error).strip().rstrip(".")
    return f"'{task.file_name}' can't be read ({reason})."
