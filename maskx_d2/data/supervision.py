"""
How much of a data set has masks: what partial supervision looks like, category by category.

It is counted, never declared: a category belongs to set A because its instances have masks, and to
set C because images are labelled with it and none has an instance of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._counted import counted
from .partial_masks import has_mask

__all__ = ["SupervisionSummary"]

_NAMES_SHOWN = 5  # of mixed categories, in a message of one line


@dataclass(frozen=True, eq=False)
class SupervisionSummary:
    """
    The numbers of boxes, masks and image labels of a data set.

    Crowd regions (``iscrowd``) are counted on their own and nowhere else: they are neither boxes
    nor masks here, because a training uses neither.

    Attributes:
        thing_classes: the names of the K categories.
        boxes: (K,) integers, each category's instances.
        masks: (K,) integers, those of them that have a mask.
        labels: (K,) integers, the images that are labelled with the category and have no
            annotation of it, see :mod:`~maskx_d2.data.image_labels`.
        num_images: how many images there are.
        images_without_boxes: how many of them have no instance.
        images_without_masks: how many of them have instances, none of which has a mask.
        crowds: how many crowd regions there are.

    Raises:
        ValueError: if ``boxes``, ``masks`` or ``labels`` are not one number a category.
    """

    thing_classes: tuple[str, ...]
    boxes: npt.NDArray[np.int64]
    masks: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    num_images: int
    images_without_boxes: int
    images_without_masks: int
    crowds: int = 0

    def __post_init__(self) -> None:
        for field in ("boxes", "masks", "labels"):
            shape = getattr(self, field).shape
            if shape != (len(self.thing_classes),):
                raise ValueError(
                    f"'{field}' has the shape {shape}, but there are {len(self.thing_classes)} "
                    "categories; give one number a category."
                )

    @classmethod
    def from_dataset_dicts(
        cls, dataset_dicts: Iterable[dict[str, Any]], thing_classes: Sequence[str]
    ) -> SupervisionSummary:
        """
        Count detectron2's "standard dataset dicts".

        Args:
            dataset_dicts: the images. Each is looked at once and none is kept.
            thing_classes: names of the K categories, ``category_id`` being their position.

        Raises:
            ValueError: if an annotation's ``category_id``, or a label, is not in [0, K).
        """
        num_classes = len(thing_classes)
        boxes, masks, labels = ([0] * num_classes for _ in range(3))
        num_images = without_boxes = without_masks = crowds = 0
        for record in dataset_dicts:
            num_images += 1
            boxes_here = masks_here = 0
            only_labelled = set(record.get("image_labels", ()))
            for annotation in record.get("annotations", ()):
                category = annotation["category_id"]
                if not 0 <= category < num_classes:
                    raise ValueError(
                        f"image '{record.get('file_name')}' has an annotation of category "
                        f"{category}, but there are {num_classes} categories; category_id must "
                        "be a position in thing_classes."
                    )
                only_labelled.discard(category)
                if annotation.get("iscrowd", 0):
                    crowds += 1
                    continue
                masked = has_mask(annotation)
                boxes[category] += 1
                masks[category] += masked
                boxes_here += 1
                masks_here += masked
            for category in only_labelled:
                if not 0 <= category < num_classes:
                    raise ValueError(
                        f"image '{record.get('file_name')}' has the image label {category}, but "
                        f"there are {num_classes} categories; labels must be positions in "
                        "thing_classes."
                    )
                labels[category] += 1
            without_boxes += boxes_here == 0
            without_masks += boxes_here > 0 and masks_here == 0
        return cls(
            tuple(thing_classes),
            np.array(boxes, dtype=np.int64),
            np.array(masks, dtype=np.int64),
            np.array(labels, dtype=np.int64),
            num_images,
            without_boxes,
            without_masks,
            crowds,
        )

    @property
    def sets(self) -> tuple[str, ...]:
        """
        Each category's set, K of them.

        ``"A"``: all of its instances have a mask; ``"B"``: none has; ``"mixed"``: some have;
        ``"C"``: it has no instance, but images are labelled with it; ``"-"``: it has neither.
        """
        return tuple(map(_set_of, self.boxes, self.masks, self.labels))

    def describe(self, name: str) -> str:
        """The summary in a line or two, for the log of a training on the data set ``name``."""
        boxes, masks = int(self.boxes.sum()), int(self.masks.sum())
        sets = self.sets
        share = f" ({100 * masks / boxes:.0f} %)" if boxes else ""
        mixed = [c for c, s in zip(self.thing_classes, sets) if s == "mixed"]
        names = ", ".join(f"'{c}'" for c in mixed[:_NAMES_SHOWN])
        more = f" and {len(mixed) - _NAMES_SHOWN} more" if len(mixed) > _NAMES_SHOWN else ""
        empty = sets.count("-")
        with_masks = counted(sets.count("A"), "category", "categories")
        return (
            f"{name}: {counted(self.num_images, 'image')}, {counted(boxes, 'box', 'boxes')}, "
            f"{masks} of them with a mask{share}. {with_masks} with masks, "
            f"{sets.count('B')} with boxes only, "
            + self._describe_labels()
            + f"{len(mixed)} mixed"
            + (f" ({names}{more})" if mixed else "")
            + (f", {empty} without an instance" if empty else "")
            + f"; {counted(self.images_without_masks, 'image')} without a mask"
            + (f", {self.images_without_boxes} without a box" if self.images_without_boxes else "")
            + "."
        )

    def _describe_labels(self) -> str:
        only = [s == "C" for s in self.sets]
        if not any(only):
            return ""
        labels = counted(int(self.labels[only].sum()), "label")
        return f"{sum(only)} with image labels only ({labels}), "


def _set_of(boxes: int, masks: int, labels: int) -> str:
    if not boxes:
        return "C" if labels else "-"
    if masks == boxes:
        return "A"
    return "mixed" if masks else "B"
