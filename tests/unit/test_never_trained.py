"""The parts of ``benchmarks/never_trained.py`` that decide what is compared with what."""

import importlib.util
import json

import pytest
import torch
from conftest import REPOSITORY
from detectron2.data import MetadataCatalog

from maskx_d2.splits import coco_nonvoc2voc


@pytest.fixture(scope="module")
def script():
    path = REPOSITORY / "benchmarks" / "never_trained.py"
    spec = importlib.util.spec_from_file_location("never_trained", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_of_the_twenty_is_in_the_training_set(script, photographs, tmp_path):
    script.write_datasets(tmp_path)
    whole = json.loads(
        (photographs / "coco" / "annotations" / "instances_train2017.json").read_text()
    )
    content = json.loads((tmp_path / "photographs60.json").read_text())
    voc = coco_nonvoc2voc([c["name"] for c in whole["categories"]]).boxes_only
    kept = {c["id"] for c in whole["categories"] if c["name"] not in voc}
    assert len(content["categories"]) == 60 and {c["id"] for c in content["categories"]} == kept
    assert content["annotations"] == [a for a in whole["annotations"] if a["category_id"] in kept]
    assert 0 < len(content["annotations"]) < len(whole["annotations"])
    assert len(content["images"]) == len(whole["images"])


def test_wrong_vectors_are_wrong_for_b_only(script):
    names = MetadataCatalog.get("coco_2017_val").thing_classes
    of_b = [i for i, n in enumerate(names) if n in coco_nonvoc2voc(names).boxes_only]
    vectors = torch.arange(80.0)[:, None].repeat(1, 4)
    for seed in range(5):
        dealt = script.misdealt(vectors, names, seed)[:, 0].long().tolist()
        assert sorted(dealt) == list(range(80))
        assert {i for i in range(80) if dealt[i] != i} == set(of_b)
