"""Training samples of images in which only some of the instances have a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode
from pycocotools.mask import encode

from .partial_masks import box_polygon, has_mask, usable_polygons

__all__ = ["PartialMaskDatasetMapper"]


class PartialMaskDatasetMapper(DatasetMapper):
    """
    A :class:`DatasetMapper` that keeps every box and says of every instance if it has a mask.

    Each training sample's ``instances`` has, beside ``gt_boxes``, ``gt_classes`` and ``gt_masks``,
    a field ``gt_has_mask``: bool (N,) over the N instances. Where it is False, ``gt_masks`` holds
    the instance's box as a stand-in, because detectron2's mask containers want a mask for every
    instance; :class:`~maskx_d2.modeling.SupervisedMasksOnly` keeps it away from the loss.

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
        if not self.use_instance_mask:
            return super()._transform_annotations(dataset_dict, transforms, image_shape)

        annotations = [a for a in dataset_dict.pop("annotations") if not a.get("iscrowd", 0)]
        supervised = [_provide_mask(annotation) for annotation in annotations]
        if self.instance_mask_format == "polygon" and any(
            isinstance(a["segmentation"], dict) for a in annotations
        ):
            raise ValueError(
                f"image {dataset_dict.get('image_id')} has RLE masks, which can't become polygons; "
                'set INPUT.MASK_FORMAT to "bitmask".'
            )
        for annotation in annotations:
            if not self.use_keypoint:
                annotation.pop("keypoints", None)
            utils.transform_instance_annotations(
                annotation,
                transforms,
                image_shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=self.instance_mask_format
        )
        if annotations:
            # A mask that a crop or a coarse grid has emptied is none; its box stays.
            instances.gt_has_mask = torch.tensor(supervised) & instances.gt_masks.nonempty()
            if self.recompute_boxes:
                # After a crop, the tight box of what is left of an object comes from its mask.
                # Without a mask, the clipped box is the best there is.
                tight = instances.gt_masks.get_bounding_boxes().tensor
                boxes = instances.gt_boxes.tensor
                boxes[instances.gt_has_mask] = tight[instances.gt_has_mask].to(boxes.dtype)
        dataset_dict["instances"] = utils.filter_empty_instances(instances, by_mask=False)


def _provide_mask(annotation: dict[str, Any]) -> bool:
    """Leave a transformable ``segmentation`` in the annotation; return whether it is a real one."""
    if not has_mask(annotation):
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        annotation["segmentation"] = [box_polygon(box)]
        return False
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, np.ndarray):  # which detectron2 transforms as RLE only
        annotation["segmentation"] = encode(np.asfortranarray(segmentation, dtype=np.uint8))
    if isinstance(segmentation, (list, tuple)):
        annotation["segmentation"] = [
            np.asarray(p, dtype=np.float64) for p in usable_polygons(segmentation)
        ]
    return True
