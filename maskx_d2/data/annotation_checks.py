"""
Checks of annotations, some thousand at a time, wherever they come from.

Of each annotation a few numbers are kept, so that a data set of any size takes little memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .findings import FindingLog
from .mask_extents import MaskBatch, append_numbers
from .supervision import SupervisionSummary

__all__ = ["AnnotationChecker", "ImageList"]

_Floats = npt.NDArray[np.float64]

# Boxes of tools that count pixels from 1, or count the last pixel in, end one pixel later, and
# some round. detectron2 clips boxes to the image, so that nothing is lost up to here.
_BEYOND_IMAGE_PIXELS = 1.5

# The masks of COCO's crowd regions are RLE, which covers whole pixels, and their boxes end one
# pixel before it; polygons keep to their box within 1e-12. Two pixels is more than any rounding
# leaves; on large objects, annotators draw boxes less exactly.
_LEAVES_BOX_PIXELS = 2.0
_LEAVES_BOX_SHARE = 0.05  # of the box's side

# The box of an instance is the box of its mask, so that their IoU is nearly 1: 0.94 is the least
# among 4601 annotations of COCO, and rectangles drawn by hand around an object reach 0.7. At 0.5
# they are of different objects, or in different units. Of tiny objects one pixel is a large share.
_MISMATCH_IOU = 0.5
_MISMATCH_PIXELS = 2.0

_BATCH = 4096  # annotations: numpy's overhead per call no longer matters, memory doesn't yet
_EXAMPLES = 3  # images named in a finding about many

# Masks that tools draw around boxes have their corners. Of real objects few look like that, so a
# category of which nearly all do was labelled with boxes.
_BOX_CORNER_PIXELS = 1.0
_LEAST_BOX_MASKS, _LEAST_BOX_MASK_SHARE = 5, 0.8


@dataclass
class ImageList:
    """
    The images of a data set, by position.

    Attributes:
        ids: what the data set calls each image.
        file_names: each image's file, as the data set has it.
        heights: in pixels, NaN where they are not known.
        widths: likewise.
    """

    ids: list[Any] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)
    heights: array[float] = field(default_factory=lambda: array("d"))
    widths: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, image_id: Any, file_name: str, height: float, width: float) -> None:
        """Append an image."""
        self.ids.append(image_id)
        self.file_names.append(file_name)
        self.heights.append(height)
        self.widths.append(width)


class AnnotationChecker:
    """:meth:`add` each annotation, then :meth:`finish`."""

    def __init__(self, images: ImageList, thing_classes: Sequence[str], log: FindingLog) -> None:
        self._images, self._thing_classes, self._log = images, tuple(thing_classes), log
        num_images, num_classes = len(images), len(thing_classes)
        self._boxes_of_class = np.zeros(num_classes, dtype=np.int64)
        self._masks_of_class = np.zeros(num_classes, dtype=np.int64)
        self._box_masks_of_class = np.zeros(num_classes, dtype=np.int64)
        self._crowds_of_class = np.zeros(num_classes, dtype=np.int64)
        self._boxes_of_image = np.zeros(num_images, dtype=np.int32)
        self._masks_of_image = np.zeros(num_images, dtype=np.int32)
        self._crowds_of_image = np.zeros(num_images, dtype=np.int32)
        self._annotated = np.zeros(num_images, dtype=np.bool_)
        # The labels of an image for which no annotation of it has come yet.
        self._only_labelled: dict[int, set[int]] = {}
        # Of all annotations: the id where it is an integer, and the image; of all instances: what
        # makes them the same, hashed to 64 bits (of a million, two different ones share it once
        # in 10⁷ data sets), the image, and the position of the id.
        self._ids = array("q")
        self._id_images = array("i")
        self._instances: list[npt.NDArray[np.uint64]] = []
        self._instance_images: list[npt.NDArray[np.int32]] = []
        self._instance_ids: list[npt.NDArray[np.int64]] = []
        self._start_batch()

    def _start_batch(self) -> None:
        self._batch: list[tuple[Any, int, int, bool, bool]] = []
        self._boxes: array[float] = array("d")
        self._unreadable: list[int] = []  # whose box has been reported
        self._masks = MaskBatch()

    def _find(
        self, kind: str, message: str, image: int | None, annotation_id: Any, image_id: Any = None
    ) -> None:
        if image is None:
            self._log.add(kind, message, image_id, annotation_id)
        else:
            images = self._images
            self._log.add(kind, message, images.ids[image], annotation_id, images.file_names[image])

    def add_id(self, annotation_id: Any, image: int | None, image_id: Any = None) -> None:
        """Check an annotation's id: each needs its own, also where the rest of it is wrong."""
        if _is_integer(annotation_id):
            self._ids.append(annotation_id)
            self._id_images.append(-1 if image is None else image)
        else:
            message = (
                f"the annotation's id is {annotation_id!r:.40}; give each an integer of its own, "
                "below 2^63."
            )
            self._find("annotation_entry", message, image, None, image_id)

    def mark_annotated(self, image: int) -> None:
        """Say that an image has an annotation, though one that can't be checked."""
        self._annotated[image] = True

    def add_labels(self, image: int, categories: Iterable[int]) -> None:
        """Say which categories an image is labelled with, before any annotation is added."""
        self._only_labelled[image] = set(categories)

    def labels_without_boxes(self) -> list[tuple[int, int]]:
        """(image, category), by position, of each label that no annotation added so far is of."""
        return [(i, c) for i, labels in sorted(self._only_labelled.items()) for c in sorted(labels)]

    def add(
        self,
        image: int,
        category: int,
        box: Any,
        segmentation: Any,
        is_crowd: bool,
        annotation_id: Any = None,
    ) -> None:
        """
        Check an annotation, now or with its batch.

        Args:
            image: the position of its image.
            category: the position of its category.
            box: what it has as its XYWH box.
            segmentation: what it has as its mask, None if nothing.
            is_crowd: whether it is a crowd region.
            annotation_id: what findings call it.
        """
        self._annotated[image] = True
        if image in self._only_labelled:
            self._only_labelled[image].discard(category)
        number = len(self._batch)
        count = append_numbers(self._boxes, box)
        if count != 4:
            self._unreadable.append(number)
            if count > 0:
                del self._boxes[-count:]
            self._boxes.extend((np.nan,) * 4)
            self._find(
                "unreadable_box",
                "there is no bbox; every instance needs one."
                if box is None
                else f"the bbox is {box!r:.80}, not four numbers x, y, width, height.",
                image,
                annotation_id,
            )
        masked, problem = self._masks.add(
            number, segmentation, self._images.heights[image], self._images.widths[image]
        )
        if problem is not None:
            self._find(*problem, image, annotation_id)
        self._batch.append((annotation_id, image, category, is_crowd, masked))
        if number + 1 == _BATCH:
            self._check_batch()

    def _check_batch(self) -> None:
        if not self._batch:
            return
        ids, image_list, category_list, crowd_list, masked_list = zip(*self._batch)
        images, categories = np.array(image_list), np.array(category_list)
        is_crowd, masked = np.array(crowd_list), np.array(masked_list)
        boxes = np.frombuffer(self._boxes, dtype=np.float64).reshape(-1, 4)
        extents, empty, problems = self._masks.extents(len(ids))
        for number, problem in problems:
            masked[number] = False
            self._find(*problem, int(images[number]), ids[number])
        for number in np.flatnonzero(empty).tolist():
            message = "the RLE has no pixel; leave the segmentation out where there is no mask."
            self._find("empty_mask", message, int(images[number]), ids[number])
        self._check_boxes(boxes, extents, images, ids)
        has_box = np.asarray(np.isfinite(boxes).all(axis=1))
        self._count(images, categories, is_crowd, masked, has_box)
        np.add.at(self._crowds_of_class, categories[is_crowd], 1)
        rectangle = np.zeros(len(ids), dtype=np.bool_)
        rectangle[self._masks.rectangles] = True
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        with np.errstate(invalid="ignore"):
            rectangle &= (np.abs(extents - corners) <= _BOX_CORNER_PIXELS).all(axis=1)
        np.add.at(self._box_masks_of_class, categories[rectangle & ~is_crowd], 1)
        self._remember_instances(images, categories, is_crowd, boxes, ids)
        self._start_batch()

    def _check_boxes(
        self, boxes: _Floats, extents: _Floats, images: npt.NDArray[Any], ids: Sequence[Any]
    ) -> None:
        # Comparisons with the NaN of what is missing are false: no finding.
        heights = np.frombuffer(self._images.heights, dtype=np.float64)[images]
        widths = np.frombuffer(self._images.widths, dtype=np.float64)[images]
        with np.errstate(invalid="ignore"):
            low, high, sides = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], boxes[:, 2:]
            sizes = np.stack([widths, heights], axis=1)
            finite = np.asarray(np.isfinite(boxes).all(axis=1))
            not_finite = ~finite
            not_finite[self._unreadable] = False
            degenerate = finite & (sides <= 0).any(axis=1)
            good = finite & ~degenerate
            outside = good & ((low >= sizes) | (high <= 0)).any(axis=1)
            beyond = np.maximum(-low, high - sizes).max(axis=1)
            leaves = np.maximum(low - extents[:, :2], extents[:, 2:] - high)
            margin = np.maximum(_LEAVES_BOX_PIXELS, _LEAVES_BOX_SHARE * sides)
            differs = np.maximum(np.abs(low - extents[:, :2]), np.abs(high - extents[:, 2:]))
            overlap = _box_iou(low, high, extents[:, :2], extents[:, 2:])
            mismatch = good & (overlap < _MISMATCH_IOU) & (differs.max(axis=1) > _MISMATCH_PIXELS)
            findings = {
                "unreadable_box": not_finite,
                "degenerate_box": degenerate,
                "box_outside_image": outside,
                "box_beyond_image": good & ~outside & (beyond > _BEYOND_IMAGE_PIXELS),
                "mask_box_mismatch": mismatch,
                "mask_leaves_box": good & ~mismatch & (leaves > margin).any(axis=1),
            }
        for kind, found in findings.items():
            for i in np.flatnonzero(found).tolist():
                box = f"the box {_numbers(boxes[i])} (x, y, width, height)"
                reach_x, reach_y = (_numbers(extents[i, axis::2], " to ") for axis in (0, 1))
                reach = f"x {reach_x}, y {reach_y}"
                message = {
                    "unreadable_box": f"{box} has a number that is not finite.",
                    "degenerate_box": f"{box} has no area; correct or remove the annotation.",
                    "box_outside_image": f"{box} lies outside the image of "
                    f"{widths[i]:.0f} x {heights[i]:.0f} pixels.",
                    "box_beyond_image": f"{box} reaches {beyond[i]:.4g} pixels beyond the image of "
                    f"{widths[i]:.0f} x {heights[i]:.0f}.",
                    "mask_box_mismatch": f"{box} and the box of its mask ({reach}) overlap with "
                    f"an IoU of {overlap[i]:.2f} only.",
                    "mask_leaves_box": f"the mask ({reach}) reaches {leaves[i].max():.4g} pixels "
                    f"out of {box}.",
                }[kind]
                self._find(kind, message, int(images[i]), ids[i])

    def _count(
        self,
        images: npt.NDArray[Any],
        categories: npt.NDArray[Any],
        is_crowd: npt.NDArray[np.bool_],
        masked: npt.NDArray[np.bool_],
        has_box: npt.NDArray[np.bool_],
    ) -> None:
        np.add.at(self._crowds_of_image, images[is_crowd], 1)
        instance = ~is_crowd & has_box
        for chosen, of_class, of_image in (
            (instance, self._boxes_of_class, self._boxes_of_image),
            (instance & masked, self._masks_of_class, self._masks_of_image),
        ):
            np.add.at(of_class, categories[chosen], 1)
            np.add.at(of_image, images[chosen], 1)

    def _remember_instances(
        self,
        images: npt.NDArray[Any],
        categories: npt.NDArray[Any],
        is_crowd: npt.NDArray[np.bool_],
        boxes: _Floats,
        ids: Sequence[Any],
    ) -> None:
        kept = ~is_crowd & np.isfinite(boxes).all(axis=1)
        bits = (boxes[kept] + 0.0).view(np.uint64)  # + 0.0: -0.0 is the same place
        key = _mixed(images[kept].astype(np.uint64))
        for column in (categories[kept].astype(np.uint64), *bits.T):
            key = _mixed(key ^ column)
        self._instances.append(key)
        self._instance_images.append(images[kept].astype(np.int32))
        # An id that is no integer is not worth the memory: the image is named.
        numbers = [i if _is_integer(i) else _NO_ID for i in ids]
        self._instance_ids.append(np.array(numbers, dtype=np.int64)[kept])

    def finish(self) -> SupervisionSummary:
        """Check what only all annotations together show, and count."""
        self._check_batch()
        self._check_duplicates()
        images, crowds = self._images, self._crowds_of_image
        labels_of_class = np.zeros(len(self._thing_classes), dtype=np.int64)
        for image, category in self.labels_without_boxes():
            labels_of_class[category] += 1
            self._annotated[image] = True
        for i in np.flatnonzero((crowds > 0) & (self._boxes_of_image == 0)):
            message = f"the image has no instance; its crowd regions ({crowds[i]}) teach nothing."
            self._find("crowd_only_image", message, int(i), None)
        self._check_categories()
        unmasked = (self._boxes_of_image > 0) & (self._masks_of_image == 0)
        for kind, found, what in (
            ("images_without_annotations", ~self._annotated, "no annotation"),
            ("images_without_masks", unmasked, "boxes and no mask"),
        ):
            positions = np.flatnonzero(found)
            if len(positions):
                examples = ", ".join(repr(images.ids[i]) for i in positions[:_EXAMPLES])
                self._log.add(
                    kind,
                    f"{len(positions)} of {len(images)} images have {what}, e.g. {examples}.",
                )
        return SupervisionSummary(
            self._thing_classes,
            self._boxes_of_class,
            self._masks_of_class,
            labels_of_class,
            num_images=len(images),
            images_without_boxes=int((self._boxes_of_image == 0).sum()),
            images_without_masks=int(unmasked.sum()),
            crowds=int(crowds.sum()),
        )

    def _check_categories(self) -> None:
        for name, boxes, masks, box_masks, crowds in zip(
            self._thing_classes,
            self._boxes_of_class.tolist(),
            self._masks_of_class.tolist(),
            self._box_masks_of_class.tolist(),
            self._crowds_of_class.tolist(),
        ):
            if crowds and not boxes:
                self._log.add(
                    "crowd_only_category",
                    f"all {crowds} annotations of '{name}' are crowd regions, which teach nothing; "
                    "some tools mark every RLE so. If they are single objects, set iscrowd to 0.",
                )
            if box_masks >= max(_LEAST_BOX_MASKS, _LEAST_BOX_MASK_SHARE * masks):
                self._log.add(
                    "mask_is_box",
                    f"{box_masks} of {masks} masks of '{name}' are the box itself; where a tool "
                    "made them of boxes, remove their segmentation, or they count as masks.",
                )

    def _check_duplicates(self) -> None:
        ids = np.frombuffer(self._ids, dtype=np.int64)
        for _, second in _repeated(ids):
            image = self._id_images[second]
            self._find(
                "duplicate_annotation_id", _ID_TWICE, None if image < 0 else image, int(ids[second])
            )
        if not self._instances:
            return
        images = np.concatenate(self._instance_images)
        instance_ids = np.concatenate(self._instance_ids)
        for first, second in _repeated(np.concatenate(self._instances)):
            ids_known = _NO_ID not in (instance_ids[first], instance_ids[second])
            self._find(
                "duplicate_instance",
                "the image has another instance of the same category and box"
                + (f", annotation {instance_ids[first]}." if ids_known else "."),
                int(images[second]),
                int(instance_ids[second]) if ids_known else None,
            )


_ID_TWICE = "the annotation's id is used before in the file; give each its own."
_NO_ID = -(2**63)


def _is_integer(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64: keys that differ somewhere differ everywhere."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (keys ^ (keys >> np.uint64(31))) + np.uint64(0x9E3779B97F4A7C15)


def _repeated(keys: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """(position of the first, position) of each key that was there before."""
    order = np.argsort(keys, kind="stable")
    same = np.r_[False, np.diff(keys[order]) == 0] if len(keys) else np.zeros(0, dtype=np.bool_)
    pairs, first = [], 0
    for i in np.flatnonzero(same | np.r_[same[1:], False]).tolist():
        if same[i]:
            pairs.append((int(order[first]), int(order[i])))
        else:
            first = i
    return sorted(pairs, key=lambda pair: pair[1])


def _box_iou(low_a: _Floats, high_a: _Floats, low_b: _Floats, high_b: _Floats) -> _Floats:
    """(n,) IoU of n pairs of boxes, each by its least and its greatest x and y."""
    sides = np.maximum(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0)
    both = sides.prod(axis=1)
    union = (high_a - low_a).prod(axis=1) + (high_b - low_b).prod(axis=1) - both
    iou: _Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    iou[np.isnan(union)] = np.nan
    return iou


def _numbers(values: _Floats, between: str = ", ") -> str:
    return between.join(f"{v:.6g}" for v in values)
