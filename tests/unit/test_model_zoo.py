import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from maskx_d2 import model_zoo
from maskx_d2.modeling import MaskXROIHeads, SupervisedMasksOnly


def test_the_papers_configs_are_all_there():
    names = model_zoo.list_configs()
    for direction in ("voc2nonvoc", "nonvoc2voc"):
        for method in ("maskx_rcnn", "maskx_rcnn_no_mlp", "class_agnostic", "oracle"):
            for depth in (50, 101):
                assert f"coco/{direction}/{method}_R_{depth}_FPN_1x.yaml" in names


@pytest.mark.parametrize("name", [n for n in model_zoo.list_configs() if n.endswith(".yaml")])
def test_every_yaml_builds_and_names_data_sets_that_exist(name):
    cfg = model_zoo.get_config(name)
    assert isinstance(cfg, CfgNode)
    cfg.MODEL.DEVICE = "meta"  # no memory for 157 M parameters
    with torch.device("meta"):
        heads = build_model(cfg).roi_heads
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog.list())
    direction = name.split("/")[1]
    assert cfg.DATASETS.TEST == (f"coco_2017_val_{direction}",)
    if "oracle" in name:
        assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
        assert heads.mask_head.predictor.weight.shape == (80, 256, 1, 1)
        assert isinstance(heads, SupervisedMasksOnly)
        return
    assert cfg.DATASETS.TRAIN == (f"coco_2017_train_{direction}",)
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


@pytest.mark.parametrize("name", [n for n in model_zoo.list_configs() if n.endswith(".py")])
def test_every_lazy_config_builds(name):
    cfg = model_zoo.get_config(name)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    instantiate(cfg.optimizer)
    instantiate(cfg.lr_multiplier)
    assert cfg.dataloader.train.dataset.names in DatasetCatalog.list()
    assert sum(p.numel() for p in model.parameters()) < 3e6


def test_an_unknown_config_is_an_error_that_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no config 'coco/x\.yaml'; available are: coco/"):
        model_zoo.get_config("coco/x.yaml")
