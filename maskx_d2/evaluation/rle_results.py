"""Results in COCO's format of instances whose masks are run lengths already."""

from __future__ import annotations

from typing import Any

from detectron2.structures import Instances

from ..postprocessing import RLEMasks

__all__ = ["take_rles"]


def take_rles(instances: Instances) -> tuple[Instances, list[dict[str, Any]] | None]:
    """
    Part an image's instances from their masks, which detectron2 would encode from bitmaps.

    Args:
        instances: of a model, R of them.

    Returns:
        The instances without ``pred_masks`` and its R RLEs; or the instances as they are and
        None, if their masks are not :class:`RLEMasks`.
    """
    fields = instances.get_fields()
    masks = fields.get("pred_masks")
    if not isinstance(masks, RLEMasks):
        return instances, None
    others = {name: value for name, value in fields.items() if name != "pred_masks"}
    return Instances(instances.image_size, **others), masks.rles
