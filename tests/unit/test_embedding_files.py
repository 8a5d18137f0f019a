"""Vectors of categories from files: matched by name, and never quietly wrong."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from maskx_d2 import apply_maskx, model_zoo
from maskx_d2.modeling import load_class_embedding, random_class_embedding
from maskx_d2.splits import SHAPES_CLASSES

NAMES = ["cat", "dog", "cup", "car"]
ROWS = torch.arange(1.0, 13).reshape(4, 3)


@pytest.fixture
def file(tmp_path):
    """Write an embedding file and, unless it is None, what is said of its rows."""

    def write(name, rows, sidecar):
        path = tmp_path / name
        np.save(path, rows.numpy()) if path.suffix == ".npy" else torch.save(rows, path)
        if sidecar is not None:
            path.with_suffix(".json").write_text(json.dumps(sidecar))
        return path

    return write


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.pt"])
def test_rows_are_matched_by_name(file, name):
    path = file(name, ROWS, {"categories": ["car", "cat", "cup", "dog"]})
    torch.testing.assert_close(load_class_embedding(path, NAMES), ROWS[[1, 3, 2, 0]])
    # A file for more categories than the data set has serves as well.
    torch.testing.assert_close(load_class_embedding(path, ["cup", "car"]), ROWS[[2, 0]])


def test_rows_are_in_the_data_sets_order_where_it_is_said(file):
    path = file("vectors.npy", ROWS.half(), {"order": "dataset"})
    vectors = load_class_embedding(path, NAMES)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, ROWS)


def test_a_dict_names_its_rows_itself(file):
    path = file("vectors.pt", dict(zip(reversed(NAMES), ROWS)), None)
    torch.testing.assert_close(load_class_embedding(path, NAMES), ROWS.flip(0))


@pytest.mark.parametrize(
    ("rows", "sidecar", "error", "message"),
    [
        (ROWS, None, FileNotFoundError, r"4 rows .* must be said in .*vectors\.json"),
        (ROWS, {"categories": NAMES[:3]}, ValueError, "has 4 rows, but 3 categories"),
        (ROWS[:3], {"order": "dataset"}, ValueError, "3 rows, but 4 categories .* by the data set"),
        (ROWS, {"categories": ["cat", "dog", "mug", "car"]}, ValueError, "no vector for 'cup'"),
        (ROWS, {"categories": ["cat", "dog", "cup", "cat"]}, ValueError, "'cat' more than once"),
        (ROWS, {"rows": NAMES}, ValueError, "must hold"),
        (ROWS[0], {"order": "dataset"}, ValueError, r"must hold \(rows, D\)"),
        (ROWS * torch.tensor([[1], [0], [1], [1]]), {"order": "dataset"}, ValueError, "zeros.*dog"),
        (ROWS / torch.tensor([[1], [1], [1], [0]]), {"order": "dataset"}, ValueError, "'car'"),
    ],
)
def test_what_is_missing_or_misaligned_is_an_error(file, rows, sidecar, error, message):
    path = file("vectors.npy", rows, sidecar)
    with pytest.raises(error, match=message):
        load_class_embedding(path, NAMES)


def test_vectors_of_different_lengths(file):
    path = file("vectors.pt", {n: torch.ones(3 + (n == "cup")) for n in NAMES}, None)
    with pytest.raises(ValueError, match=r"one length.*\(3,\), \(4,\)"):
        load_class_embedding(path, NAMES)


@pytest.mark.parametrize("name", ["nowhere.npy", "nowhere.pt"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        load_class_embedding(tmp_path / name, NAMES)


def test_random_vectors_depend_on_the_name_alone():
    vectors = random_class_embedding(NAMES, dim=5000)
    torch.testing.assert_close(random_class_embedding(["dog"], dim=5000), vectors[1:2])
    assert abs(vectors.mean()) < 0.05 and abs(vectors.std() - 1) < 0.05
    assert torch.corrcoef(vectors).fill_diagonal_(0).abs().max() < 0.1


@pytest.fixture
def pets(no_registration_left):
    MetadataCatalog.get("pets").thing_classes = NAMES
    return "DATASETS.TRAIN", ("pets",), "DATASETS.TEST", ("pets",)


def test_a_model_learns_from_the_files_vectors_and_keeps_them(file, pets):
    path = file("vectors.npy", ROWS, {"categories": ["car", "cat", "cup", "dog"]})
    opts = ("MODEL.MASKX.TRANSFER_INPUT", "embedding", "MODEL.MASKX.EMBEDDING_FILE", str(path))
    name = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
    heads = build_model(tiny_cfg(name, *pets, *opts)).roi_heads
    transfer = heads.weight_transfer
    torch.testing.assert_close(heads.class_weights(), transfer(ROWS[[1, 3, 2, 0]]))
    assert "class_embedding" in heads.state_dict()
    heads.class_weights().sum().backward()
    assert heads.box_predictor.cls_score.weight.grad is None
    random = build_model(tiny_cfg(name, *pets, "MODEL.MASKX.TRANSFER_INPUT", "random")).roi_heads
    assert random.class_embedding.shape == (4, 300)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.MASKX.TRANSFER_INPUT", "embedding"), "EMBEDDING_FILE is empty"),
        (("MODEL.MASKX.EMBEDDING_FILE", "a.npy"), "EMBEDDING_FILE is 'a.npy', but .* 'cls\\+box'"),
        (
            ("MODEL.MASKX.TRANSFER_INPUT", "random", "MODEL.ROI_HEADS.NUM_CLASSES", 5),
            "4 rows, but the model has 5 categories",
        ),
    ],
)
def test_configs_that_contradict_themselves(pets, opts, message):
    name = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
    with pytest.raises(ValueError, match=message):
        build_model(tiny_cfg(name, *pets, *opts))


def test_of_a_lazy_config(file):
    from detectron2.config import instantiate

    path = file("vectors.npy", torch.randn(36, 5), {"order": "dataset"})
    names = [f"shape {i}" for i in range(36)]
    model = model_zoo.get_config("shapes/maskx.py").model
    apply_maskx(model, transfer_input="embedding", thing_classes=names, embedding_file=str(path))
    assert instantiate(model.roi_heads).class_weights().shape == (36, 64)
    apply_maskx(model, transfer_input="random", thing_classes=names)
    assert instantiate(model.roi_heads).class_embedding.shape == (36, 300)
    apply_maskx(model, transfer_input="random", thing_classes="shapes_train")  # not read yet
    vectors = instantiate(model.roi_heads).class_embedding
    assert torch.equal(vectors, random_class_embedding(SHAPES_CLASSES))
    apply_maskx(model, transfer_input="cls")
    assert instantiate(model.roi_heads).class_embedding is None
    with pytest.raises(ValueError, match="'random' thing_classes"):
        apply_maskx(model, transfer_input="random")
