"""Checkpoints as the authors' Caffe2 code writes them, with random numbers in them."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from maskx_d2.cli import main
from maskx_d2.convert import convert, load_restricted
from maskx_d2.engine.yaml_main import load_config

K = 5
WIDTH = 8  # of FPN and mask head
FC = 6  # of the box head
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}

pytestmark = pytest.mark.usefixtures("no_registration_left")


def caffe2_blobs(
    kind="transfer", *, fed="cls+box", depth=2, mlp=0, size=28, num_classes=K, blocks=BLOCKS
):
    """A tiny R-50-FPN under Detectron's names; ``mlp`` is the number of its layers."""
    rng = np.random.default_rng(0)
    blobs = {}

    def add(name, *shape, bias=True):
        blobs[f"{name}_w"] = (rng.standard_normal(shape) * 0.3).astype(np.float32)
        if bias:
            blobs[f"{name}_b"] = (rng.standard_normal(shape[0]) * 0.3).astype(np.float32)

    def conv_bn(name, out, into, side, bn=None):
        add(name, out, into, side, side, bias=False)
        blobs[f"{bn or name + '_bn'}_s"] = rng.random(out).astype(np.float32)
        blobs[f"{bn or name + '_bn'}_b"] = rng.random(out).astype(np.float32)

    conv_bn("conv1", 4, 3, 7, bn="res_conv1_bn")
    into = 4
    for stage, count in blocks.items():
        inner, out = 2 * 2 ** (stage - 2), 8 * 2 ** (stage - 2)
        for i in range(count):
            name = f"res{stage}_{i}_branch"
            conv_bn(f"{name}2a", inner, into, 1)
            conv_bn(f"{name}2b", inner, inner, 3)
            conv_bn(f"{name}2c", out, inner, 1)
            if i == 0:
                conv_bn(f"{name}1", out, into, 1)
            into = out
        last = f"res{stage}_{count - 1}_sum"
        add(f"fpn_inner_{last}" + ("" if stage == 5 else "_lateral"), WIDTH, out, 1, 1)
        add(f"fpn_{last}", WIDTH, WIDTH, 3, 3)
    add("conv_rpn_fpn2", WIDTH, WIDTH, 3, 3)
    add("rpn_cls_logits_fpn2", 3, WIDTH, 1, 1)
    add("rpn_bbox_pred_fpn2", 12, WIDTH, 1, 1)
    add("fc6", FC, WIDTH * 49)
    add("fc7", FC, FC)
    add("cls_score", num_classes + 1, FC)
    add("bbox_pred", 4 * (num_classes + 1), FC)
    if kind is None:
        return blobs
    for i in range(4):
        add(f"_[mask]_fcn{i + 1}", WIDTH, WIDTH, 3, 3)
    add("conv5_mask", WIDTH, WIDTH, 2, 2)
    if kind == "transfer":
        dim = {"cls": FC, "box": 4 * FC, "cls+box": 5 * FC}.get(fed, 11)
        if dim == 11:
            blobs[fed] = rng.standard_normal((num_classes + 1, dim)).astype(np.float32)
            blobs[fed][0] = 0
        for i in range(1, depth):
            add(f"bbox2mask_mlp_l{i}", WIDTH, dim if i == 1 else WIDTH)
        add("mask_fcn_logits_w_flat", WIDTH, WIDTH if depth > 1 else dim)
    else:
        add("mask_fcn_logits", num_classes + 1 if kind == "class-specific" else 1, WIDTH, 1, 1)
    features = WIDTH * size * size
    for i in range(1, mlp):
        add(f"fc_mask_head_mlp_l{i}", 7, features if i == 1 else 7)
    if mlp:
        add("mask_mlp_logits_raw", size * size, features if mlp == 1 else 7)
    return blobs


def write(path, blobs, cfg="MRCNN:\n  BBOX2MASK: {TYPE: 2_layer, USE_LEAKYRELU: true}\n"):
    """As Detectron does: momenta and left-overs of ImageNet beside the model."""
    more = {
        "fc6_w_momentum": np.zeros_like(blobs["fc6_w"]),
        "fc1000_w": np.zeros((10, 4), np.float32),
    }
    with open(path, "wb") as f:
        pickle.dump({"blobs": {**blobs, **more}, "cfg": cfg}, f, protocol=2)
    return path


# ------------------------------------------- the mask branch of the Caffe2 graph, in numpy


def conv3x3(x, w, b):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(x), len(w), *x.shape[2:]))
    for i in range(3):
        for j in range(3):
            window = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            out += np.einsum("rchw,oc->rohw", window, w[:, :, i, j])
    return out + b[:, None, None]


def deconv2x2(x, w, b):
    """Caffe2's ConvTranspose of stride 2; w is (in, out, 2, 2)."""
    out = np.zeros((len(x), w.shape[1], 2 * x.shape[2], 2 * x.shape[3]))
    for i in range(2):
        for j in range(2):
            out[:, :, i::2, j::2] = np.einsum("rchw,co->rohw", x, w[:, :, i, j])
    return out + b[:, None, None]


def fully_connected(x, blobs, layer):
    return x.reshape(len(x), -1) @ blobs[f"{layer}_w"].T + blobs[f"{layer}_b"]


def reference(blobs, x, slope=0.1):
    """Mask probabilities (R, K + 1, M, M), background first; (R, 1, M, M) class-agnostic."""
    blobs = {k: v.astype(np.float64) for k, v in blobs.items()}
    for i in range(4):
        x = np.maximum(
            conv3x3(x, blobs[f"_[mask]_fcn{i + 1}_w"], blobs[f"_[mask]_fcn{i + 1}_b"]), 0
        )
    x = np.maximum(deconv2x2(x, blobs["conv5_mask_w"], blobs["conv5_mask_b"]), 0)
    if "mask_fcn_logits_w" in blobs:
        w, b = blobs["mask_fcn_logits_w"][:, :, 0, 0], blobs["mask_fcn_logits_b"]
    else:
        embedding = [k for k in blobs if k.startswith("v_")]
        cls, box = blobs["cls_score_w"], blobs["bbox_pred_w"].reshape(len(blobs["cls_score_w"]), -1)
        first = next(
            blobs[k] for k in ("bbox2mask_mlp_l1_w", "mask_fcn_logits_w_flat_w") if k in blobs
        )
        w = {FC: cls, 4 * FC: box, 5 * FC: np.concatenate([cls, box], axis=1)}.get(first.shape[1])
        if embedding:
            w = blobs[embedding[0]]
        for layer in ("bbox2mask_mlp_l1", "bbox2mask_mlp_l2"):
            if f"{layer}_w" in blobs:
                w = fully_connected(w, blobs, layer)
                w = np.maximum(w, slope * w)
        w, b = fully_connected(w, blobs, "mask_fcn_logits_w_flat"), 0.0
        b = np.zeros(len(w))
    logits = np.einsum("rchw,kc->rkhw", x, w) + b[:, None, None]
    if "mask_mlp_logits_raw_w" in blobs:
        for layer in ("fc_mask_head_mlp_l1", "fc_mask_head_mlp_l2"):
            if f"{layer}_w" in blobs:
                x = np.maximum(fully_connected(x, blobs, layer), 0)
        raw = fully_connected(x, blobs, "mask_mlp_logits_raw")
        logits = logits + raw.reshape(len(raw), 1, *logits.shape[2:])
    return 1 / (1 + np.exp(-logits))


def ours(converted, x, classes):
    """Mask probabilities (R, M, M) of the RoIs' categories."""
    cfg = load_config(str(converted.config_file), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    instances = Instances((64, 64))
    instances.pred_boxes = Boxes(torch.zeros(len(x), 4))
    instances.pred_classes = torch.tensor(classes)
    with torch.no_grad():
        [found] = model.roi_heads.mask_head(torch.from_numpy(x).float(), [instances])
    return found.pred_masks[:, 0].numpy()


VARIANTS = {
    "T of 1 layer": {"depth": 1},
    "T of 2 layers": {"depth": 2},
    "T of 3 layers": {"depth": 3},
    "cls": {"fed": "cls"},
    "box": {"fed": "box"},
    "GloVe": {"fed": "v_glove"},
    "random vectors": {"fed": "v_randn_0"},
    "T + MLP": {"mlp": 1},
    "T + MLP of 2 layers": {"mlp": 2},
    "T + MLP of 3 layers": {"mlp": 3, "size": 20},
    "class-agnostic": {"kind": "class-agnostic"},
    "class-agnostic + MLP": {"kind": "class-agnostic", "mlp": 1},
    "class-specific": {"kind": "class-specific"},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_masks_equal_a_reference_in_numpy(variant, tmp_path, three_pets):
    blobs = caffe2_blobs(**variant)
    file = write(tmp_path / "model.pkl", blobs)
    converted = convert(file, tmp_path / "out", datasets=three_pets)
    x = np.random.default_rng(1).standard_normal((K, WIDTH, *[variant.get("size", 28) // 2] * 2))
    classes = [3, 0, 4, 1, 2]
    probabilities = reference(blobs, x)
    rows = [0] * K if probabilities.shape[1] == 1 else [c + 1 for c in classes]
    expected = probabilities[range(K), rows]
    actual = ours(converted, x, classes)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert expected.std() > 0.03, "a comparison of constants would mean nothing"


@pytest.fixture
def three_pets(tmp_path):
    """Two data sets of K categories."""
    from detectron2.data.datasets import register_coco_instances

    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 64, "width": 64}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81,
             "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9]]}
        ],
        "categories": [{"id": i + 1, "name": f"pet{i}"} for i in range(K)],
    }  # fmt: skip
    (tmp_path / "pets.json").write_text(json.dumps(content))
    for name in ("pets_train", "pets_val"):
        register_coco_instances(name, {}, str(tmp_path / "pets.json"), str(tmp_path))
    return ["pets_train", "pets_val"]


def test_the_detector_is_converted(tmp_path):
    blobs = caffe2_blobs()
    converted = convert(write(tmp_path / "m.pkl", blobs), tmp_path / "out")
    state = torch.load(converted.weights, weights_only=True)["model"]
    cls = state["roi_heads.box_predictor.cls_score.weight"].numpy()
    np.testing.assert_array_equal(cls, np.roll(blobs["cls_score_w"], -1, axis=0))
    box = state["roi_heads.box_predictor.bbox_pred.bias"].numpy()
    np.testing.assert_array_equal(box, blobs["bbox_pred_b"][4:])
    np.testing.assert_array_equal(
        state["backbone.bottom_up.res4.5.conv2.norm.weight"].numpy(),
        blobs["res4_5_branch2b_bn_s"],
    )
    np.testing.assert_array_equal(
        state["backbone.fpn_lateral5.weight"].numpy(), blobs["fpn_inner_res5_2_sum_w"]
    )
    assert converted.model.dropped == ("fc1000_w", "fc6_w_momentum")
    # And it runs.
    cfg = load_config(str(converted.config_file), ["MODEL.DEVICE", "cpu"])
    assert (cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == ("ROIAlign", K)
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    with torch.no_grad():
        [found] = model([{"image": torch.zeros(3, 64, 64)}])
    assert found["instances"].pred_masks.shape[1:] == (64, 64)


def test_a_detector_of_boxes(tmp_path):
    converted = convert(write(tmp_path / "m.pkl", caffe2_blobs(None)), tmp_path / "out")
    cfg = load_config(str(converted.config_file), ["MODEL.DEVICE", "cpu"])
    assert not cfg.MODEL.MASK_ON
    DetectionCheckpointer(build_model(cfg)).load(cfg.MODEL.WEIGHTS)


def test_resnet_101(tmp_path):
    blobs = caffe2_blobs(blocks={**BLOCKS, 4: 23})
    converted = convert(write(tmp_path / "m.pkl", blobs), tmp_path / "out")
    assert load_config(str(converted.config_file)).MODEL.RESNETS.DEPTH == 101


def test_the_box_head_put_aside_comes_back(tmp_path):
    """As the authors trained Visual Genome's masks on a detector cut down to COCO's categories."""
    blobs, everything = caffe2_blobs(num_classes=3), caffe2_blobs(num_classes=K)
    for name in ("cls_score_w", "cls_score_b", "bbox_pred_w", "bbox_pred_b"):
        blobs[f"{name}_jcvbackup"] = everything[name]
        blobs[name] = everything[name][: len(blobs[name])]
    converted = convert(write(tmp_path / "m.pkl", blobs), tmp_path / "out")
    assert converted.model.num_classes == K
    state = torch.load(converted.weights, weights_only=True)["model"]
    cls = state["roi_heads.box_predictor.cls_score.weight"].numpy()
    np.testing.assert_array_equal(cls[:K], everything["cls_score_w"][1:])
    blobs["cls_score_w"] = blobs["cls_score_w"] + 1
    with pytest.raises(ValueError, match="'cls_score_w' is not the beginning of 'cls_score_w_jcv"):
        convert(write(tmp_path / "m.pkl", blobs), tmp_path / "out")


@pytest.mark.parametrize(
    ("cfg", "given", "slope"),
    [
        ("USE_LEAKYRELU: false", None, 0.0),
        ("USE_LEAKYRELU: true", None, 0.1),
        ("USE_LEAKYRELU: false", 0.1, 0.0),
        ("", 0.0, 0.0),
        ("", None, 0.1),
    ],
)
def test_the_activation(cfg, given, slope, tmp_path):
    file = write(tmp_path / "m.pkl", caffe2_blobs(), cfg)
    converted = convert(file, tmp_path / "out", negative_slope=given)
    assert load_config(str(converted.config_file)).MODEL.MASKX.TRANSFER_NEGATIVE_SLOPE == slope


def broken(change):
    blobs = caffe2_blobs()
    change(blobs)
    return blobs


ERRORS = {
    "blob 'kps_score_w' has no place": lambda b: b.update(kps_score_w=np.zeros((3, 3))),
    "no blob is 'roi_heads.box_head.fc2.bias'": lambda b: b.pop("fc7_b"),
    "it has no blob 'bbox2mask_mlp_l1_b'": lambda b: b.pop("bbox2mask_mlp_l1_b"),
    "'fc7_w' gives .6, 5. for 'roi_heads.box_head.fc2.weight', but it is .6, 6.": lambda b: (
        b.update(fc7_w=b["fc7_w"][:, 1:])
    ),
    "T takes vectors of 29 numbers": lambda b: b.update(
        bbox2mask_mlp_l1_w=b["bbox2mask_mlp_l1_w"][:, 1:]
    ),
    "'bbox_pred_w' should have 24, or 8, but it has 23": lambda b: b.update(
        bbox_pred_w=b["bbox_pred_w"][1:]
    ),
    "it has no FPN": lambda b: b.pop("conv_rpn_fpn2_w"),
    "res4 has 5 blocks": lambda b: [b.pop(k) for k in list(b) if k.startswith("res4_5")],
    "'fc6_b' has values that are not finite": lambda b: b["fc6_b"].__setitem__(0, np.nan),
    "it has several embeddings": lambda b: b.update(v_a=np.zeros(3), v_b=np.zeros(3)),
    "'v_a' is .3,., where T takes .6, 30.": lambda b: b.update(v_a=np.zeros(3)),
}


@pytest.mark.parametrize("message", ERRORS)
def test_what_does_not_fit_is_an_error(message, tmp_path):
    file = write(tmp_path / "m.pkl", broken(ERRORS[message]))
    with pytest.raises(ValueError, match=message) as caught:
        convert(file, tmp_path / "out")
    assert str(file) in str(caught.value)
    assert not (tmp_path / "out" / "model.pth").exists()


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_something_is_refused(protocol, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blobs = {**caffe2_blobs(), "fc9_w": Malicious()}
    with open("m.pkl", "wb") as f:
        pickle.dump({"blobs": blobs}, f, protocol=protocol)
    assert main(["convert", "m.pkl", "--output", "out"]) == 1
    said = capsys.readouterr().err
    assert f"'m.pkl' is refused: it asks for '{os.mkdir.__module__}.mkdir'" in said
    assert not (tmp_path / "pwned").exists()


def test_what_is_no_checkpoint(tmp_path, capsys):
    file = tmp_path / "m.pkl"
    for content in (b"", b"no pickle at all", pickle.dumps([1, 2]), pickle.dumps({"a": 1})):
        file.write_bytes(content)
        assert main(["convert", str(file), "--output", str(tmp_path / "out")]) == 1
        assert str(file) in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "none.pkl"), "--output", str(tmp_path / "out")])
    assert "none.pkl' does not exist" in capsys.readouterr().err


def stream(*parts):
    """A pickle of protocol 2 that calls what it names, written by hand."""
    return b"\x80\x02" + b"".join(parts) + b"."


NDARRAY, DTYPE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
ADDRESS = b"AAAAAAAA"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # np.ndarray((1,), np.dtype("O"), b"AAAAAAAA"): an object at an address that the file has.
        (stream(NDARRAY, b"(K\x01\x85", DTYPE, b"U\x01O\x85RU\x08", ADDRESS, b"tR"), "type 'O'"),
        (stream(NDARRAY, b"(K\x01\x85", DTYPE, b"U\x02i8\x85RU\x08", ADDRESS, b"tR"), "address"),
        # The same by an array's state, and a dtype whose state makes objects of bytes.
        (
            stream(
                *(RECONSTRUCT, NDARRAY, b"K\x00\x85U\x01b\x87R(K\x01K\x01\x85", DTYPE),
                *(b"U\x02O8\x85R\x89U\x08", ADDRESS, b"tb"),
            ),
            "type 'O8'",
        ),
        (
            stream(
                *(RECONSTRUCT, NDARRAY, b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85", DTYPE),
                *(b"U\x02i8\x85R\x89U\x08", ADDRESS, b"tb"),
            ),
            r"shape \(2,\) has 8 bytes",
        ),
        (stream(RECONSTRUCT, DTYPE, b"K\x00\x85U\x01b\x87R"), "a class of its own"),
        (stream(RECONSTRUCT, NDARRAY, b"K\x00\x85U\x01b\x87R"), "no content"),
        (stream(RECONSTRUCT, b"}b"), "changes a function"),
        (stream(b"]", RECONSTRUCT, b"a"), "no array"),
        (pickle.dumps(np.array([{}])), "type 'O8'"),
        (pickle.dumps(np.datetime64("2020-01-01")), "type 'M8"),
    ],
)
def test_a_pickle_cannot_make_an_array_of_addresses(content, message, tmp_path):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_restricted(tmp_path / "a.pkl")


def test_what_is_there_many_times_is_read_once(tmp_path):
    nested = (np.arange(3),)
    for _ in range(60):
        nested = (nested, nested)
    around = [1]
    around.append(around)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([nested, around]))
    nested, around = load_restricted(tmp_path / "a.pkl")
    for _ in range(60):
        nested = nested[1]
    assert nested[0].tolist() == [0, 1, 2] and around[1] is around


def test_damaged_is_not_dangerous(tmp_path):
    whole = pickle.dumps({"blobs": caffe2_blobs()})
    for content in (whole[:-200], b"<html>404</html>"):
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or no pickle"):
            load_restricted(tmp_path / "a.pkl")
    with pytest.raises(ValueError, match="is a folder"):
        load_restricted(tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_arrays_of_every_protocol_are_read(protocol, tmp_path):
    content = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(2), "c": ["x", 1, None, True]}
    content |= {"d": np.arange(6, dtype=">i2").reshape(2, 3).T, "e": np.array([True, False])}
    content |= {"h": np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0)}
    content |= {"f": np.array(["ab", "c"]), "g": (b"bytes", np.array(1.5))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    np.testing.assert_equal(load_restricted(tmp_path / "a.pkl"), content)


def test_a_file_of_python_2(tmp_path):
    """A protocol-2 stream as Python 2 writes it: byte strings, and numpy's old names."""
    stream = (
        b"\x80\x02}q\x00U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
        b"q\x03K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\t"
        b"U\x02f4q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tq\x0eb\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0q\x0ftq\x10bs."
    )
    (tmp_path / "a.pkl").write_bytes(stream)
    np.testing.assert_array_equal(load_restricted(tmp_path / "a.pkl")["a"], [1, -2])


def test_command(tmp_path, capsys):
    file = write(tmp_path / "m.pkl", caffe2_blobs())
    assert main(["convert", str(file), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "R-50-FPN, 5 categories, masks by weight transfer from cls+box" in said
