"""Training samples of images in which only some of the instances have a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from pycocotools.mask import encode

from .partial_masks import box_polygon, has_mask, mask_weight, usable_polygons
from .rle import checked

__all__ = ["PartialMaskDatasetMapper"]


class PartialMaskDatasetMapper(DatasetMapper):
    """
    A :class:`DatasetMapper` that keeps every box and says of every instance if it has a mask.

    Each training sample's ``instances`` has, beside ``gt_boxes``, ``gt_classes`` and ``gt_masks``,
    a field ``gt_has_mask``: bool (N,) over the N instances. Where it is False, ``gt_masks`` holds
    the instance's box as a stand-in, because detectron2's mask containers want a mask for every
    instance; :class:`~maskx_d2.modeling.SupervisedMasksOnly` keeps it away from the loss.

    A mask whose annotation has a ``mask_weight`` below 1, such as one that a model has made, is
    there in that part of the samples, drawn anew each time; in the others its instance has a box
    only. On average its losses count as much as it says, whatever the mask head.

    An image with RLE masks gets :class:`BitMasks` also where ``INPUT.MASK_FORMAT`` says polygons.
    Where keypoints are used, instances without any get invisible ones.

    Stock detectron2 decides by the first annotation of an image whether the image has masks: a
    mixed image loses all of them without a word, crashes, or loses boxes.

    It is configured as :class:`DatasetMapper` is, from a config or by keyword arguments.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`DatasetMapper.__call__`; errors say which image they are about."""
        try:
            sample: dict[str, Any] = super().__call__(dataset_dict)
        except FileNotFoundError as e:
            raise FileNotFoundError(
                f"image {dataset_dict.get('image_id')}: file '{e.filename}' does not exist; "
                "put it there or take the image out of the data set."
            ) from e
        return sample

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        """Follows :meth:`DatasetMapper._transform_annotations`, instance by instance."""
        for annotation in dataset_dict["annotations"]:
            if not self.use_keypoint:
                annotation.pop("keypoints", None)
            elif annotation.get("keypoints") is None or not len(annotation["keypoints"]):
                # Where one instance of an image has them, detectron2 wants all to have them.
                annotation["keypoints"] = [0.0] * (3 * len(self.keypoint_hflip_indices))
        if not self.use_instance_mask:
            return super()._transform_annotations(dataset_dict, transforms, image_shape)

        annotations = [a for a in dataset_dict.pop("annotations") if not a.get("iscrowd", 0)]
        supervised = [_provide_mask(a, dataset_dict) for a in annotations]
        weights = [a.pop("mask_weight", 1.0) for a in annotations]
        guessed = [a.get("mask_source") is not None for a in annotations]
        # RLE can't become polygons. Containers may differ from image to image, so nothing is lost.
        has_rle = any(isinstance(a["segmentation"], dict) for a in annotations)
        mask_format = "bitmask" if has_rle else self.instance_mask_format
        for annotation, real in zip(annotations, supervised):
            utils.transform_instance_annotations(
                annotation,
                transforms,
                image_shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            mask = annotation["segmentation"]
            if isinstance(mask, np.ndarray):  # of RLE; crops pad with 255, which is no object
                annotation["segmentation"] = mask == 1
            elif real:
                annotation["segmentation"] = _clip(mask, image_shape)
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=mask_format
        )
        if annotations:
            # A mask that left the image or slipped through a coarse grid is none; its box stays.
            instances.gt_has_mask = torch.tensor(supervised) & instances.gt_masks.nonempty()
            if self.recompute_boxes:
                # After a crop, the tight box of what is left of an object comes from its mask.
                # Without a real mask, the clipped box is the best there is.
                tight = instances.gt_masks.get_bounding_boxes().tensor
                boxes = instances.gt_boxes.tensor
                known = instances.gt_has_mask & ~torch.tensor(guessed)
                boxes[known] = tight[known].to(boxes.dtype)
            if min(weights) < 1:  # else no random number is drawn
                counts = np.random.random(len(weights)) < np.array(weights)
                instances.gt_has_mask &= torch.from_numpy(counts)
        dataset_dict["instances"] = utils.filter_empty_instances(instances, by_mask=False)


def _provide_mask(annotation: dict[str, Any], dataset_dict: dict[str, Any]) -> bool:
    """Leave a transformable ``segmentation`` in the annotation; return whether it is a real one."""
    where = f"image {dataset_dict.get('image_id')}, annotation {annotation.get('id')}"
    try:
        segmentation = annotation["segmentation"] if has_mask(annotation) else []
        mask_weight(annotation)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    if isinstance(segmentation, (list, tuple)):
        polygons = [np.asarray(p, dtype=np.float64) for p in usable_polygons(segmentation)]
        if not all(np.isfinite(p).all() for p in polygons):
            raise ValueError(f"{where}: a polygon has a coordinate that is no finite number.")
        polygons = [p for p in polygons if _has_area(p)]
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        annotation["segmentation"] = polygons or [box_polygon(box)]
        return bool(polygons)
    try:
        if isinstance(segmentation, np.ndarray):  # which detectron2 transforms as RLE only
            segmentation = encode(np.asfortranarray(segmentation, dtype=np.uint8))
        segmentation = checked(segmentation)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    size = (dataset_dict["height"], dataset_dict["width"])
    if tuple(segmentation["size"]) != size:
        raise ValueError(
            f"{where}: the mask is of {tuple(segmentation['size'])} pixels (height, width), but "
            f"the image of {size}; correct the mask or take it out."
        )
    annotation["segmentation"] = segmentation
    return True


def _has_area(polygon: NDArray[np.float64]) -> bool:
    """Whether not all points ``[x1, y1, x2, y2, ...]`` lie on a line."""
    sides = polygon.reshape(-1, 2) - polygon[:2]
    x, y = sides[np.abs(sides).sum(axis=1).argmax()]
    return bool(np.abs(sides[:, 0] * y - sides[:, 1] * x).max() > 1e-6)


def _clip(
    polygons: list[NDArray[np.float64]], image_shape: tuple[int, int]
) -> list[NDArray[np.float64]]:
    """Cut what lies outside the image: of all transforms, only crops do that to polygons."""
    height, width = image_shape
    image = T.CropTransform(0, 0, width, height)
    clipped = []
    for polygon in polygons:
        points = polygon.reshape(-1, 2)
        # Resizing moves points on the border out by the last digits of a number.
        near = np.clip(points, 0, (width, height))
        inside = np.abs(points - near).max() < 1e-6
        clipped += [near] if inside else image.apply_polygons([points])
    return [points.reshape(-1) for points in clipped]
