"""LVIS's evaluation against the package ``lvis``, and what it means, case by case."""

import contextlib
import copy
import io
import json
import math
import os

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval

from maskx_d2 import ClassSplit
from maskx_d2.data import register_partial
from maskx_d2.evaluation import SplitLVISEvaluator
from maskx_d2.evaluation.coco_engine import IS_FAST, new_cocoeval
from maskx_d2.evaluation.lvis_protocol import (
    LVIS_METRICS,
    LVISTruth,
    _areas,
    lvis_metrics,
    lvis_precision,
)

pytestmark = pytest.mark.usefixtures("no_registration_left")
ENGINES = [COCOeval, *([new_cocoeval] if IS_FAST else [])]
SIZE = 100


@pytest.fixture
def lvis(monkeypatch):
    """The package of LVIS's authors, given back what numpy took from it."""
    reason = "needs the package lvis (pip install --no-deps lvis==0.5.3)"
    package = pytest.importorskip("lvis", reason=reason)
    monkeypatch.setattr(np, "float", float, raising=False)
    return package


@pytest.fixture(scope="session")
def golden(photographs):
    """100 images of LVIS v0.5's validation set, where they lie beside the photographs."""
    file = photographs / "evaluator_golden" / "lvis_val_100.json"
    if not file.is_file():
        message = "needs evaluator_golden/lvis_val_100.json under DETECTRON2_DATASETS"
        (pytest.fail if os.getenv("MASKX_REQUIRE_PHOTOGRAPHS") else pytest.skip)(message)
    return file


def detect(content, rng):
    """Instances found nearly, found as something else, things that are not there, and no area."""
    size = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    ids = [c["id"] for c in content["categories"]]
    found = []

    def add(image_id, category_id, box, segmentation):
        score = float(rng.integers(1, 50) / 50)  # with ties
        # A model's boxes end where the image does.
        what = {"image_id": image_id, "category_id": category_id, "score": score, "bbox": box}
        found.append({**what, "segmentation": segmentation})

    for a in content["annotations"]:
        height, width = size[a["image_id"]]
        for _ in range(rng.integers(0, 3)):
            shift = rng.normal(0, 0.08, 2) * a["bbox"][2:]
            moved = [(np.reshape(p, (-1, 2)) + shift).ravel().tolist() for p in a["segmentation"]]
            mask = mask_util.merge(mask_util.frPyObjects(moved, height, width))
            box = np.add(a["bbox"], [*shift, *rng.normal(0, 0.05, 2)]).tolist()
            wrong = rng.random() < 0.2
            add(a["image_id"], int(rng.choice(ids)) if wrong else a["category_id"], box, mask)
    for image in content["images"]:
        height, width = size[image["id"]]
        many = 400 if rng.random() < 0.05 else 15
        said = image["neg_category_ids"] + image["not_exhaustive_category_ids"]
        for _ in range(many):
            x, y = rng.uniform(0, width - 20), rng.uniform(0, height - 20)
            box = [float(v) for v in (x, y, *rng.uniform(2, 20, 2))]
            mask = mask_util.merge(mask_util.frPyObjects([polygon(box)], height, width))
            of = said if said and rng.random() < 0.7 else ids
            add(image["id"], int(rng.choice(of)), box, mask)
    for image in content["images"][::3]:
        empty = mask_util.encode(np.zeros((*size[image["id"]], 1), dtype=np.uint8, order="F"))[0]
        for category_id in image["neg_category_ids"][:2]:
            add(image["id"], category_id, [3.0, 3.0, 0.0, 4.0], empty)
    return found


def polygon(box):
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def of_the_package(package, content, detections, task, category_ids=None):
    """The precision and the nine metrics of the package lvis."""
    detections = copy.deepcopy(detections)
    if task == "segm":  # as detectron2 has it: the size is that of the mask
        for d in detections:
            del d["bbox"]
    truth = package.LVIS.__new__(package.LVIS)
    truth.logger = package.lvis.logging.getLogger("lvis")
    truth.dataset = copy.deepcopy(content)
    truth._create_index()
    evaluation = package.LVISEval(truth, package.LVISResults(truth, detections, 300), task)
    if category_ids is not None:
        evaluation.params.cat_ids = category_ids
    evaluation.run()
    metrics = [evaluation.get_results()[m] for m in LVIS_METRICS]
    return evaluation.eval["precision"], [100 * m if m > -1 else math.nan for m in metrics]


def assert_equal(package, json_file, detections, task):
    content = json.loads(json_file.read_text())
    truth = LVISTruth(json_file)
    ids, frequencies = list(truth.frequencies), list(truth.frequencies.values())
    expected, metrics = of_the_package(package, content, detections, task)
    assert (expected > -1).any() and 0 < metrics[0] < 100
    for engine in ENGINES:
        precision = lvis_precision(truth, detections, task, new_cocoeval=engine)
        np.testing.assert_array_equal(precision[..., 0], expected)
        actual = lvis_metrics(precision, range(len(ids)), frequencies)
        assert tuple(actual) == LVIS_METRICS
        np.testing.assert_allclose(list(actual.values()), metrics, rtol=1e-12)
        # A subset is what the package says of these categories alone.
        some = list(range(0, len(ids), 2))
        subset = lvis_metrics(precision, some, frequencies)
        _, metrics_of_some = of_the_package(
            package, content, detections, task, [ids[i] for i in some]
        )
        np.testing.assert_allclose(list(subset.values()), metrics_of_some, rtol=1e-12)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_it_equals_the_package_on_lvis_images(lvis, golden, tmp_path, task):
    content = json.loads(golden.read_text())
    # The images' own categories are enough, and the package is slow with 1,230.
    used = {a["category_id"] for a in content["annotations"]}
    for image in content["images"]:
        used |= {*image["neg_category_ids"][:3], *image["not_exhaustive_category_ids"]}
    content["categories"] = [c for c in content["categories"] if c["id"] in used]
    for image in content["images"]:
        image["neg_category_ids"] = [c for c in image["neg_category_ids"] if c in used]
    file = tmp_path / "lvis.json"
    file.write_text(json.dumps(content))
    assert_equal(lvis, file, detect(content, np.random.default_rng(0)), task)


def random_content(seed):
    """Ground truth in LVIS's format of 20 images and 8 categories."""
    rng = np.random.default_rng(seed)
    categories = [{"id": c, "name": f"c{c}", "frequency": "rcf"[c % 3]} for c in range(1, 9)]
    images, annotations = [], []
    for i in range(1, 21):
        there, absent = np.split(rng.permutation(np.arange(1, 8)), [3])  # 8 has no ground truth
        lacking = [int(c) for c in there if rng.random() < 0.3]
        images.append(
            {
                **{"id": 3 * i, "height": SIZE, "width": SIZE, "file_name": f"{i}.png"},
                "neg_category_ids": [int(c) for c in absent[:2]] + [8],
                "not_exhaustive_category_ids": lacking,
            }
        )
        for category in there:
            for _ in range(rng.integers(1, 4)):
                x, y = rng.uniform(0, 30, 2)
                box = [float(v) for v in (x, y, *np.exp(rng.uniform(1, 4, 2)))]
                annotations.append(
                    {
                        **{"id": len(annotations) + 1, "image_id": 3 * i, "bbox": box},
                        **{"category_id": int(category), "area": box[2] * box[3]},
                        "segmentation": [polygon(box)],
                    }
                )
    annotations[0]["area"] = 0.0
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_it_equals_the_package_on_random_data(lvis, tmp_path, task, seed):
    content = random_content(seed)
    file = tmp_path / "lvis.json"
    file.write_text(json.dumps(content))
    assert_equal(lvis, file, detect(content, np.random.default_rng(seed)), task)


# ------------------------------------------------------------ the rules and the evaluator itself

PETS = ("cat", "dog", "cup", "car")
BOX = [10, 10, 20, 20]


@pytest.fixture
def pets(tmp_path, no_registration_left):
    """
    Image 1 has a cat and a dog, and no cup; of cars nothing is known. Image 2 has a cat, perhaps
    not all of them. The ids have gaps.
    """
    square = {"bbox": BOX, "area": 400, "segmentation": [polygon(BOX)]}
    content = {
        "images": [
            {"id": 1, "neg_category_ids": [7], "not_exhaustive_category_ids": []},
            {"id": 2, "neg_category_ids": [], "not_exhaustive_category_ids": [1]},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, **square},
            {"id": 2, "image_id": 1, "category_id": 4, **square},
            {"id": 3, "image_id": 2, "category_id": 1, **square},
        ],
        "categories": [
            {"id": 3 * i + 1, "name": name, "frequency": frequency}
            for i, (name, frequency) in enumerate(zip(PETS, "rcff"))
        ],
    }
    for image in content["images"]:
        image.update(height=SIZE, width=SIZE, file_name=f"{image['id']}.png")
    file = tmp_path / "pets.json"
    file.write_text(json.dumps(content))
    register_lvis_instances("pets", {}, str(file), str(tmp_path))
    split = ClassSplit("pets", {"cat", "car"}, {"dog", "cup"})
    register_partial("pets_split", base="pets", split=split, keep_masks=True)
    return file


def outputs(*boxes):
    """What a model gives for an image: (category, score, box), with the box as the mask."""
    instances = Instances((SIZE, SIZE))
    corners = [[x, y, x + w, y + h] for _, _, (x, y, w, h) in boxes]
    instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([c for c, _, _ in boxes], dtype=torch.int64)
    instances.scores = torch.tensor([s for _, s, _ in boxes])
    instances.pred_masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, corners):
        mask[y0:y1, x0:x1] = True
    return {"instances": instances}


def evaluate(per_image, name="pets_split", **kwargs):
    evaluator = SplitLVISEvaluator(name, distributed=False, **kwargs)
    evaluator.reset()
    for image_id, boxes in per_image.items():
        evaluator.process([{"image_id": image_id}], [outputs(*boxes)])
    return evaluator.evaluate()


CAT, DOG, CUP, CAR = range(4)
ELSEWHERE = [60, 60, 20, 20]
RIGHT = {1: [(CAT, 0.5, BOX), (DOG, 0.5, BOX)], 2: [(CAT, 0.5, BOX)]}


@pytest.mark.usefixtures("pets")
def test_results_of_all_a_and_b(caplog, tmp_path):
    with caplog.at_level("INFO", logger="maskx_d2"):
        results = evaluate({**RIGHT, 2: []}, output_dir=str(tmp_path / "out"))
    assert set(results) == {f"{t}{s}" for t in ("bbox", "segm") for s in ("", "_A", "_B")}
    assert tuple(results["segm_A"]) == LVIS_METRICS
    for task in ("bbox", "segm"):
        half = 100 * 51 / 101  # one of two cats
        assert results[f"{task}_A"]["AP"] == pytest.approx(half)
        assert results[f"{task}_A"]["APr"] == pytest.approx(half)
        assert math.isnan(results[f"{task}_A"]["APf"]), "there is no car"
        assert results[f"{task}_B"]["APc"] == results[f"{task}_B"]["AP"] == pytest.approx(100)
        assert results[task]["AP"] == pytest.approx((100 + half) / 2)
    assert "| segm_B |" in caplog.text
    saved = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert [d["category_id"] for d in saved] == [1, 4], "LVIS's ids"


@pytest.mark.usefixtures("pets")
def test_results_of_categories_with_image_labels_only():
    results = evaluate(RIGHT, class_split=ClassSplit("s", {"cat"}, {"cup", "car"}, {"dog"}))
    tasks = ("bbox", "segm")
    assert set(results) == {f"{t}{s}" for t in tasks for s in ("", "_A", "_B", "_C")}
    whole = evaluate(RIGHT, class_split=ClassSplit("s", {"cat"}, {"dog"}, {"cup", "car"}))
    for task in tasks:
        assert results[f"{task}_C"]["AP"] == pytest.approx(100)
        assert math.isnan(whole[f"{task}_C"]["AP"])


@pytest.mark.usefixtures("pets")
def test_only_categories_that_were_looked_for_can_be_wrong():
    perfect = evaluate(RIGHT)
    assert perfect["segm"]["AP"] == pytest.approx(100)
    not_looked_for = {**RIGHT, 2: [*RIGHT[2], (DOG, 0.9, ELSEWHERE), (CAR, 0.9, BOX)]}
    np.testing.assert_equal(evaluate(not_looked_for), perfect)
    not_exhaustive = {**RIGHT, 2: [*RIGHT[2], (CAT, 0.9, ELSEWHERE)]}
    np.testing.assert_equal(evaluate(not_exhaustive), perfect)
    wrong = evaluate({**RIGHT, 1: [*RIGHT[1], (DOG, 0.9, ELSEWHERE)]})
    assert wrong["segm_B"]["AP"] == pytest.approx(50)


def test_detections_of_negative_categories_are_wrong(pets):
    content = json.loads(pets.read_text())
    content["images"][1]["neg_category_ids"] = [4]  # there is no dog
    pets.write_text(json.dumps(content))
    results = evaluate({**RIGHT, 2: [*RIGHT[2], (DOG, 0.9, ELSEWHERE)]})
    assert results["bbox_B"]["AP"] == pytest.approx(50)
    assert results["bbox_A"]["AP"] == pytest.approx(100)


@pytest.mark.usefixtures("pets")
def test_300_detections_of_an_image_count():
    cars = [(CAR, 0.9, BOX)] * 299
    results = evaluate({**RIGHT, 1: [(CAT, 0.5, BOX), (DOG, 0.4, BOX), *cars]})
    assert results["bbox_A"]["AP"] == pytest.approx(100)
    assert results["bbox_B"]["AP"] == pytest.approx(0), "the dog is the 301st"


def test_ground_truth_without_a_mask_is_neither_right_nor_wrong(pets):
    content = json.loads(pets.read_text())
    del content["annotations"][0]["segmentation"]
    pets.write_text(json.dumps(content))
    results = evaluate({**RIGHT, 1: [*RIGHT[1], (CAT, 0.9, BOX)]})
    assert results["segm_A"]["AP"] == pytest.approx(100)
    assert results["bbox_A"]["AP"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


@pytest.mark.usefixtures("pets")
def test_the_engine_can_be_chosen(monkeypatch):
    made = []
    module = "maskx_d2.evaluation.split_lvis_evaluator"
    monkeypatch.setattr(f"{module}.new_cocoeval", lambda *args: made.append(1) or COCOeval(*args))
    official = evaluate(RIGHT, use_fast_impl=False)
    assert not made
    np.testing.assert_equal(evaluate(RIGHT), official)
    assert made


@pytest.mark.usefixtures("pets")
def test_nothing_found():
    results = evaluate({1: [], 2: []})
    assert set(results) == {f"{t}{s}" for t in ("bbox", "segm") for s in ("", "_A", "_B")}
    assert all(math.isnan(v) for metrics in results.values() for v in metrics.values())


def test_a_test_set_has_no_annotations_and_no_results(pets):
    content = json.loads(pets.read_text())
    content["annotations"] = []
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    pets.write_text(json.dumps(content))
    assert evaluate(RIGHT) == {}


def test_a_file_in_cocos_format_is_refused(pets):
    content = json.loads(pets.read_text())
    del content["images"][0]["neg_category_ids"]
    pets.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"pets\.json: image 1 has no 'neg_category_ids'"):
        SplitLVISEvaluator("pets_split")


def test_a_data_set_without_a_file_and_a_split_that_does_not_fit(pets):
    MetadataCatalog.get("in_memory").thing_classes = ["cat"]
    with pytest.raises(ValueError, match="'in_memory' has no json_file"):
        SplitLVISEvaluator("in_memory")
    with pytest.raises(ValueError, match="names 'bird'"):
        SplitLVISEvaluator("pets_split", class_split=ClassSplit("s", {"bird"}, {"cat"}))
    register_coco_instances("coco_pets", {}, str(pets), "")
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluate(RIGHT, "coco_pets")
    assert set(results) == {"bbox", "segm"}, "no split"


def test_more_detections_of_a_category_than_pycocotools_can_count():
    mask = mask_util.encode(np.ones((4, 5), dtype=np.uint8, order="F"))
    assert _areas([{"segmentation": mask}] * 300, "segm") == [20.0] * 300
