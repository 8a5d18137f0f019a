"""``maskx bake``: the same predictions without T, and by detectron2 alone if so wanted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_cfg
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model

from maskx_d2 import apply_box_supervision, model_zoo
from maskx_d2.cli import main
from maskx_d2.deploy import bake
from maskx_d2.engine import load_model
from maskx_d2.modeling import MaskXMixin, PerRoIConvUpsampleHead

NO_MLP = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
CASCADE = ("MODEL.ROI_HEADS.NAME", "MaskXCascadeROIHeads", "MODEL.MASKX.TRANSFER_INPUT", "cls")
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
C4 = ("MODEL.ROI_HEADS.NAME", "MaskXRes5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"])
C4 += ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"])
C4 += ("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]])
C4 += ("MODEL.ROI_MASK_HEAD.NUM_CONV", 0, "MODEL.RESNETS.DEPTH", 50, "MODEL.RPN.HEAD_NAME")
C4 += ("StandardRPNHead", "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
RANDOM = ("MODEL.MASKX.TRANSFER_INPUT", "random")
OPEN = ("MODEL.ROI_HEADS.NAME", "OpenVocabularyMaskXROIHeads")
MLP = ("MODEL.MASKX.MLP_BRANCH", True)
LOW_RANK = (*MLP, "MODEL.MASKX.MLP_RANK", 3)
HIDDEN = (*MLP, "MODEL.MASKX.MLP_HIDDEN_DIMS", [5])
DEEP = ("MODEL.MASKX.MASK_TRUNK", "hourglass", "MODEL.ROI_MASK_HEAD.NORM", "LN")
VARIANTS = {"standard": (), "cascade": CASCADE, "C4": C4, "embedding": RANDOM}

IMAGE = torch.randint(0, 256, (3, 80, 96), generator=torch.Generator().manual_seed(7)).byte()


def trained(folder, *opts):
    """The config file and the checkpoint that a training leaves, and its model."""
    cfg = tiny_cfg(NO_MLP, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *opts)
    if "random" in opts:
        cfg.DATASETS.TRAIN = ("four_pets",)
        MetadataCatalog.get("four_pets").thing_classes = ["cat", "dog", "cup", "car"]
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    return write(folder, cfg.dump(), model)


def trained_lazy(folder, change=lambda model: None):
    cfg = model_zoo.get_config("shapes/maskx.py")
    change(cfg.model)
    cfg.model.roi_heads.box_predictor.test_score_thresh = 0.0
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    torch.manual_seed(0)
    return write(folder, (folder / "config.yaml").read_text(), instantiate(cfg.model).eval())


def write(folder, config, model):
    (folder / "config.yaml").write_text(config)
    # As after a training, in which mask weights of categories differ and scores are no near ties.
    for name, parameter in model.named_parameters():
        if "cls_score" in name or "mlp_branch" in name:
            parameter.data.mul_(20)
    torch.save({"model": model.state_dict(), "iteration": 9}, folder / "model_final.pth")
    return str(folder / "config.yaml"), str(folder / "model_final.pth"), model


@torch.no_grad()
def predict(model):
    return model.inference([{"image": IMAGE}], do_postprocess=False)[0]


def load_by_detectron2(baked):
    cfg = get_cfg()
    cfg.merge_from_file(str(baked.config_file))
    model = build_model(cfg).eval()
    assert DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS) == {}
    return model, cfg


def assert_same(actual, expected, bit_identical):
    assert len(expected) > 5
    assert expected.pred_masks.std() > 0.1, "masks that say nothing would prove nothing"
    assert len(expected.pred_classes.unique()) > 1
    for name in ("pred_classes", "scores", "pred_masks"):
        a, e = actual.get(name), expected.get(name)
        if name == "pred_masks" and not bit_identical:
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(a, e), name
    assert torch.equal(actual.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.usefixtures("no_registration_left")
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_detectron2s_model_predicts_the_same(variant, tmp_path):
    config, weights, model = trained(tmp_path, *variant)
    baked = bake(config, weights, tmp_path / "baked")
    plain, cfg = load_by_detectron2(baked)
    assert_same(predict(plain), predict(model), bit_identical=False)
    assert type(plain.roi_heads).__module__.startswith("detectron2.")
    assert type(plain.roi_heads.mask_head).__module__.startswith("detectron2.")
    assert "MASKX" not in cfg.MODEL
    assert not {"MASK_PROBE", "BEST_CHECKPOINT"} & set(cfg.TEST)
    assert "maskx" not in baked.config_file.read_text().lower().replace(str(tmp_path).lower(), "")
    state = torch.load(baked.weights)["model"]
    assert state["roi_heads.mask_head.predictor.weight"].shape == (4, 8, 1, 1)
    assert not state["roi_heads.mask_head.predictor.bias"].any()
    assert baked.predictor_parameters == 4 * 9


@pytest.mark.usefixtures("no_registration_left")
@pytest.mark.parametrize(
    "variant",
    [*VARIANTS.values(), MLP, LOW_RANK, HIDDEN, DEEP],
    ids=[*VARIANTS, "MLP branch", "of low rank", "with a hidden layer", "deep trunk"],
)
def test_with_the_selection_it_predicts_the_same_to_the_bit(variant, tmp_path):
    config, weights, model = trained(tmp_path, *variant)
    baked = bake(config, weights, tmp_path / "baked", keep_selection=True)
    loaded = load_model(str(baked.config_file), str(baked.weights)).model.cpu()
    assert type(loaded.roi_heads.mask_head) is PerRoIConvUpsampleHead
    assert not any("weight_transfer" in name for name in loaded.state_dict())
    assert_same(predict(loaded), predict(model), bit_identical=True)
    if "MODEL.MASKX.MLP_BRANCH" in variant:
        # The control: the branch does count.
        loaded.roi_heads.mask_head.mlp_branch = None
        assert not torch.allclose(predict(loaded).pred_masks, predict(model).pred_masks, atol=0.01)
    elif variant is not DEEP:  # whose keys detectron2 does not have
        assert_same(predict(load_by_detectron2(baked)[0]), predict(model), bit_identical=True)


SCRIPT = """
import sys
from pathlib import Path
sys.modules["maskx_d2"] = None  # importing it is an error
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
kind, folder = sys.argv[1:]
if kind == "lazy":
    cfg = LazyConfig.load(f"{folder}/config.yaml")
    model, weights = instantiate(cfg.model), cfg.train.init_checkpoint
    instantiate(cfg.dataloader.test.mapper)
else:
    cfg = get_cfg()
    cfg.merge_from_file(f"{folder}/config.yaml")
    model, weights = build_model(cfg), cfg.MODEL.WEIGHTS
DetectionCheckpointer(model).load(weights)
with torch.no_grad():
    image = torch.load(f"{folder}/image.pt")
    instances = model.eval().inference([{"image": image}], do_postprocess=False)[0]
torch.save(instances.pred_masks, f"{folder}/masks.pt")
"""


@pytest.mark.parametrize("kind", ["yaml", "lazy"])
def test_it_loads_where_this_package_is_not(kind, tmp_path):
    config, weights, model = (trained_lazy if kind == "lazy" else trained)(tmp_path)
    folder = tmp_path / "baked"
    bake(config, weights, folder)
    torch.save(IMAGE, folder / "image.pt")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here: other sums, other last bits
    )
    assert run.returncode == 0, run.stderr[-2000:]
    masks = torch.load(folder / "masks.pt")
    torch.testing.assert_close(masks, predict(model).pred_masks, rtol=1e-4, atol=1e-5)


def test_lazy_config_with_the_selection(tmp_path):
    config, weights, model = trained_lazy(tmp_path)
    baked = bake(config, weights, tmp_path / "baked", keep_selection=True)
    loaded = load_model(str(baked.config_file), str(baked.weights)).model.cpu()
    assert_same(predict(loaded), predict(model), bit_identical=True)
    assert baked.num_classes == 36


def learnt_from_boxes(model):
    apply_box_supervision(model)
    model.roi_heads.update(mask_rois="ground_truth", mask_roi_jitter=0.1)


def with_a_trunk(model):
    model.roi_heads.mask_head.update(trunk="bottleneck", conv_norm="LN")


@pytest.mark.parametrize("keep_selection", [False, True])
def test_how_a_lazy_config_was_trained_is_left_behind(keep_selection, tmp_path):
    config, weights, model = trained_lazy(tmp_path, learnt_from_boxes)
    baked = bake(config, weights, tmp_path / "baked", keep_selection=keep_selection)
    loaded = load_model(str(baked.config_file), str(baked.weights)).model.cpu()
    assert type(loaded.roi_heads) is StandardROIHeads
    assert_same(predict(loaded), predict(model), bit_identical=keep_selection)


def test_a_deeper_mask_head_of_a_lazy_config_takes_this_package(tmp_path):
    config, weights, model = trained_lazy(tmp_path, with_a_trunk)
    with pytest.raises(ValueError, match=r"trunk of bottleneck blocks.* give --keep-selection"):
        bake(config, weights, tmp_path / "baked")
    baked = bake(config, weights, tmp_path / "baked", keep_selection=True)
    loaded = load_model(str(baked.config_file), str(baked.weights)).model.cpu()
    assert_same(predict(loaded), predict(model), bit_identical=True)


def test_data_sets_are_those_that_detectron2_knows(tmp_path):
    config, weights, _ = trained(tmp_path)
    plain = load_by_detectron2(bake(config, weights, tmp_path / "plain"))[1]
    assert plain.DATASETS.TRAIN == ("coco_2017_train",)
    assert plain.DATASETS.TEST == ("coco_2017_val",)
    ours = load_by_detectron2(bake(config, weights, tmp_path / "ours", keep_selection=True))[1]
    assert ours.DATASETS.TEST == ("coco_2017_val_voc2nonvoc",)
    lazy = bake(*trained_lazy(tmp_path)[:2], tmp_path / "lazy").config_file
    dataloader = LazyConfig.load(str(lazy)).dataloader
    assert dataloader.test.dataset.names == "shapes_val"
    assert dataloader.test.mapper._target_ == "detectron2.data.DatasetMapper"
    assert dataloader.evaluator._target_ == "detectron2.evaluation.COCOEvaluator"
    assert dataloader.evaluator.dataset_name == "shapes_val"
    assert "maskx" not in lazy.read_text().replace(str(tmp_path), "")


def test_the_mlp_branch_is_kept_or_dropped_but_never_silently(tmp_path, capsys):
    config, weights, model = trained(tmp_path, *MLP)
    output = tmp_path / "baked"
    argv = ["bake", "--config-file", config, "--weights", weights, "--output", str(output)]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "MLP branch" in error and "--keep-selection" in error and "--drop-mlp" in error
    assert error.count("\n") == 1
    assert not output.exists()
    assert main([*argv, "--drop-mlp"]) == 0
    assert "masks are others than the trained model's" in capsys.readouterr().err
    assert not any("mlp_branch" in k for k in torch.load(output / "model.pth")["model"])
    model.roi_heads.mask_head.mlp_branch = None
    plain = load_by_detectron2(bake(config, weights, output, drop_mlp=True))[0]
    assert_same(predict(plain), predict(model), bit_identical=False)


def test_the_command_says_what_it_did_and_warns_of_many_categories(tmp_path, capsys):
    config, weights, _ = trained(tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", 3001)
    argv = ["bake", "--config-file", config, "--weights", weights, "--output", str(tmp_path / "b")]
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert "the mask weights of 3001 categories are a 1×1 convolution of 27,009 par" in printed.out
    assert "941 MB for 100 RoIs; with --keep-selection it is one mask each" in printed.err
    assert main([*argv, "--keep-selection"]) == 0
    assert capsys.readouterr().err == ""


def test_checkpoints_of_other_models_are_refused_in_one_sentence(tmp_path):
    config, weights, _ = trained(tmp_path)
    state = torch.load(weights)["model"]

    def refused(match, error=ValueError, **changed):
        new = {k: v for k, v in {**state, **changed}.items() if v is not None}
        torch.save({"model": new}, tmp_path / "other.pth")
        with pytest.raises(error, match=match):
            bake(config, str(tmp_path / "other.pth"), tmp_path / "baked")

    mlp = {"roi_heads.mask_head.mlp_branch.0.bias": torch.zeros(784)}
    refused(r"other\.pth' is not of this config's model: the model has no .*mlp_branch", **mlp)
    refused("weight_transfer.0.weight is missing", **{"roi_heads.weight_transfer.0.weight": None})
    cls = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(10, 32)}
    refused(r"cls_score\.weight is \(10, 32\) instead of \(5, 32\)", **cls)
    gone = {k: None for k in state if "weight_transfer" in k or "fpn" in k}
    refused("and .* more of the kind. Give the config.yaml", **gone)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth' is not a checkpoint of detectron2's"):
        bake(config, str(tmp_path / "text.pth"), tmp_path / "baked")
    with pytest.raises(FileNotFoundError, match=r"file '.*gone\.pth' does not exist"):
        bake(config, str(tmp_path / "gone.pth"), tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_a_model_without_transfer_has_nothing_to_bake(tmp_path):
    names = ("MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads", "MODEL.ROI_MASK_HEAD.NAME")
    config, weights, _ = trained(tmp_path, *names, "MaskRCNNConvUpsampleHead")
    with pytest.raises(TypeError, match=r"no weight transfer function to bake \(its ROI heads are"):
        bake(config, weights, tmp_path / "baked")


def test_someone_elses_roi_heads(tmp_path):
    class TheirROIHeads(StandardROIHeads):
        pass

    class TheirMaskXROIHeads(MaskXMixin, TheirROIHeads):
        pass

    class OtherMaskXROIHeads(MaskXMixin, TheirROIHeads):
        def class_weights(self):
            return super().class_weights()

        def _forward_mask(self, features, instances):
            return super()._forward_mask({k: 2 * v for k, v in features.items()}, instances)

    names = {c.__name__: c for c in (TheirMaskXROIHeads, OtherMaskXROIHeads, TheirROIHeads)}
    try:
        for name in ("TheirMaskXROIHeads", "OtherMaskXROIHeads"):
            ROI_HEADS_REGISTRY.register(names[name])
        theirs = trained(tmp_path, "MODEL.ROI_HEADS.NAME", "TheirMaskXROIHeads")
        with pytest.raises(ValueError, match=r"ROI heads TheirROIHeads, to which .* not in detec"):
            bake(*theirs[:2], tmp_path / "baked")
        ROI_HEADS_REGISTRY.register(TheirROIHeads)
        plain = load_by_detectron2(bake(*theirs[:2], tmp_path / "baked"))[0]
        assert type(plain.roi_heads) is TheirROIHeads
        other = trained(tmp_path, "MODEL.ROI_HEADS.NAME", "OtherMaskXROIHeads")
        with pytest.raises(RuntimeError, match="OtherMaskXROIHeads: the class does more than"):
            bake(*other[:2], tmp_path / "other")
        assert not (tmp_path / "other").exists()
    finally:
        for name in names:
            ROI_HEADS_REGISTRY._obj_map.pop(name, None)


def test_the_model_itself_is_not_overwritten(tmp_path):
    config, weights, _ = trained(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    own = Path(config).rename(folder / "config.yaml")
    with pytest.raises(ValueError, match=r"config\.yaml' is the model that is to be baked"):
        bake(str(own), weights, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml"]


def test_an_open_vocabulary_is_refused(tmp_path):
    config, weights, _ = trained(tmp_path, *RANDOM, *OPEN)
    with pytest.raises(TypeError, match="open vocabulary can't be baked"):
        bake(str(config), str(weights), tmp_path / "baked")
