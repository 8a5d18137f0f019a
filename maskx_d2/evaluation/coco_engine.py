"""
COCO's evaluation in C++ where faster-coco-eval is installed, and pycocotools' otherwise.

Both match the same detections. Recall and scores are equal to the last bit; precision is where
pycocotools adds 2.2e-16 to the number of detections, which shows at 1 detection and is lost
from 2 on, so it is at most 2.3e-16 less.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

try:
    from faster_coco_eval import COCOeval_faster
except ImportError:
    COCOeval_faster = None

__all__ = ["IS_FAST", "new_cocoeval", "with_fastest_cocoeval"]

#: Whether faster-coco-eval is installed.
IS_FAST = COCOeval_faster is not None


def new_cocoeval(truth: COCO, detections: COCO, iou_type: str) -> Any:
    """
    The fastest evaluation there is, to be used as pycocotools' :class:`COCOeval` is.

    Only its attribute ``evalImgs`` may be empty, and ``stats`` longer.

    Args:
        truth, detections: pycocotools' own.
        iou_type: ``"bbox"`` or ``"segm"``; others are left to pycocotools.
    """
    if COCOeval_faster is None or iou_type not in ("bbox", "segm"):
        return COCOeval(truth, detections, iou_type)
    return COCOeval_faster(truth, detections, iou_type, print_function=print)


@contextmanager
def with_fastest_cocoeval() -> Iterator[None]:
    """
    Let detectron2's :class:`COCOEvaluator` use :func:`new_cocoeval` while this lasts.

    Where faster-coco-eval is not installed, and for keypoints, it uses what it would have used.
    """
    # It chooses between two names of its module, the fast one of which is the slow one where
    # detectron2 was installed without its compiled part.
    names = ("COCOeval", "COCOeval_opt") if COCOeval_faster is not None else ()
    before = {name: getattr(coco_evaluation, name) for name in names}

    def faster(own: Any) -> Any:
        return lambda truth, detections, iou_type: (
            new_cocoeval if iou_type in ("bbox", "segm") else own
        )(truth, detections, iou_type)

    try:
        for name, own in before.items():
            setattr(coco_evaluation, name, faster(own))
        yield
    finally:
        for name, value in before.items():
            setattr(coco_evaluation, name, value)
