"""
LVIS's evaluation, made of COCO's: one category at a time, on the images where it was looked for.

LVIS is a federated data set (`Gupta et al., 2019 <https://arxiv.org/abs/1908.03195>`_, section 3):
each category was looked for in some images only. Its evaluation differs from COCO's in this:

- a category is evaluated on the images that have it, and on those that are said not to have it
  (``neg_category_ids``); its detections in others are ignored;
- where not all of its instances are annotated (``not_exhaustive_category_ids``), unmatched
  detections are ignored;
- each image has up to 300 detections, whatever their categories;
- annotations and detections without area are left out;
- there are means over the rare, the common and the frequent categories.

The figures are those of the package ``lvis``, which does not run with current numpy.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from ..data.coco_reader import read_section
from ..data.partial_masks import box_polygon, encode_mask, has_mask
from ..data.rle import areas
from .split_metrics import METRICS, subset_metrics

__all__ = ["LVIS_METRICS", "MAX_DETECTIONS", "LVISTruth", "lvis_metrics", "lvis_precision"]

#: LVIS's nine AP metrics, in detectron2's order.
LVIS_METRICS = (*METRICS, "APr", "APc", "APf")

#: The most detections of an image that count.
MAX_DETECTIONS = 300

#: What is known of an image: ``id``, ``height``, ``width``.
_Image = dict[str, Any]


class LVISTruth:
    """
    What a JSON file in LVIS's format says, category by category.

    Attributes:
        frequencies: ``"r"``, ``"c"`` or ``"f"`` (rare, common, frequent) of each category by id,
            in the order of the ids.
        images: each image's ``id``, ``height`` and ``width`` by id.
        instances: each category's annotations; masks are RLE.
        looked_for: the ids of the images where a category was looked for.
        not_exhaustive: the ids of the images where some of its instances may lack.
    """

    def __init__(self, json_file: str | os.PathLike[str], *, masks: bool = True) -> None:
        """
        Args:
            json_file: path of the file.
            masks: whether masks are to be evaluated; if not, they are not kept.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it lacks something that LVIS's format has.
        """
        self.frequencies: dict[int, str] = {}
        self.images: dict[int, _Image] = {}
        self.instances: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self.looked_for: dict[int, set[int]] = defaultdict(set)
        self.not_exhaustive: dict[int, set[int]] = defaultdict(set)
        self._file = json_file
        self._incomplete: dict[str, Any] | None = None  # an image of a test set, say
        for category in read_section(json_file, "categories", progress=False):
            self.frequencies[category["id"]] = self._needed(category, "frequency", "category")
        self.frequencies = dict(sorted(self.frequencies.items()))
        for image in read_section(json_file, "images", progress=False):
            self._add_image(image)
        for annotation in read_section(json_file, "annotations", progress=False):
            self._add_instance(annotation, masks)
        if self.instances and self._incomplete is not None:
            self._needed(self._incomplete, "neg_category_ids", "image")
            self._needed(self._incomplete, "not_exhaustive_category_ids", "image")

    def _add_image(self, image: dict[str, Any]) -> None:
        image_id = image["id"]
        self.images[image_id] = {k: image[k] for k in ("id", "height", "width")}
        if "neg_category_ids" not in image or "not_exhaustive_category_ids" not in image:
            self._incomplete = image
        for category_id in image.get("neg_category_ids", ()):
            self.looked_for[category_id].add(image_id)
        for category_id in image.get("not_exhaustive_category_ids", ()):
            self.not_exhaustive[category_id].add(image_id)

    def _add_instance(self, annotation: dict[str, Any], masks: bool) -> None:
        area = self._needed(annotation, "area", "annotation")
        if area <= 0:  # as in the package lvis
            return
        image = self.images[annotation["image_id"]]
        instance = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        instance.update(area=area, iscrowd=annotation.get("iscrowd", 0))
        if masks:
            size = image["height"], image["width"]
            instance["has_mask"] = has_mask(annotation)
            x, y, w, h = annotation["bbox"]
            mask = (
                annotation["segmentation"]
                if instance["has_mask"]
                else [box_polygon([x, y, x + w, y + h])]
            )
            try:
                instance["segmentation"] = encode_mask(mask, *size)
            except ValueError as e:
                raise ValueError(f"{self._file}: annotation {annotation.get('id')}: {e}") from None
        self.instances[annotation["category_id"]].append(instance)
        self.looked_for[annotation["category_id"]].add(annotation["image_id"])

    def _needed(self, item: dict[str, Any], key: str, kind: str) -> Any:
        if key not in item:
            raise ValueError(
                f"{self._file}: {kind} {item.get('id')} has no '{key}', which LVIS's evaluation "
                "needs; for a file in COCO's format, set the data set's evaluator_type to 'coco'."
            )
        return item[key]


def lvis_precision(
    truth: LVISTruth,
    detections: Iterable[Mapping[str, Any]],
    iou_type: str,
    *,
    max_detections: int = MAX_DETECTIONS,
    new_cocoeval: Callable[[COCO, COCO, str], Any] = COCOeval,
) -> NDArray[np.float64]:
    """
    The precision of each category at COCO's IoU and recall thresholds, by LVIS's rules.

    For masks, an instance without one is a region in which detections count neither as right nor
    as wrong.

    Args:
        truth: of the data set.
        detections: with ``image_id``, ``category_id``, ``score``, and ``bbox`` (x, y, width,
            height) or RLE ``segmentation``.
        iou_type: ``"bbox"`` or ``"segm"``.
        max_detections: the most that count of an image.
        new_cocoeval: makes the evaluation of a category.

    Returns:
        (10 IoU thresholds, 101 recall thresholds, K categories in the order of their ids, 4 area
        ranges, 1) as :func:`~maskx_d2.evaluation.subset_metrics` takes it, in [0, 1], -1 where a
        category has no ground truth.
    """
    params = Params(iouType=iou_type)
    precision: NDArray[np.float64] = -np.ones(
        (
            len(params.iouThrs),
            len(params.recThrs),
            len(truth.frequencies),
            len(params.areaRng),
            1,
        )
    )
    by_category = _by_category(truth, detections, max_detections)
    for k, category_id in enumerate(truth.frequencies):
        if not truth.instances.get(category_id):
            continue
        with contextlib.redirect_stdout(io.StringIO()):  # three lines for each category
            coco_eval = new_cocoeval(
                *_one_category(truth, category_id, by_category.get(category_id, []), iou_type),
                iou_type,
            )
            coco_eval.params.maxDets = [max_detections]
            coco_eval.evaluate()
            coco_eval.accumulate()
        precision[:, :, k] = coco_eval.eval["precision"][:, :, 0]
    return precision


def lvis_metrics(
    precision: NDArray[np.float64], positions: Sequence[int], frequencies: Sequence[str]
) -> dict[str, float]:
    """
    LVIS's AP metrics over some of the categories.

    Args:
        precision: see :func:`lvis_precision`.
        positions: of the categories along the third axis.
        frequencies: of all categories, in the order of the third axis.

    Returns:
        Metric name → percent in [0, 100], NaN where none of the categories has ground truth.
    """
    params = Params(iouType="bbox")

    def metrics(of: Sequence[int]) -> dict[str, float]:
        return subset_metrics(
            precision, of, iou_thresholds=params.iouThrs, area_labels=params.areaRngLbl
        )

    result = metrics(positions)
    for frequency in "rcf":
        result[f"AP{frequency}"] = metrics([p for p in positions if frequencies[p] == frequency])[
            "AP"
        ]
    return result


def _by_category(
    truth: LVISTruth, detections: Iterable[Mapping[str, Any]], max_detections: int
) -> dict[int, list[Mapping[str, Any]]]:
    """Each category's detections that count."""
    of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for detection in detections:
        of_image[detection["image_id"]].append(detection)
    result: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for image_id, found in of_image.items():
        if len(found) > max_detections:
            found = sorted(found, key=lambda d: d["score"], reverse=True)[:max_detections]
        for detection in found:
            if image_id in truth.looked_for.get(detection["category_id"], ()):
                result[detection["category_id"]].append(detection)
    return result


def _one_category(
    truth: LVISTruth, category_id: int, found: Sequence[Mapping[str, Any]], iou_type: str
) -> tuple[COCO, COCO]:
    """The ground truth and the detections of a category, as COCO's evaluation takes them."""
    instances = [dict(a, id=i) for i, a in enumerate(truth.instances[category_id], start=1)]
    if iou_type == "segm":
        for instance in instances:
            instance["iscrowd"] = int(instance["iscrowd"] or not instance["has_mask"])
    not_exhaustive = truth.not_exhaustive.get(category_id, ())
    detections: list[dict[str, Any]] = []
    for detection, area in zip(found, _areas(found, iou_type)):
        if area <= 0:  # as in the package lvis
            continue
        result = dict(detection, id=len(detections) + 1, iscrowd=0, area=area)
        if detection["image_id"] in not_exhaustive:
            # COCO's evaluation ignores unmatched detections, and no others, whose area is out of
            # range.
            result["area"] = float("inf")
        detections.append(result)
    images = [truth.images[i] for i in sorted(truth.looked_for[category_id])]
    return _coco(images, instances, category_id), _coco(images, detections, category_id)


def _areas(detections: Sequence[Mapping[str, Any]], iou_type: str) -> list[float]:
    """In pixels, of boxes or of masks."""
    if iou_type == "bbox":
        return [d["bbox"][2] * d["bbox"][3] for d in detections]
    return [float(a) for a in areas([d["segmentation"] for d in detections])]


def _coco(images: list[_Image], annotations: list[dict[str, Any]], category_id: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category_id}],
    }
    coco.createIndex()
    return coco
