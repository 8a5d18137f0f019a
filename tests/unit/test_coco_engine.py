"""The fast evaluation against pycocotools: every precision, recall and score."""

import contextlib
import copy
import io
import json
import os

import numpy as np
import pytest
from detectron2.evaluation import coco_evaluation
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskx_d2.evaluation import coco_engine
from maskx_d2.evaluation.coco_engine import new_cocoeval, with_fastest_cocoeval
from maskx_d2.evaluation.ground_truth import ignore_maskless

needs_fast = pytest.mark.skipif(not coco_engine.IS_FAST, reason="needs faster-coco-eval")
SIZE = 200


def evaluated(make, truth, detections, task):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        coco_eval = make(coco, coco.loadRes(copy.deepcopy(detections)), task)
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval


def assert_equal(truth, detections, task):
    slow = evaluated(COCOeval, truth, detections, task)
    fast = evaluated(new_cocoeval, truth, detections, task)
    assert type(fast) is not type(slow)
    for key in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(fast.eval[key], slow.eval[key], err_msg=key)
    np.testing.assert_array_equal(fast.stats[:12], slow.stats)
    return slow


@needs_fast
@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("maskless", [False, True])
def test_golden_detections(photographs, task, maskless):
    golden = photographs / "evaluator_golden"
    if not golden.is_dir():
        message = "needs COCO API's fake detections (evaluator_golden) under DETECTRON2_DATASETS"
        (pytest.fail if os.getenv("MASKX_REQUIRE_PHOTOGRAPHS") else pytest.skip)(message)
    truth = json.loads((golden / "instances_val2014_100.json").read_text())
    file = golden / f"instances_val2014_fake{task}100_results.json"
    if maskless:
        truth = without_some_masks(truth)
    assert_equal(truth, json.loads(file.read_text()), task)


def without_some_masks(truth):
    """What SplitCOCOEvaluator evaluates masks on where every third instance has none."""
    coco = COCO()
    coco.dataset = copy.deepcopy(truth)
    for annotation in coco.dataset["annotations"][::3]:
        del annotation["segmentation"]
    ignoring = ignore_maskless(coco)
    assert ignoring is not None
    return ignoring.dataset


def random_data(seed, num_images=12, num_categories=5):
    """Ground truth with crowds of all sizes, and detections with ties, too many and empty ones."""
    rng = np.random.default_rng(seed)
    images = [{"id": 7 * i + 1, "height": SIZE, "width": SIZE} for i in range(num_images)]
    annotations, detections = [], []
    for image in images:
        for category in range(1, num_categories):  # the last has no ground truth
            for _ in range(rng.integers(0, 4)):
                box = random_box(rng)
                crowd = bool(rng.random() < 0.2)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": 3 * category,
                        "iscrowd": int(crowd),
                        "area": box[2] * box[3] / 2,
                        "bbox": box,
                        "segmentation": rle(box) if crowd else [triangle(box)],
                    }
                )
                for _ in range(rng.integers(0, 3)):
                    near = (np.array(box) * rng.uniform(0.85, 1.15, 4)).tolist()
                    detections.append(detection(rng, image, 3 * category, near))
        for category in range(1, num_categories + 1):
            for _ in range(rng.integers(0, 120 if rng.random() < 0.05 else 4)):
                detections.append(detection(rng, image, 3 * category, random_box(rng)))
    detections.append({**detections[0], "bbox": [5.0, 5.0, 0.0, 0.0], "segmentation": rle(None)})
    categories = [{"id": 3 * c, "name": str(c)} for c in range(1, num_categories + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def random_box(rng):
    width, height = np.exp(rng.uniform(np.log(4), np.log(150), 2))
    x, y = rng.uniform(0, SIZE - width), rng.uniform(0, SIZE - height)
    return [float(v) for v in (x, y, width, height)]


def triangle(box):
    x, y, w, h = box
    return [x, y, x + w, y, x, y + h]


def rle(box):
    if box is None:
        return mask_util.encode(np.zeros((SIZE, SIZE), dtype=np.uint8, order="F"))
    return mask_util.merge(mask_util.frPyObjects([triangle(box)], SIZE, SIZE))


def detection(rng, image, category, box):
    return {
        "image_id": image["id"],
        "category_id": category,
        "score": float(rng.integers(1, 20) / 20),
        "bbox": box,
        "segmentation": rle(box),
    }


@needs_fast
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_random_data_with_crowds_ties_and_masks_that_are_missing(task, seed):
    truth, detections = random_data(seed)
    if task == "segm":
        detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    result = assert_equal(truth, detections, task)
    assert 0 < result.stats[0] < 1
    assert_equal(without_some_masks(truth), detections, task)


@needs_fast
def test_detectron2_uses_it_as_long_as_it_is_asked_to(monkeypatch):
    truth, detections = random_data(0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
    before = coco_evaluation.COCOeval, coco_evaluation.COCOeval_opt
    with with_fastest_cocoeval():
        result = coco_evaluation._evaluate_predictions_on_coco(
            coco, detections, "bbox", cocoeval_fn=coco_evaluation.COCOeval
        )
    assert type(result) is coco_engine.COCOeval_faster
    assert (coco_evaluation.COCOeval, coco_evaluation.COCOeval_opt) == before


def test_without_the_library_and_for_keypoints_it_is_pycocotools(monkeypatch):
    assert type(new_cocoeval(None, None, "keypoints")) is COCOeval
    monkeypatch.setattr(coco_engine, "COCOeval_faster", None)
    assert type(new_cocoeval(None, None, "bbox")) is COCOeval


@needs_fast
def test_keypoints_keep_the_evaluation_that_detectron2_has_compiled(monkeypatch):
    monkeypatch.setattr(coco_evaluation, "COCOeval_opt", lambda *args: args)
    with with_fastest_cocoeval():
        assert coco_evaluation.COCOeval_opt(1, 2, "keypoints") == (1, 2, "keypoints")


def test_without_the_library_detectron2_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(coco_engine, "COCOeval_faster", None)
    before = coco_evaluation.COCOeval, coco_evaluation.COCOeval_opt
    with with_fastest_cocoeval():
        assert (coco_evaluation.COCOeval, coco_evaluation.COCOeval_opt) == before
