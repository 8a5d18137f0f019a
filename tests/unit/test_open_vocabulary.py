"""Categories by their vectors: the classifier, T, and other categories after training."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import NUM_CLASSES, make_batch, make_targets, tiny_cfg
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from omegaconf import OmegaConf

from maskx_d2 import apply_maskx, apply_open_vocabulary, model_zoo
from maskx_d2.modeling import (
    EmbeddingClassifier,
    EmbeddingFastRCNNOutputLayers,
    MaskXROIHeads,
    OpenVocabularyMaskXROIHeads,
    set_vocabulary,
)

pytestmark = pytest.mark.usefixtures("storage")

NAMES = ["cat", "dog", "cup", "car"]
DIM = 6
# Lengths that are not 1, so that nothing can forget to divide by them.
VECTORS = torch.randn(NUM_CLASSES, DIM, generator=torch.Generator().manual_seed(7)) * 3
BASE = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"


@pytest.fixture
def opts(tmp_path, no_registration_left):
    """Overrides that make the tiny config an open-vocabulary one of ``NAMES``."""
    MetadataCatalog.get("pets").thing_classes = NAMES
    torch.save(dict(zip(NAMES, VECTORS)), tmp_path / "vectors.pt")
    return (
        *("DATASETS.TRAIN", ("pets",), "DATASETS.TEST", ("pets",)),
        *("MODEL.ROI_HEADS.NAME", "OpenVocabularyMaskXROIHeads"),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        *("MODEL.MASKX.TRANSFER_INPUT", "embedding"),
        *("MODEL.MASKX.EMBEDDING_FILE", str(tmp_path / "vectors.pt")),
    )


@pytest.fixture
def model(opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(BASE, *opts))


def others(count, dim=DIM):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def detections(model):
    """(category, its box, score, mask) of each detection, those of a category together."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3)) * 255
    (output,) = model.eval()([{"image": image}])
    found = output["instances"]
    order = sorted(
        range(len(found)),
        key=lambda i: (found.pred_classes[i].item(), found.pred_boxes.tensor[i].tolist()),
    )
    return found[torch.tensor(order, dtype=torch.int64)]


def test_the_classifier_against_numpy():
    classifier = EmbeddingClassifier(5, VECTORS, temperature=20.0)
    x = torch.randn(7, 5)
    features = x.numpy() @ classifier.projection.weight.detach().numpy().T
    features += classifier.projection.bias.detach().numpy()
    vectors = VECTORS.numpy()
    cosines = features @ vectors.T / np.linalg.norm(features, axis=1, keepdims=True)
    cosines /= np.linalg.norm(vectors, axis=1)
    logits = classifier(x)
    assert logits.shape == (7, NUM_CLASSES + 1)
    np.testing.assert_allclose(logits[:, :-1].detach(), 20 * cosines, rtol=1e-4, atol=1e-5)
    assert not logits[:, -1].any(), "the background is last"
    torch.testing.assert_close(EmbeddingClassifier(5, VECTORS.double()).temperature, 50.0)


def test_a_roi_on_a_vector_has_the_temperature_as_logit():
    classifier = EmbeddingClassifier(DIM, VECTORS)
    with torch.no_grad():
        classifier.projection.weight.copy_(torch.eye(DIM))
        classifier.projection.bias.zero_()
        logits = classifier(torch.cat([5 * VECTORS, torch.zeros(1, DIM)]))
    torch.testing.assert_close(logits[:-1].diagonal(), torch.full((NUM_CLASSES,), 50.0))
    assert logits[:-1].argmax(dim=1).tolist() == list(range(NUM_CLASSES))
    assert not logits[-1].any(), "a feature of zeros is no NaN"


def test_the_projection_learns_and_the_vectors_do_not():
    classifier = EmbeddingClassifier(5, VECTORS.clone().requires_grad_())
    classifier(torch.randn(3, 5))[:, 1].sum().backward()
    assert classifier.projection.weight.grad.any()
    assert [name for name, _ in classifier.named_parameters()] == [
        "projection.weight",
        "projection.bias",
    ]
    assert not classifier.class_vectors.requires_grad


def test_mixed_precision_leaves_the_cosines_alone():
    classifier = EmbeddingClassifier(5, VECTORS)
    x = torch.randn(3, 5)
    features = torch.nn.functional.linear(
        x.bfloat16(), classifier.projection.weight.bfloat16(), classifier.projection.bias.bfloat16()
    ).float()
    expected = 50 * torch.nn.functional.cosine_similarity(features[:, None], VECTORS[None], dim=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[:, :-1], expected, rtol=1e-4, atol=1e-4)


def test_a_training_step(model):
    before = copy.deepcopy(model.state_dict())
    vectors = model.roi_heads.box_predictor.cls_score.class_vectors.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model.train()(make_batch(make_targets([True, False], [0, 1])))
    assert set(losses) >= {"loss_cls", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    optimizer.step()
    after = model.state_dict()
    for part in ("box_predictor.cls_score.projection", "box_predictor.bbox_pred"):
        assert not torch.equal(
            before[f"roi_heads.{part}.weight"], after[f"roi_heads.{part}.weight"]
        ), part
    assert torch.equal(model.roi_heads.box_predictor.cls_score.class_vectors, vectors)


@pytest.mark.parametrize("stop_grad", [True, False])
def test_the_mask_loss_leaves_the_box_head_alone(opts, stop_grad):
    model = build_model(tiny_cfg(BASE, *opts, "MODEL.MASKX.STOP_GRAD", stop_grad))
    model.train()(make_batch(make_targets([True, True], [0, 2])))["loss_mask"].backward()
    heads = model.roi_heads
    for part in (heads.box_head, heads.box_predictor):
        assert not any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(p.grad.any() for p in heads.weight_transfer.parameters())


def test_t_and_the_classifier_share_one_matrix(model):
    heads = model.roi_heads
    unit = VECTORS / VECTORS.norm(dim=1, keepdim=True)
    torch.testing.assert_close(heads.box_predictor.cls_score.class_vectors, unit)
    torch.testing.assert_close(heads.class_weights(), heads.weight_transfer(unit))
    named = [n for n, b in model.named_buffers() if b.shape == (NUM_CLASSES, DIM)]
    assert named == ["roi_heads.box_predictor.cls_score.class_vectors"]
    assert heads.box_predictor.bbox_pred.out_features == 4, "class-agnostic"


def test_a_training_step_transfers_each_rois_own_category(model):
    heads = model.roi_heads
    weights, rows = heads._class_weights_of(torch.tensor([3, 1, 3]))
    assert len(weights) == 2, "categories 1 and 3"
    torch.testing.assert_close(weights[rows], heads.class_weights()[[3, 1, 3]])


def test_the_roi_heads_vectors_become_the_box_predictors(tmp_path):
    config = lazy_model(tmp_path).roi_heads
    config.box_predictor.class_vectors = torch.ones(2, DIM)
    heads = instantiate(config)
    expected = torch.nn.functional.normalize(others(36))
    torch.testing.assert_close(heads.box_predictor.cls_score.class_vectors, expected)
    assert heads.box_predictor.num_classes == 36
    config.box_predictor.class_vectors = torch.ones(36, DIM + 1)
    with pytest.raises(ValueError, match=f"have {DIM} numbers each, but .* built for {DIM + 1}"):
        instantiate(config)


def test_a_permutation_of_the_categories_permutes_the_predictions(model):
    before = detections(model)
    new_to_old = [2, 0, 3, 1]
    set_vocabulary(model, [NAMES[i] for i in new_to_old], VECTORS[new_to_old])
    after = detections(model)
    after.pred_classes = torch.tensor(new_to_old)[after.pred_classes]
    assert len(set(before.pred_classes.tolist())) == NUM_CLASSES
    order = sorted(
        range(len(after)),
        key=lambda i: (after.pred_classes[i].item(), after.pred_boxes.tensor[i].tolist()),
    )
    after = after[torch.tensor(order)]
    assert torch.equal(after.pred_classes, before.pred_classes)
    torch.testing.assert_close(after.pred_boxes.tensor, before.pred_boxes.tensor)
    torch.testing.assert_close(after.scores, before.scores)
    assert torch.equal(after.pred_masks, before.pred_masks)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_fewer_and_more_categories(model, count):
    parameters = copy.deepcopy(model.state_dict())
    detections(model)
    vectors = others(count)
    assert set_vocabulary(model, [f"thing {i}" for i in range(count)], vectors) is model
    found = detections(model)
    assert set(found.pred_classes.tolist()) == set(range(count))
    assert found.pred_masks.shape == (len(found), 64, 64)
    assert found.scores.isfinite().all()
    heads = model.roi_heads
    assert heads.num_classes == heads.box_predictor.num_classes == count
    for name, value in model.state_dict().items():
        assert torch.equal(value, parameters[name]), name
    # The model goes on learning with them.
    losses = model.train()(make_batch(make_targets([True, True], [0, count - 1])))
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] > 0


@torch.no_grad()
def test_class_weights_follow_the_vocabulary(model):
    heads = model.eval().roi_heads
    calls = []
    heads.weight_transfer.register_forward_hook(lambda *_: calls.append(1))
    before = heads.class_weights()
    assert heads.class_weights() is before
    vectors = others(NUM_CLASSES)  # as many, so that a stale result would go unnoticed
    set_vocabulary(model, list("wxyz"), vectors.numpy())
    after = heads.class_weights()
    assert len(calls) == 2
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(after, heads.weight_transfer(unit))
    set_vocabulary(model, NAMES, VECTORS)
    torch.testing.assert_close(heads.class_weights(), before)


def test_the_vocabulary_is_a_copy_in_the_models_type_and_scale_does_not_matter(model):
    vectors = others(3)
    set_vocabulary(model.double(), list("xyz"), 100 * vectors)
    held = model.roi_heads.box_predictor.cls_score.class_vectors
    assert held.dtype == torch.float64
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    vectors.zero_()
    torch.testing.assert_close(held.float(), unit)
    twin = copy.deepcopy(model)
    set_vocabulary(twin, ["x"], others(1))
    assert model.roi_heads.num_classes == 3
    assert len(model.roi_heads.class_weights()) == 3


def test_checkpoints_fit_models_of_any_categories(model, opts, tmp_path):
    """Weights of 4 categories into a model that is configured with 2, and the other way."""
    DetectionCheckpointer(model, str(tmp_path)).save("four")
    set_vocabulary(model, ["cup", "cat"], VECTORS[[2, 0]])
    expected = detections(model)
    DetectionCheckpointer(model, str(tmp_path)).save("two")

    MetadataCatalog.get("two pets").thing_classes = ["cup", "cat"]
    two = ("DATASETS.TRAIN", ("two pets",), "DATASETS.TEST", ("two pets",))
    two += ("MODEL.ROI_HEADS.NUM_CLASSES", 2)
    for name in ("four", "two"):
        torch.manual_seed(1)
        loaded = build_model(tiny_cfg(BASE, *opts, *two))
        incompatible = DetectionCheckpointer(loaded)._load_model(
            {"model": torch.load(tmp_path / f"{name}.pth", weights_only=True)["model"]}
        )
        assert not incompatible.missing_keys and not incompatible.unexpected_keys
        assert not incompatible.incorrect_shapes
        found = detections(loaded)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.pred_masks, expected.pred_masks)

    # And before set_vocabulary is called.
    torch.manual_seed(2)
    fresh = build_model(tiny_cfg(BASE, *opts))
    DetectionCheckpointer(fresh).load(str(tmp_path / "two.pth"))
    set_vocabulary(fresh, ["cup", "cat"], VECTORS[[2, 0]])
    assert torch.equal(detections(fresh).scores, expected.scores)


@pytest.mark.parametrize(
    ("names", "vectors", "message"),
    [
        (
            "xy",
            others(2, DIM + 1),
            f"have {DIM + 1} numbers each, but the model was built for {DIM}",
        ),
        ("xyz", others(2), r"3 names in thing_classes, but 2 vectors"),
        ("xx", others(2), "names 'x' more than once"),
        ("xy", others(2) * torch.tensor([[1.0], [0.0]]), r"of zeros, .* in row 1 \('y'\)"),
        ("xy", others(2) / torch.tensor([[0.0], [1.0]]), r"not finite, in row 0 \('x'\)"),
        ("xy", others(2) * torch.nan, r"in row 0 \('x'\), 1 \('y'\)"),
        ("", others(0), r"\(K, D\), not of shape \(0, 6\)"),
        ("xy", others(2)[:, 0], r"\(K, D\), not of shape \(2,\)"),
    ],
)
def test_a_vocabulary_that_can_not_be_is_refused_and_changes_nothing(
    model, names, vectors, message
):
    with pytest.raises(ValueError, match=message):
        set_vocabulary(model, list(names), vectors)
    heads = model.roi_heads
    assert heads.num_classes == heads.box_predictor.num_classes == NUM_CLASSES
    assert len(heads.box_predictor.cls_score.class_vectors) == NUM_CLASSES


def test_other_models_are_refused():
    maskx = build_model(tiny_cfg(BASE))
    with pytest.raises(TypeError, match="a model with MaskXROIHeads can't be changed"):
        set_vocabulary(maskx, NAMES, VECTORS)
    with pytest.raises(TypeError, match="a model with Linear can't be changed"):
        set_vocabulary(torch.nn.Linear(1, 1), NAMES, VECTORS)


def test_bad_configurations_are_one_clear_sentence(opts):
    with pytest.raises(ValueError, match=r"T's input is 'cls': set MODEL\.MASKX\.TRANSFER_INPUT"):
        cls = ("MODEL.MASKX.TRANSFER_INPUT", "cls", "MODEL.MASKX.EMBEDDING_FILE", "")
        build_model(tiny_cfg(BASE, *opts, *cls))
    with pytest.raises(ValueError, match="4 rows, but the model has 5 categories"):
        build_model(tiny_cfg(BASE, *opts, "MODEL.ROI_HEADS.NUM_CLASSES", 5))
    with pytest.raises(ValueError, match="temperature must be positive, not 0"):
        EmbeddingClassifier(5, VECTORS, temperature=0)
    with pytest.raises(ValueError, match="in row 1;"):
        EmbeddingClassifier(5, VECTORS * torch.tensor([[1.0], [0.0], [1.0], [1.0]]))


def test_sigmoid_losses_and_features_that_are_not_flat():
    predictor = EmbeddingFastRCNNOutputLayers(
        ShapeSpec(channels=3, height=2, width=2),
        class_vectors=VECTORS,
        box2box_transform=Box2BoxTransform((10, 10, 5, 5)),
        use_sigmoid_ce=True,
    )
    scores, deltas = predictor(torch.randn(5, 3, 2, 2))
    assert (scores.shape, deltas.shape) == ((5, NUM_CLASSES + 1), (5, 4))
    target = make_targets([True] * 5, [0, 1, 2, 3, NUM_CLASSES])
    target.proposal_boxes = target.gt_boxes
    losses = predictor.losses((scores, deltas), [target])
    assert all(loss.isfinite() for loss in losses.values())


def lazy_model(tmp_path, **options):
    names = [f"shape {i}" for i in range(36)]
    torch.save(dict(zip(names, others(36))), tmp_path / "vectors.pt")
    model = model_zoo.get_config("shapes/maskx.py").model
    file = str(tmp_path / "vectors.pt")
    return apply_open_vocabulary(model, thing_classes=names, embedding_file=file, **options)


def test_of_a_lazy_config(tmp_path):
    model = lazy_model(tmp_path, temperature=20.0, transfer_hidden_dims=(16,))
    heads = instantiate(model.roi_heads)
    assert type(heads) is OpenVocabularyMaskXROIHeads
    assert heads.box_predictor.cls_score.temperature == 20
    assert heads.class_weights().shape == (36, 64)
    assert heads.weight_transfer[0].out_features == 16
    vectors = others(36)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(heads.box_predictor.cls_score.class_vectors, unit)
    # Applying it again is no mistake, and a round trip through yaml changes nothing.
    again = lazy_model(tmp_path)
    LazyConfig.save(OmegaConf.create({"model": again}), str(tmp_path / "model.yaml"))
    again = LazyConfig.load(str(tmp_path / "model.yaml")).model
    apply_open_vocabulary(
        again, thing_classes=["shape 3", "shape 1"], embedding_file=str(tmp_path / "vectors.pt")
    )
    again.roi_heads.num_classes = 2
    heads = instantiate(again.roi_heads)
    torch.testing.assert_close(heads.box_predictor.cls_score.class_vectors, unit[[3, 1]])
    assert heads.box_predictor.num_classes == 2


def test_one_override_reaches_t_and_the_classifier(tmp_path):
    model = lazy_model(tmp_path)
    torch.save({n: torch.ones(3) for n in NAMES}, tmp_path / "other.pt")
    cfg = OmegaConf.create({"model": model})
    overrides = [
        f"model.roi_heads.class_embedding.path={tmp_path / 'other.pt'}",
        "model.roi_heads.class_embedding.thing_classes=[cat,dog,cup,car]",
        "model.roi_heads.num_classes=4",
    ]
    heads = instantiate(LazyConfig.apply_overrides(cfg, overrides).model.roi_heads)
    assert heads.box_predictor.cls_score.projection.out_features == 3
    assert heads.weight_transfer[0].in_features == 3


def test_the_shapes_config_builds(shapes, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    heads = instantiate(model_zoo.get_config("shapes/open_vocabulary.py").model.roi_heads)
    names = json.loads((shapes / "shapes" / "attributes.json").read_text())["categories"]
    assert heads.num_classes == len(names) == 36
    # Two ones of 13 attributes.
    vectors = heads.box_predictor.cls_score.class_vectors
    assert vectors.shape == (36, 13)
    torch.testing.assert_close(vectors.max(dim=1).values, torch.full((36,), 0.5**0.5))


def test_lazy_and_yaml_models_have_the_same_parameters(opts, tmp_path):
    heads = instantiate(lazy_model(tmp_path).roi_heads)
    from_yaml = build_model(
        tiny_cfg(BASE, *opts[:-2], "MODEL.MASKX.EMBEDDING_FILE", _four(tmp_path))
    )
    trunk = ("box_head.", "mask_head.")
    assert {n for n in heads.state_dict() if not n.startswith(trunk)} == {
        n for n in from_yaml.roi_heads.state_dict() if not n.startswith(trunk)
    }


def _four(tmp_path):
    torch.save(dict(zip(NAMES, VECTORS)), tmp_path / "four.pt")
    return str(tmp_path / "four.pt")


def test_configs_without_an_open_vocabulary_form(tmp_path):
    options = {"thing_classes": NAMES, "embedding_file": "vectors.pt"}
    cascade = get_config("common/models/cascade_rcnn.py").model
    with pytest.raises(ValueError, match="roi_heads CascadeROIHeads has no open-vocabulary form"):
        apply_open_vocabulary(cascade, **options)
    with pytest.raises(ValueError, match=r"needs a model with roi_heads\.mask_head"):
        apply_open_vocabulary(get_config("common/models/retinanet.py").model, **options)
    model = get_config("common/models/mask_rcnn_fpn.py").model
    model.roi_heads.box_predictor._target_ = "torch.nn.Linear"
    with pytest.raises(ValueError, match=r"roi_heads\.box_predictor Linear has no"):
        apply_open_vocabulary(model, **options)
    # The parts without the function.
    maskx = apply_maskx(model_zoo.get_config("shapes/maskx.py").model, transfer_input="cls")
    maskx.roi_heads._target_ = OpenVocabularyMaskXROIHeads
    with pytest.raises(ValueError, match="T's input is 'cls'"):
        instantiate(maskx.roi_heads)
    maskx = lazy_model(tmp_path)
    maskx.roi_heads.box_predictor = get_config(
        "common/models/mask_rcnn_fpn.py"
    ).model.roi_heads.box_predictor
    with pytest.raises(TypeError, match="needs an EmbeddingFastRCNNOutputLayers"):
        instantiate(maskx.roi_heads)
    assert issubclass(OpenVocabularyMaskXROIHeads, MaskXROIHeads)
