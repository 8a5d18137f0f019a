"""What the checks of a data set report: findings by kind, and the counts of boxes and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..splits import ClassSplit
from .supervision import SupervisionSummary

__all__ = ["KINDS", "CheckReport", "Finding", "FindingLog"]

#: kind → (severity, what it is called for people), in the order of a report.
KINDS: Mapping[str, tuple[str, str]] = {
    "image_entry": ("error", "images without a usable id, file name or size"),
    "duplicate_image_id": ("error", "image ids used twice"),
    "image_labels": ("error", "image labels that are no categories"),
    "image_folder_missing": ("error", "image folder missing"),
    "image_file_missing": ("error", "image files missing"),
    "image_unreadable": ("error", "image files that can't be read"),
    "image_size_differs": ("error", "image files of another size"),
    "image_depth": ("error", "image files of more than 8 bits a channel"),
    "category_entry": ("error", "categories without a usable id or name"),
    "duplicate_category_id": ("error", "category ids used twice"),
    "no_annotations": ("error", "no annotation at all"),
    "annotation_entry": ("error", "annotations without a usable id, or with an unclear iscrowd"),
    "duplicate_annotation_id": ("error", "annotation ids used twice"),
    "unknown_image": ("error", "annotations of images that are not listed"),
    "unknown_category": ("error", "annotations of categories that are not listed"),
    "unreadable_box": ("error", "boxes that are not four finite numbers"),
    "degenerate_box": ("error", "boxes without width or height"),
    "box_outside_image": ("error", "boxes wholly outside their image"),
    "ignored_annotation": ("error", "annotations with 'ignore'"),
    "malformed_mask": ("error", "masks that are neither polygons nor RLE"),
    "odd_polygon": ("error", "polygons with an odd number of coordinates"),
    "rle_size": ("error", "RLE masks of another size than their image"),
    "mask_weight": ("error", "mask weights that are not from 0 to 1"),
    "split_names": ("error", "split and data set disagree about categories"),
    "split_without_masks": ("error", "categories that should have masks and have none"),
    "split_without_boxes": ("error", "categories that should have boxes and have image labels"),
    "no_usable_polygon": ("warning", "boxes that detectron2's COCO loader drops for their mask"),
    "short_polygon": ("warning", "masks of which a part has fewer than 3 points"),
    "empty_mask": ("warning", "masks without a pixel"),
    "box_beyond_image": ("warning", "boxes that reach beyond their image"),
    "mask_leaves_box": ("warning", "masks that leave their box"),
    "mask_box_mismatch": ("warning", "masks whose box is a different one"),
    "duplicate_instance": ("warning", "instances annotated twice"),
    "duplicate_file_name": ("warning", "image files that are listed twice"),
    "mask_is_box": ("warning", "categories whose masks are boxes"),
    "duplicate_category_name": ("warning", "category names used twice"),
    "label_without_box": ("warning", "image labels of categories that have boxes elsewhere"),
    "crowd_only_image": ("warning", "images with crowd regions only"),
    "crowd_only_category": ("warning", "categories with crowd regions only"),
    "mixed_category": ("note", "categories of which some instances have masks"),
    "category_without_instances": ("note", "categories without an instance"),
    "images_without_annotations": ("note", "images without annotations"),
    "images_without_masks": ("note", "images that have boxes and no mask"),
}

# Where each of a million annotations is wrong, the first so many tell what is wrong and take
# some tens of MB; all are counted.
_KEPT_PER_KIND = 100_000


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing found in a data set.

    Attributes:
        kind: one of :data:`KINDS`.
        severity: ``"error"``: it will stop a training, or teach it something false;
            ``"warning"``: it is probably not as meant; ``"note"``: it is worth knowing.
        message: one sentence.
        image_id: the image's id, None where it is not about an image.
        annotation_id: the annotation's id, None where it is not about one, or has none.
        file_name: the image's file name as the data set has it, None where none is known.
    """

    kind: str
    severity: str
    message: str
    image_id: Any = None
    annotation_id: Any = None
    file_name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The attributes that are not None."""
        fields = ("kind", "severity", "message", "image_id", "annotation_id", "file_name")
        values = {field: getattr(self, field) for field in fields}
        return {field: value for field, value in values.items() if value is not None}


class FindingLog:
    """Collects findings; one kind is counted in full and kept in part if there are very many."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._findings: list[Finding] = []

    def add(
        self,
        kind: str,
        message: str,
        image_id: Any = None,
        annotation_id: Any = None,
        file_name: str | None = None,
    ) -> None:
        """Add a finding of one of :data:`KINDS`."""
        self.counts[kind] += 1
        if self.counts[kind] <= _KEPT_PER_KIND:
            severity = KINDS[kind][0]
            self._findings.append(
                Finding(kind, severity, message, image_id, annotation_id, file_name)
            )

    def report(self, summary: SupervisionSummary, split: ClassSplit | None) -> CheckReport:
        """What was found, in the order of :data:`KINDS`."""
        position = {kind: i for i, kind in enumerate(KINDS)}
        findings = sorted(self._findings, key=lambda finding: position[finding.kind])
        counts = {kind: self.counts[kind] for kind in KINDS if self.counts[kind]}
        return CheckReport(summary, tuple(findings), counts, split)


@dataclass(frozen=True, eq=False)
class CheckReport:
    """
    The result of checking a data set.

    Attributes:
        summary: how many boxes and masks each category has.
        findings: errors first, then warnings, then notes. Of a kind that occurs more than
            100,000 times, the first 100,000.
        counts: how often each kind occurs, kinds that don't left out.
        split: the split that the data set was checked against, None if there is none or it does
            not fit.
    """

    summary: SupervisionSummary
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    split: ClassSplit | None = None

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return self.count("error") == 0

    def count(self, severity: str) -> int:
        """The number of findings of a severity."""
        return sum(n for kind, n in self.counts.items() if KINDS[kind][0] == severity)

    @property
    def masks_of_boxes_only(self) -> int:
        """The masks of the split's set B, which a training on the split drops; 0 without one."""
        if self.split is None:
            return 0
        _, boxes_only = self.split.indices(self.summary.thing_classes)
        return int(self.summary.masks[boxes_only].sum())

    @property
    def boxes_of_labels_only(self) -> int:
        """The boxes of the split's set C, which a training on the split drops; 0 without one."""
        if self.split is None:
            return 0
        labels_only = self.split.labels_only_indices(self.summary.thing_classes)
        return int(self.summary.boxes[labels_only].sum())

    def to_json(self) -> dict[str, Any]:
        """All of it, in types that :mod:`json` writes."""
        summary = self.summary
        categories: list[dict[str, Any]] = [
            {"name": name, "boxes": int(boxes), "masks": int(masks), "set": of_set}
            for name, boxes, masks, of_set in zip(
                summary.thing_classes, summary.boxes, summary.masks, summary.sets
            )
        ]
        if summary.labels.any():
            for category, labels in zip(categories, summary.labels):
                category["labels"] = int(labels)
        content: dict[str, Any] = {
            "ok": self.ok,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "images": summary.num_images,
            "images_without_boxes": summary.images_without_boxes,
            "images_without_masks": summary.images_without_masks,
            "boxes": int(summary.boxes.sum()),
            "masks": int(summary.masks.sum()),
            "crowds": summary.crowds,
        }
        if self.split is not None:
            content["split"] = self.split.name
            content["masks_of_boxes_only"] = self.masks_of_boxes_only
            if self.split.labels_only:
                content["boxes_of_labels_only"] = self.boxes_of_labels_only
            for category in categories:
                category["split"] = self.split.set_of(category["name"])
        return {
            **content,
            "categories": categories,
            "counts": dict(self.counts),
            "findings": [finding.to_json() for finding in self.findings],
        }
