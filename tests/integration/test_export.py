"""What leaves for TorchScript and ONNX Runtime computes what the model computes here."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_cfg
from detectron2.export import scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from PIL import Image

from maskx_d2.cli import main
from maskx_d2.deploy import export
from maskx_d2.deploy.exporting import raw_instances

NO_MLP = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
STOCK = ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
MODELS = {
    "unbaked": (),
    "baked": (*STOCK, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    "baked, selection, MLP branch": (
        *(*STOCK, "MODEL.ROI_MASK_HEAD.NAME", "PerRoIConvUpsampleHead"),
        *("MODEL.MASKX.MLP_BRANCH", True),
    ),
}


def trained(folder, *opts, spread=20):
    """The config file and the checkpoint of a model whose scores and masks are no near ties."""
    cfg = tiny_cfg(NO_MLP, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *opts)
    cfg.INPUT.MIN_SIZE_TEST = 128
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("cls_score", "objectness", "mlp_branch")):
            parameter.data.mul_(spread)
        elif "mask_head.predictor" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    return str(folder / "config.yaml"), str(folder / "model.pth"), model


@pytest.fixture
def picture(tmp_path):
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    small.resize((80, 60)).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def images():
    """Of other sizes than the one that is recorded, and one in which little is found."""
    generator = torch.Generator().manual_seed(3)
    noise = [255 * torch.rand(3, *size, generator=generator) for size in ((64, 64), (100, 172))]
    return [*noise, torch.zeros(3, 96, 128)]


def run_torchscript(path):
    return torch.jit.load(path)


def run_onnx(path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image.numpy()})


RUN = {"torchscript": run_torchscript, "onnx": run_onnx}


@torch.no_grad()
def assert_same_function(run, model, inputs):
    found = 0
    for image in inputs:
        instances = raw_instances(model, [{"image": image}])[0]["instances"]
        boxes, classes, masks, scores, size = (torch.as_tensor(o) for o in run(image))
        found += len(instances)
        assert torch.equal(classes, instances.pred_classes)
        torch.testing.assert_close(boxes, instances.pred_boxes.tensor, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(scores, instances.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(masks, instances.pred_masks, rtol=1e-3, atol=5e-3)
        assert tuple(size.tolist()) == instances.image_size
        assert not len(masks) or masks.std() > 0.05
    assert found > 10


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
@pytest.mark.parametrize("opts", MODELS.values(), ids=MODELS)
def test_the_file_computes_what_the_model_computes(opts, format, picture, tmp_path, recwarn):
    if format == "onnx":
        pytest.importorskip("onnx", reason="needs pip install onnx")
    config, weights, model = trained(tmp_path, *opts)
    path = tmp_path / "files" / "model.bin"
    exported = export(config, weights, path, image=picture, format=format)
    assert exported.outputs == ("pred_boxes", "pred_classes", "pred_masks", "scores", "image_size")
    assert exported.num_instances > 10
    assert exported.largest_difference < 0.01
    assert [p.name for p in path.parent.iterdir()] == ["model.bin"]
    assert not [w for w in recwarn if issubclass(w.category, torch.jit.TracerWarning)]
    assert_same_function(RUN[format](str(path)), model, images())


def test_a_file_that_is_no_image(tmp_path):
    config, weights, _ = trained(tmp_path)
    with pytest.raises(ValueError, match=r"config.yaml' can't be read as an image"):
        export(config, weights, tmp_path / "model.ts", image=config)


@torch.no_grad()
def highest_score(model, image):
    return float(model.inference([{"image": image}], do_postprocess=False)[0].scores.max())


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_an_image_without_instances(format, picture, tmp_path):
    """A trace records what is done with instances; without one it must run all the same."""
    if format == "onnx":
        pytest.importorskip("onnx", reason="needs pip install onnx")
    config, weights, model = trained(tmp_path, spread=1)
    with Image.open(picture) as image:
        pixels = np.array(image.resize((171, 128)))[..., ::-1].copy()
    with_instances = highest_score(model, torch.from_numpy(pixels).permute(2, 0, 1).float())
    blank = torch.full((3, 64, 64), 100.0)
    without = highest_score(model, blank)
    assert without < with_instances
    threshold = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", str((with_instances + without) / 2))
    export(config, weights, tmp_path / "m", image=picture, format=format, opts=threshold)
    boxes, *_, masks, scores, _size = RUN[format](str(tmp_path / "m"))(blank)
    assert (boxes.shape, masks.shape, scores.shape) == ((0, 4), (0, 1, 28, 28), (0,))


def test_an_image_in_which_nothing_is_found_records_nothing(picture, tmp_path):
    config, weights, _ = trained(tmp_path)
    with pytest.raises(ValueError, match=r"finds nothing in '.*picture\.png', so nothing"):
        opts = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.1")
        export(config, weights, tmp_path / "m", image=picture, opts=opts)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_on_a_photograph(format, photographs, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnx", reason="needs pip install onnx")
    annotations = photographs / "coco" / "annotations" / "instances_val2017.json"
    records = json.loads(annotations.read_text())["images"]
    files = [photographs / "coco" / "val2017" / r["file_name"] for r in records]
    recorded, other = [str(f) for f in files if f.exists()][:2]
    config, weights, model = trained(tmp_path)
    export(config, weights, tmp_path / "m", image=recorded, format=format)
    with Image.open(other) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))[..., ::-1].copy())
    assert_same_function(RUN[format](str(tmp_path / "m")), model, [pixels.permute(2, 0, 1).float()])


FIELDS = {
    **{"proposal_boxes": Boxes, "objectness_logits": torch.Tensor, "pred_boxes": Boxes},
    **dict.fromkeys(("scores", "pred_classes", "pred_masks"), torch.Tensor),
}


@pytest.mark.parametrize("name", [n for n in MODELS if n.startswith("baked")])
@torch.no_grad()
def test_what_was_baked_can_be_scripted(name, tmp_path):
    """By detectron2's own function, with batches and boxes of any number."""
    model = trained(tmp_path, *MODELS[name])[2]
    batch = [{"image": image} for image in images()]
    expected = model.inference(batch, do_postprocess=False)
    scripting_with_instances(model, FIELDS).save(str(tmp_path / "scripted.ts"))
    actual = torch.jit.load(tmp_path / "scripted.ts").inference(batch, do_postprocess=False)
    assert sum(len(e) for e in expected) > 10
    for a, e in zip(actual, expected):
        assert torch.equal(a.pred_masks, e.pred_masks)


def test_what_was_not_baked_cannot(tmp_path):
    """If this fails, docs/DEPLOY.md can say better."""
    unsupported = (AttributeError, RuntimeError, torch.jit.frontend.NotSupportedError)
    with pytest.raises(unsupported):
        scripting_with_instances(trained(tmp_path)[2], FIELDS)


def test_the_command(picture, tmp_path, capsys):
    config, weights, _ = trained(tmp_path)
    argv = ["export", "--config-file", config, "--weights", weights, "--image", picture]
    argv += ["--output", str(tmp_path / "model.ts"), "--format", "torchscript"]
    assert main(argv) == 0
    assert (
        "model.ts: image (3, height, width) → pred_boxes, pred_classes, " in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        main([*argv[:-5], "nowhere.png", *argv[-4:]])
    assert "file 'nowhere.png' does not exist" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match="unknown format 'caffe2'; choose one of torchscript, onnx"
    ):
        export(config, weights, tmp_path / "m", image=picture, format="caffe2")


def test_a_file_that_computes_something_else_is_not_handed_out(picture, tmp_path, monkeypatch):
    config, weights, _ = trained(tmp_path)
    monkeypatch.setattr("maskx_d2.deploy.exporting._TOLERANCES", {"scores": -1.0})
    with pytest.raises(RuntimeError, match=r"m\.incomplete' does not compute what the model does"):
        export(config, weights, tmp_path / "m", image=picture)
    assert not (tmp_path / "m").exists()
