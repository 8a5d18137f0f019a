"""What a job does with a COCO file's annotations, image by image."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..data.coco_json import is_box
from ..data.coco_reader import read_images, read_section
from ..data.partial_masks import has_mask
from .progress import Progress, ProgressFile
from .rewrite import Change
from .task import Box, Task

__all__ = ["JobPlan", "Plan", "check_is_original"]

#: What may have made the masks of a set before: in B of real boxes, in C of image labels.
_SOURCES = {"B": {"grabcut", "model", "box"}, "C": {"wise", "wise+grabcut", "wise+box"}}

# What an annotation says of a mask that a job has made, and that is to be made anew.
_OF_A_MASK = ("segmentation", "mask_source", "mask_model", "mask_score", "mask_weight")

_NOT_LISTED = -1  # the image of an annotation whose image is not in the file


class JobPlan(ABC):
    """
    A COCO file's images, and what a job does with its annotations.

    Attributes:
        image_ids, file_names, sizes: of each image of the file; a size is (height, width).
    """

    def __init__(self) -> None:
        self.image_ids: list[Any] = []
        self.file_names: list[str] = []
        self.sizes: list[tuple[int, int]] = []

    @abstractmethod
    def without_mask(self, done: Progress) -> int:
        """How many have no mask of those that were to get one."""

    @abstractmethod
    def changes(self, done: Progress) -> Change:
        """What becomes of the file's annotations."""

    def added(self, done: Progress) -> Iterator[dict[str, Any]]:
        """Annotations that the file has not."""
        return iter(())

    def _add_image(self, image: dict[str, Any]) -> int:
        """Add the next image of the file; its position."""
        self.image_ids.append(image["id"])
        self.file_names.append(image["file_name"])
        self.sizes.append((image["height"], image["width"]))
        return len(self.image_ids) - 1


class Plan(JobPlan):
    """
    Which instances get pseudo-masks, in arrays: some tens of MB for COCO's file.

    Attributes:
        positions: of the instances, in the file's annotations.
    """

    def __init__(
        self,
        json_file: str | os.PathLike[str],
        sets: Mapping[int, str] | None,
        progress: bool,
    ) -> None:
        """
        Args:
            json_file: path of the file.
            sets: of each category, by its id, the letter of its set: those of B get masks. None:
                instances without one do.
            progress: whether to show progress bars.

        Raises:
            ValueError: if the file can't be used.
        """
        super().__init__()
        self.positions = array("q")
        self._ids, self._images, self._boxes = array("q"), array("q"), array("d")
        self._categories = array("q")
        images = read_images(json_file, progress=progress)
        index = {image["id"]: self._add_image(image) for image in images}
        annotations = read_section(json_file, "annotations", progress=progress)
        for position, annotation in enumerate(annotations):
            where = (
                f"{json_file}: annotation {annotation.get('id')} of image "
                f"{annotation.get('image_id')}"
            )
            if not _needs_mask(annotation, sets, where):
                continue
            if type(annotation.get("id")) is not int:
                raise ValueError(f"{where} needs an integer 'id'.")
            box: Any = annotation.get("bbox")
            if not is_box(box):
                raise ValueError(
                    f"{where} needs a 'bbox' of four numbers [x, y, width, height], not {box}."
                )
            if type(annotation.get("category_id")) is not int:
                raise ValueError(f"{where} needs an integer 'category_id'.")
            self.positions.append(position)
            self._categories.append(annotation["category_id"])
            self._ids.append(annotation["id"])
            self._images.append(index.get(annotation.get("image_id"), _NOT_LISTED))
            self._boxes.extend(box)

    @property
    def category_ids(self) -> set[int]:
        """Of the instances."""
        return set(self._categories)

    def count(self, counts: Callable[[int], bool]) -> int:
        """How many instances are of images, by their position, that count."""
        return sum(image != _NOT_LISTED and counts(image) for image in self._images)

    def tasks(self, done: ProgressFile, image_root: str | os.PathLike[str]) -> Iterator[Task]:
        """The images with instances, in the file's order, but for those that are done."""
        images = np.array(self._images)
        order = np.argsort(images, kind="stable")
        order = order[np.searchsorted(images[order], 0) :]  # without those not listed
        starts = np.flatnonzero(np.diff(images[order], prepend=-1))
        for members in np.split(order, starts[1:]) if len(order) else ():
            image = self._images[members[0]]
            if image in done:
                continue
            boxes = [self._box(i) for i in members.tolist()]
            file_name = os.path.join(image_root, self.file_names[image])
            height, width = self.sizes[image]
            yield Task(image, file_name, height, width, boxes)

    def _box(self, i: int) -> Box:
        xywh = self._boxes[4 * i : 4 * i + 4].tolist()
        return Box(self.positions[i], self._ids[i], self._categories[i], xywh)

    def without_mask(self, done: Progress) -> int:
        """See :meth:`JobPlan.without_mask`."""
        return len(self.positions) - sum(done.counts.values())

    def changes(self, done: Progress) -> Change:
        """What takes an annotation's place; for one that gets a mask it holds no real mask."""
        targets = zip(self.positions, self._images)  # in the file's order, as the calls are
        next_target = next(targets, None)

        def change(position: int, annotation: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal next_target
            if next_target is None or next_target[0] != position:
                return None
            image = next_target[1]
            next_target = next(targets, None)
            gone = _OF_A_MASK if "mask_source" in annotation else ("segmentation",)
            changed = {k: v for k, v in annotation.items() if k not in gone}
            mask = done.masks(image).get(position)
            if mask is not None:
                size = list(self.sizes[image])
                changed["segmentation"] = {"size": size, "counts": mask.counts}
                changed |= mask.fields
                if "area" not in changed:  # which evaluation needs
                    changed["area"] = float(mask_util.area(changed["segmentation"]))
            return changed

        return change


def check_is_original(
    annotation: dict[str, Any], letter: str | None, makes: str, where: str
) -> None:
    """
    Whether an annotation has no pseudo-mask but one that another job made for another set.

    Args:
        annotation: of a COCO file.
        letter: of its category's set; None without a split.
        makes: the set that the job makes masks for.
        where: which annotation it is, for the message.

    Raises:
        ValueError: if it has one, which would be lost, or be taken for a real mask or box.
    """
    source = annotation.get("mask_source")
    if source is None or (letter != makes and source in _SOURCES.get(letter or "", ())):
        return
    in_set = f", in set {letter}" if letter else ""
    raise ValueError(
        f"{where} has a pseudo-mask already, of '{source}'{in_set}; start from the file with the "
        "real masks. With a split, set C may have those of wise, and for wise B those of boxes."
    )


def _needs_mask(annotation: dict[str, Any], sets: Mapping[int, str] | None, where: str) -> bool:
    is_crowd = bool(annotation.get("iscrowd"))
    if sets is None:  # all masks stay, whoever made them
        try:
            return not is_crowd and not has_mask(annotation)
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from e
    category_id: Any = annotation.get("category_id")
    if not is_crowd and category_id not in sets:
        raise ValueError(f"{where} has category_id {category_id}, which is not in 'categories'.")
    letter = sets.get(category_id, "A")
    check_is_original(annotation, letter, "B", where)
    if letter == "C" and annotation.get("mask_source") is None:
        # Neither its box nor a mask of it may be used, but the copy would have both.
        raise ValueError(
            f"{where} is of a category of the split's labels_only, of which the file must have no "
            "annotations: take them out and say image_labels in its 'images', or use a split that "
            "has the category in boxes_only. `maskx pseudo-masks --method wise` makes instances "
            "of it."
        )
    return letter == "B" and not is_crowd
