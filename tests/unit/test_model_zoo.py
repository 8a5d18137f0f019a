import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from maskx_d2 import model_zoo
from maskx_d2.deepmask import DeepMask
from maskx_d2.image_labels import PeakResponseClassifier
from maskx_d2.modeling import (
    MaskXROIHeads,
    OpenVocabularyMaskXROIHeads,
    SupervisedMasksOnly,
)

YAMLS = [n for n in model_zoo.list_configs() if n.startswith("coco/") and n.endswith(".yaml")]
OPEN_VOCABULARY = "coco/nonvoc2voc/open_vocabulary_R_50_FPN_1x.yaml"


def test_the_papers_configs_are_all_there():
    names = model_zoo.list_configs()
    for direction in ("voc2nonvoc", "nonvoc2voc"):
        for method in ("maskx_rcnn", "maskx_rcnn_no_mlp", "class_agnostic", "oracle"):
            for depth in (50, 101):
                assert f"coco/{direction}/{method}_R_{depth}_FPN_1x.yaml" in names


@pytest.mark.parametrize("name", [n for n in YAMLS if "table1" not in n and n != OPEN_VOCABULARY])
def test_every_yaml_builds_and_names_data_sets_that_exist(name):
    cfg = model_zoo.get_config(name)
    assert isinstance(cfg, CfgNode)
    cfg.MODEL.DEVICE = "meta"  # no memory for 157 M parameters
    with torch.device("meta"):
        model = build_model(cfg)
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog.list())
    direction = name.split("/")[1]
    assert cfg.DATASETS.TEST == (f"coco_2017_val_{direction}",)
    if "oracle" in name:
        assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
        assert model.roi_heads.mask_head.predictor.weight.shape == (80, 256, 1, 1)
        assert isinstance(model.roi_heads, SupervisedMasksOnly)
        return
    assert cfg.DATASETS.TRAIN == (f"coco_2017_train_{direction}",)
    if "deepmask" in name:
        assert isinstance(model, DeepMask) and model.mask_branch.down.kernel_size == (14, 14)
        return
    if "image_labels" in name:
        assert isinstance(model, PeakResponseClassifier)
        assert (model.classifier.weight.shape, model.stride) == ((80, 2048, 1, 1), 16)
        return
    heads = model.roi_heads
    if "class_agnostic" in name:
        assert heads.mask_head.predictor.weight.shape == (1, 256, 1, 1)
        return
    assert isinstance(heads, MaskXROIHeads)
    assert [tuple(p.shape) for p in heads.weight_transfer.parameters()] == [
        *[(256, 5120), (256,)],
        *[(256, 256), (256,)],
    ]
    assert (heads.mask_head.mlp_branch is None) is ("no_mlp" in name)
    if "no_mlp" not in name:
        assert sum(p.numel() for p in heads.mask_head.mlp_branch.parameters()) == 157_352_720


def test_the_open_vocabulary_is_of_the_vectors_that_it_is_given(tmp_path):
    cfg = model_zoo.get_config(OPEN_VOCABULARY)
    torch.save(torch.randn(80, 16), tmp_path / "vectors.pt")
    (tmp_path / "vectors.json").write_text('{"order": "dataset"}')
    cfg.MODEL.MASKX.EMBEDDING_FILE = str(tmp_path / "vectors.pt")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    heads = build_model(cfg).roi_heads
    assert isinstance(heads, OpenVocabularyMaskXROIHeads)
    assert heads.box_predictor.cls_score.class_vectors.shape == (80, 16)
    assert next(heads.weight_transfer.parameters()).shape == (256, 16)
    assert cfg.DATASETS.TRAIN == ("coco_2017_train_nonvoc2voc",)
    assert cfg.DATASETS.TEST == ("coco_2017_val_nonvoc2voc",)


# T's input, its hidden layers, its slope, stop-gradient, MLP branch and its rank
BEST = ("cls+box", [256], 0.1, True, False, 0)
TABLE1 = {
    "stagewise": BEST,
    "a_cls": ("cls", *BEST[1:]),
    "a_box": ("box", *BEST[1:]),
    "a_random": ("random", *BEST[1:]),
    "a_glove": ("embedding", *BEST[1:]),
    "b_1_layer": ("cls+box", [], *BEST[2:]),
    "b_2_layers_relu": ("cls+box", [256], 0.0, *BEST[3:]),
    "b_3_layers_leaky_relu": ("cls+box", [256, 256], *BEST[2:]),
    "b_3_layers_relu": ("cls+box", [256, 256], 0.0, *BEST[3:]),
    "c_transfer_mlp": (*BEST[:4], True, 0),
    "c_transfer_mlp_rank16": (*BEST[:4], True, 16),
    "d_transfer_no_stop_grad": (*BEST[:3], False, False, 0),
}
NOT_TRANSFER = {"detector", "c_class_agnostic", "c_class_agnostic_mlp"}


def test_table_1_is_complete():
    names = {n.split("/")[-1].removesuffix(".yaml") for n in YAMLS if "table1" in n}
    assert names == {*TABLE1, *NOT_TRANSFER}


@pytest.mark.parametrize("row", TABLE1)
def test_rows_of_table_1_differ_in_what_they_are_about(row):
    cfg = model_zoo.get_config(f"coco/table1/{row}.yaml")
    maskx = cfg.MODEL.MASKX
    assert (
        maskx.TRANSFER_INPUT,
        maskx.TRANSFER_HIDDEN_DIMS,
        maskx.TRANSFER_NEGATIVE_SLOPE,
        maskx.STOP_GRAD,
        maskx.MLP_BRANCH,
        maskx.MLP_RANK,
    ) == TABLE1[row]
    assert cfg.MODEL.ROI_HEADS.NAME == "MaskXROIHeads"
    check_stages(cfg, row)


@pytest.mark.parametrize("row", sorted(NOT_TRANSFER))
def test_rows_of_table_1_without_transfer(row):
    cfg = model_zoo.get_config(f"coco/table1/{row}.yaml")
    if row == "detector":
        assert not cfg.MODEL.MASK_ON and not cfg.MODEL.MASKX.FREEZE_DETECTOR
        return
    head = cfg.MODEL.ROI_MASK_HEAD
    assert head.CLS_AGNOSTIC_MASK
    assert (head.NAME == "MLPConvUpsampleHead") is row.endswith("mlp")
    check_stages(cfg, row)


def check_stages(cfg, row):
    assert cfg.MODEL.MASKX.FREEZE_DETECTOR is not row.startswith("d_")
    from_detector = cfg.MODEL.WEIGHTS == "output/table1/detector/model_final.pth"
    assert from_detector is not row.startswith("d_")
    assert cfg.DATASETS.TRAIN == ("coco_2017_train_voc2nonvoc",)


@pytest.mark.parametrize(
    ("depth", "solver"),
    [(50, (16, 0.02, (60000, 80000), 90000)), (101, (8, 0.01, (120000, 160000), 180000))],
)
def test_the_schedule_is_the_papers(depth, solver):
    cfg = model_zoo.get_config(f"coco/voc2nonvoc/maskx_rcnn_R_{depth}_FPN_1x.yaml")
    s = cfg.SOLVER
    assert (s.IMS_PER_BATCH, s.BASE_LR, s.STEPS, s.MAX_ITER) == solver
    assert (s.WEIGHT_DECAY, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == (
        1e-4,
        (800,),
        1333,
    )
    heads = cfg.MODEL.ROI_HEADS
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION) == (512, 0.25)


RECOMMENDED = [n for n in model_zoo.list_configs() if n.startswith("recommended/")]


def test_recommended_configs_learn_from_boxes_and_the_papers_do_not():
    assert len(RECOMMENDED) == 2
    for name in RECOMMENDED:
        cfg = model_zoo.get_config(name)
        with torch.device("meta"):
            if isinstance(cfg, CfgNode):
                cfg.MODEL.DEVICE = "meta"
                heads = build_model(cfg).roi_heads
                data_sets = cfg.DATASETS.TRAIN + cfg.DATASETS.TEST
            else:
                heads = instantiate(cfg.model.roi_heads)
                data_sets = cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names
        assert isinstance(heads, MaskXROIHeads)
        boxes = heads.box_supervision
        weights = boxes.projection_weight, boxes.affinity_weight, boxes.background_weight
        assert (*weights, boxes.warmup_iters) == (0.3, 0, 0, 1000)
        assert data_sets == ("coco_2017_train_voc2nonvoc", "coco_2017_val_voc2nonvoc")
    for name in YAMLS:
        maskx = model_zoo.get_config(name).MODEL.MASKX
        assert (maskx.BOX_PROJECTION_WEIGHT, maskx.BOX_BACKGROUND_WEIGHT) == (0, 0)
        assert (maskx.TRANSFER_DROPOUT, maskx.MASK_ROIS) == (0, "proposals")


@pytest.mark.parametrize(
    "name",
    [n for n in model_zoo.list_configs() if n.endswith(".py") and n not in RECOMMENDED],
)
def test_every_lazy_config_builds(name):
    cfg = model_zoo.get_config(name)
    roi_heads = cfg.model.get("roi_heads") or {}
    if roi_heads.get("class_embedding") is not None:  # of data that may not be here
        cfg.model.roi_heads.class_embedding = torch.ones(cfg.model.roi_heads.num_classes, 5)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    instantiate(cfg.optimizer)
    instantiate(cfg.lr_multiplier)
    assert cfg.dataloader.train.dataset.names in DatasetCatalog.list()
    # Small enough for a CPU; that of photographs has a frozen ResNet-50 beside.
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    most = 17e6 if name == "photographs/deepmask.py" else 6e6  # with res4
    assert trained < (most if name.startswith("photographs/") else 3e6)


def test_an_unknown_config_is_an_error_that_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no config 'coco/x\.yaml'; available are: coco/"):
        model_zoo.get_config("coco/x.yaml")


def test_what_configs_are_made_of_is_not_listed():
    assert not [name for name in model_zoo.list_configs() if "common" in name.split("/")[-1]]
    assert "shapes/maskx.py" in model_zoo.list_configs()
