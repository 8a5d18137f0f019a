"""
Checks of a data set: is everything as a training will take it to be?

detectron2 finds some mistakes when the data set loads, or hours into a training, and hides some.
These checks read a COCO file itself, a piece at a time, and name each annotation.
"""

from __future__ import annotations

import math
import numbers
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._counted import counted
from ..splits import ClassSplit
from .annotation_checks import AnnotationChecker, ImageList
from .coco_reader import read_section, top_level_keys
from .findings import CheckReport, Finding, FindingLog
from .image_checks import check_file_names, check_files
from .image_labels import labels_of_entry
from .mask_extents import append_numbers
from .partial_masks import is_crowd, mask_weight
from .supervision import SupervisionSummary

__all__ = ["CheckReport", "Finding", "check_coco_json", "check_dataset_dicts"]

#: A split, or what makes one from all category names.
Split = ClassSplit | Callable[[Sequence[str]], ClassSplit]

_NAMES_SHOWN = 5  # categories named in a finding about many


def check_coco_json(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    split: Split | None = None,
    open_images: bool = True,
    progress: bool = True,
) -> CheckReport:
    """
    Check a COCO instances file. It is read three times and never held in memory.

    Args:
        json_file: path of the file.
        image_root: the folder of its images; None: whether they exist is not checked.
        split: which categories are meant to have masks; None: whatever the file has is right.
        open_images: whether to read the images' headers.
        progress: whether to show progress bars where it takes longer than some seconds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not JSON, or has no categories.
    """
    log = FindingLog()
    classes, category_positions = _read_categories(json_file, log, progress)
    images, image_positions, labels = _read_images(json_file, category_positions, log, progress)
    check_file_names(images, log)
    check_files(images, image_root, log, addresses=False, open_files=open_images, progress=progress)
    checker = AnnotationChecker(images, classes, log)
    for position, categories in labels.items():
        checker.add_labels(position, categories)
    empty = True
    for annotation in read_section(json_file, "annotations", progress=progress):
        empty = False
        annotation_id, image_id = annotation.get("id"), annotation.get("image_id")
        image = _position(image_positions, image_id)
        category = _position(category_positions, annotation.get("category_id"))
        checker.add_id(annotation_id, image, image_id)
        if image is None:
            message = f"the image {image_id!r} of the annotation is not among the file's images."
            log.add("unknown_image", message, image_id, annotation_id)
            continue
        if category is None:
            message = (
                f"the category {annotation.get('category_id')!r} of the annotation is not among "
                "the file's categories."
            )
            log.add("unknown_category", message, image_id, annotation_id, images.file_names[image])
            checker.mark_annotated(image)
            continue
        if annotation.get("ignore"):
            message = (
                f"'ignore' is {annotation['ignore']!r}, which detectron2 refuses; remove it, or "
                "make the annotation a crowd region."
            )
            file_name = images.file_names[image]
            log.add("ignored_annotation", message, image_id, annotation_id, file_name)
        try:
            mask_weight(annotation)
        except ValueError as e:
            log.add("mask_weight", str(e), image_id, annotation_id, images.file_names[image])
        checker.add(
            image,
            category,
            annotation.get("bbox"),
            annotation.get("segmentation"),
            _crowd(annotation, log, image_id, annotation_id, images.file_names[image]),
            annotation_id,
        )
    if empty and not any(labels.values()):
        log.add("no_annotations", _without_annotations(json_file))
    return _finish(checker, images, split, log)


def check_dataset_dicts(
    dataset_dicts: Iterable[dict[str, Any]],
    thing_classes: Sequence[str],
    *,
    split: Split | None = None,
    open_images: bool = True,
) -> CheckReport:
    """
    Check detectron2's "standard dataset dicts", whatever format they came from.

    Their image files are looked for. They have no annotation ids, and what a loader dropped or
    refused can't be seen here.

    Args:
        dataset_dicts: the images.
        thing_classes: the names of the categories, ``category_id`` being their position.
        split: which categories are meant to have masks; None: whatever the data have is right.
        open_images: whether to read the images' headers.
    """
    log = FindingLog()
    records = list(dataset_dicts)
    images = ImageList()
    seen: set[Any] = set()
    for position, record in enumerate(records):
        image_id = record.get("image_id", position)
        file_name = str(record.get("file_name", ""))
        images.add(
            image_id,
            file_name,
            record.get("height") or math.nan,  # detectron2 can do without
            record.get("width") or math.nan,
        )
        if image_id in seen:
            log.add("duplicate_image_id", _IMAGE_TWICE, image_id, file_name=file_name)
        seen.add(image_id)
    check_file_names(images, log)
    check_files(images, "", log, addresses=True, open_files=open_images, progress=True)
    names = _check_names(thing_classes, log)
    checker = AnnotationChecker(images, names, log)
    positions = {i: i for i in range(len(names))}
    for position, record in enumerate(records):
        labels = _labels(record, positions, log, images.ids[position], images.file_names[position])
        checker.add_labels(position, labels)
        for annotation in record.get("annotations", ()):
            category = annotation.get("category_id")
            if not _is_whole(category) or not 0 <= category < len(names):
                message = f"category_id is {category!r}, not a position of {len(names)} categories."
                image_id, file_name = images.ids[position], images.file_names[position]
                log.add("unknown_category", message, image_id, file_name=file_name)
                checker.mark_annotated(position)
                continue
            try:
                mask_weight(annotation)
            except ValueError as e:
                image_id, file_name = images.ids[position], images.file_names[position]
                log.add("mask_weight", str(e), image_id, file_name=file_name)
            checker.add(
                position,
                int(category),
                _xywh(annotation),
                annotation.get("segmentation"),
                _crowd(annotation, log, images.ids[position], None, images.file_names[position]),
            )
    return _finish(checker, images, split, log)


_IMAGE_TWICE = "the image's id is used before; give each its own."


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number, Python's or numpy's."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _crowd(
    annotation: dict[str, Any], log: FindingLog, image_id: Any, annotation_id: Any, file_name: str
) -> bool:
    try:
        return is_crowd(annotation)
    except ValueError as e:
        log.add("annotation_entry", str(e), image_id, annotation_id, file_name)
        return False


def _without_annotations(json_file: str | os.PathLike[str]) -> str:
    keys = top_level_keys(json_file)
    if "annotations" in keys:
        return "'annotations' is empty, and no image has labels; there is nothing to learn."
    listed = ", ".join(f"'{key}'" for key in keys)
    return f"the file has no 'annotations' but {listed}; rename the key if it is one of these."


def _position(positions: dict[Any, int], key: Any) -> int | None:
    try:
        return positions.get(key)
    except TypeError:  # a list or an object
        return None


def _read_categories(
    json_file: str | os.PathLike[str], log: FindingLog, progress: bool
) -> tuple[list[str], dict[Any, int]]:
    """The names in the order of the ids, as detectron2 has them; the position of each id."""
    names: dict[int, str] = {}
    num = 0
    for category in read_section(json_file, "categories", progress=progress):
        num += 1
        category_id, name = category.get("id"), category.get("name")
        if type(category_id) is not int or not isinstance(name, str):
            message = f"the category {category!r:.80} needs a number as its id and a name."
            log.add("category_entry", message)
        elif category_id in names:
            message = (
                f"the categories '{names[category_id]}' and '{name}' share the id {category_id}; "
                "give each its own."
            )
            log.add("duplicate_category_id", message)
        else:
            names[category_id] = name
    if not num:
        raise ValueError(f"{json_file} has no 'categories'; it is not a COCO instances file.")
    names = dict(sorted(names.items()))
    return _check_names(names.values(), log), {c: i for i, c in enumerate(names)}


def _check_names(names: Iterable[str], log: FindingLog) -> list[str]:
    listed = list(names)
    for name, count in sorted(Counter(listed).items()):
        if count == 1:
            continue
        message = f"{count} categories are called '{name}'; a split can't tell them."
        log.add("duplicate_category_name", message)
    return listed


def _labels(
    image: dict[str, Any], contiguous: dict[Any, int], log: FindingLog, image_id: Any, file: Any
) -> list[int]:
    try:
        return labels_of_entry(image, contiguous)
    except ValueError as e:
        log.add("image_labels", str(e), image_id, file_name=file)
        return []


def _read_images(
    json_file: str | os.PathLike[str],
    category_positions: dict[Any, int],
    log: FindingLog,
    progress: bool,
) -> tuple[ImageList, dict[Any, int], dict[int, list[int]]]:
    """The images, the position of each id, and the labels of each position that has any."""
    images = ImageList()
    labels: dict[int, list[int]] = {}
    positions: dict[Any, int] = {}
    for image in read_section(json_file, "images", progress=progress):
        image_id, file_name = image.get("id"), image.get("file_name")
        if not isinstance(image_id, (int, str)):
            log.add("image_entry", f"the image {image!r:.80} needs an id.")
            continue
        known_name = file_name if isinstance(file_name, str) and file_name else None
        if image_id in positions:
            log.add("duplicate_image_id", _IMAGE_TWICE, image_id, file_name=known_name)
            continue
        if known_name is None:
            log.add("image_entry", f"its file_name is {file_name!r}, not a path.", image_id)
        size = array("d")
        if (
            append_numbers(size, (image.get("height"), image.get("width"))) < 0
            or not 0 < min(size) <= max(size) < math.inf
            or any(side % 1 for side in size)
        ):
            message = (
                f"its height is {image.get('height')!r} and its width {image.get('width')!r}; "
                "both must be a whole number of pixels."
            )
            log.add("image_entry", message, image_id, file_name=known_name)
            size = array("d", (math.nan, math.nan))
        if "image_labels" in image:
            of_image = _labels(image, category_positions, log, image_id, known_name)
            labels[len(images)] = of_image
        if positions and isinstance(image_id, str) != isinstance(images.ids[0], str):
            message = (
                f"its id is {image_id!r} and that of the first image {images.ids[0]!r}; make all "
                "of them numbers, or all of them text."
            )
            log.add("image_entry", message, image_id, file_name=known_name)
        positions[image_id] = len(images)
        images.add(image_id, known_name or "", *size)
    return images, positions, labels


_XYXY, _XYWH = 0, 1  # detectron2.structures.BoxMode


def _xywh(annotation: dict[str, Any]) -> Any:
    """The box as XYWH; boxes of other modes than XYXY_ABS and XYWH_ABS as they are."""
    box, mode = annotation.get("bbox"), annotation.get("bbox_mode", _XYWH)
    numbers = array("d")
    if mode == _XYXY and box is not None and append_numbers(numbers, box) == 4:
        x0, y0, x1, y1 = numbers
        return [x0, y0, x1 - x0, y1 - y0]
    return box


def _finish(
    checker: AnnotationChecker, images: ImageList, split: Split | None, log: FindingLog
) -> CheckReport:
    """Check what all annotations, the counts and the split show."""
    summary = checker.finish()
    class_split = _check_split(summary, split, log)
    labels_only = frozenset() if class_split is None else class_split.labels_only
    for image, category in checker.labels_without_boxes():
        name = summary.thing_classes[category]
        if summary.boxes[category] and name not in labels_only:
            message = (
                f"the image is labelled '{name}' and has no box of it, though other images have; "
                "a detector would learn that there is none. Add the boxes, or put the category "
                "into the split's labels_only."
            )
            log.add("label_without_box", message, images.ids[image], None, images.file_names[image])
    return log.report(summary, class_split)


def _check_split(
    summary: SupervisionSummary, split: Split | None, log: FindingLog
) -> ClassSplit | None:
    """Check what the counts and the split show; the split, if it fits."""
    names = summary.thing_classes
    for name, boxes, masks, of_set in zip(names, summary.boxes, summary.masks, summary.sets):
        if of_set == "mixed":
            message = f"{masks} of {boxes} instances of '{name}' have a mask."
            log.add("mixed_category", message)
    empty = [name for name, of_set in zip(names, summary.sets) if of_set == "-"]
    if empty:
        shown = ", ".join(f"'{name}'" for name in empty[:_NAMES_SHOWN])
        more = f" and {len(empty) - _NAMES_SHOWN} more" if len(empty) > _NAMES_SHOWN else ""
        message = f"{len(empty)} of {len(names)} categories have no instance: {shown}{more}."
        log.add("category_without_instances", message)
    if split is None:
        return None
    try:
        class_split = split if isinstance(split, ClassSplit) else split(names)
        with_masks, boxes_only = class_split.indices(names)
    except ValueError as e:
        log.add("split_names", str(e))
        return None
    sets = summary.sets
    for i in [*with_masks, *boxes_only]:
        if sets[i] == "C":
            message = (
                f"split '{class_split.name}' says that '{names[i]}' has boxes, but of it there are "
                f"only {counted(int(summary.labels[i]), 'image label')}; put it into labels_only."
            )
            log.add("split_without_boxes", message)
    for i in with_masks:
        if sets[i] == "B":
            message = (
                f"split '{class_split.name}' says that '{names[i]}' has masks, but none of its "
                f"{summary.boxes[i]} instances has one."
            )
            log.add("split_without_masks", message)
    return class_split
