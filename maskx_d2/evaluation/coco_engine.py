"""
COCO's evaluation in C++ where faster-coco-eval is installed, and pycocotools' otherwise.

Precision, recall and scores of the two are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .exact_precision import round_as_pycocotools

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
    coco_eval = COCOeval_faster(truth, detections, iou_type, print_function=print)
    accumulate = coco_eval.accumulate

    def accumulate_exactly() -> None:
        accumulate()
        round_as_pycocotools(coco_eval.eval, coco_eval.params, truth, detections, iou_type)

    coco_eval.accumulate = accumulate_exactly
    return coco_eval


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
