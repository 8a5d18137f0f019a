"""In which images there are instances to find, whose categories are all that is known of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from ..data.coco_reader import read_images, read_section
from ..data.image_labels import labels_of_entry
from .plan import JobPlan, check_is_original
from .progress import Progress, ProgressFile
from .rewrite import REMOVED, Change
from .task import LabelTask, Proposal

__all__ = ["LabelPlan"]


class LabelPlan(JobPlan):
    """
    The labels of images: those that the file's images say, and the categories of annotations.

    Of an annotation whose category has labels only, nothing but its category and image is read,
    and it is not in the output.

    Attributes:
        labels: ids of the categories with labels only that are in an image, by its position.
    """

    def __init__(
        self,
        json_file: str | os.PathLike[str],
        sets: Mapping[int, str],
        progress: bool,
    ) -> None:
        """
        Args:
            json_file: path of the file.
            sets: of each category, by its id, the letter of its set.
            progress: whether to show progress bars.

        Raises:
            ValueError: if the file can't be used.
        """
        super().__init__()
        self.labels: dict[int, set[int]] = {}
        self._sets = sets
        self._next_id = 1
        categories = {category_id: category_id for category_id in sets}
        index = {}
        for image in read_images(json_file, progress=progress):
            position = index[image["id"]] = self._add_image(image)
            try:
                labels = labels_of_entry(image, categories)
            except ValueError as e:
                raise ValueError(f"{json_file}: image {image['id']}: {e}") from e
            self._add_labels(position, *labels)
        for annotation in read_section(json_file, "annotations", progress=progress):
            where = (
                f"{json_file}: annotation {annotation.get('id')} of image "
                f"{annotation.get('image_id')}"
            )
            category_id: Any = annotation.get("category_id")
            check_is_original(annotation, sets.get(category_id), "C", where)
            if type(annotation.get("id")) is not int:
                raise ValueError(f"{where} needs an integer 'id'.")
            self._next_id = max(self._next_id, annotation["id"] + 1)
            if category_id not in sets:
                raise ValueError(
                    f"{where} has category_id {category_id}, which is not in 'categories'."
                )
            if annotation.get("image_id") in index:
                self._add_labels(index[annotation["image_id"]], category_id)

    def _add_labels(self, image: int, *category_ids: int) -> None:
        wanted = {i for i in category_ids if self._sets[i] == "C"}
        if wanted:
            self.labels.setdefault(image, set()).update(wanted)

    @property
    def count(self) -> int:
        """How many labels there are, of all images."""
        return sum(map(len, self.labels.values()))

    def tasks(
        self,
        done: ProgressFile,
        image_root: str | os.PathLike[str],
        proposals: Mapping[Any, list[Proposal]],
    ) -> Iterator[LabelTask]:
        """
        The images with labels, in the file's order, but for those that are done.

        Args:
            done: those.
            image_root: the folder of the images.
            proposals: of the images, by their ids.
        """
        for image in sorted(self.labels):
            if image not in done:
                yield LabelTask(
                    image,
                    os.path.join(image_root, self.file_names[image]),
                    *self.sizes[image],
                    sorted(self.labels[image]),
                    proposals.get(self.image_ids[image], []),
                )

    def without_mask(self, done: Progress) -> int:
        """See :meth:`JobPlan.without_mask`: of labels, in place of instances."""
        found = 0
        for image, labels in self.labels.items():
            masks = done.masks(image).values()
            found += len(labels & {mask.fields["category_id"] for mask in masks})
        return self.count - found

    def changes(self, done: Progress) -> Change:
        """See :meth:`JobPlan.changes`."""

        def change(position: int, annotation: dict[str, Any]) -> dict[str, Any] | None:
            return REMOVED if self._sets[annotation["category_id"]] == "C" else None

        return change

    def added(self, done: Progress) -> Iterator[dict[str, Any]]:
        """The instances that were found, with ids beyond those of the file."""
        ids = count(self._next_id)
        for image in sorted(self.labels):
            for mask in done.masks(image).values():
                yield {
                    "id": next(ids),
                    "image_id": self.image_ids[image],
                    "iscrowd": 0,
                    "segmentation": {"size": list(self.sizes[image]), "counts": mask.counts},
                    **mask.fields,
                }
