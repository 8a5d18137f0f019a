import pytest
from detectron2.config import get_cfg

from maskx_d2 import add_maskx_config, model_zoo


def test_defaults_are_the_papers_best():
    cfg = get_cfg()
    add_maskx_config(cfg)
    assert dict(cfg.MODEL.MASKX) == {
        "TRANSFER_INPUT": "cls+box",
        "EMBEDDING_FILE": "",
        "TRANSFER_HIDDEN_DIMS": [256],
        "TRANSFER_NEGATIVE_SLOPE": 0.1,
        "TRANSFER_DROPOUT": 0.0,
        "TRANSFER_NOISE": 0.0,
        "STOP_GRAD": True,
        "MLP_BRANCH": False,
        "MLP_RANK": 0,
        "MLP_HIDDEN_DIMS": [],
        "MASK_TRUNK": "",
        "MASK_TRUNK_DEPTH": 1,
        "MASK_ROIS": "proposals",
        "MASK_ROI_JITTER": 0.0,
        "BOX_PROJECTION_WEIGHT": 0.0,
        "BOX_AFFINITY_WEIGHT": 0.0,
        "BOX_BACKGROUND_WEIGHT": 0.0,
        "BOX_WARMUP_ITERS": 0,
        "FREEZE_DETECTOR": False,
        "TRAINED_MODULES": [],
        "ROI_CACHE": "",
    }
    assert cfg.TEST.MASK_PROBE is False


def test_two_keys_plug_into_a_detectron2_config():
    from detectron2 import model_zoo as detectron2_zoo
    from detectron2.modeling import build_model

    from maskx_d2.modeling import MaskXConvUpsampleHead, MaskXROIHeads

    cfg = get_cfg()
    add_maskx_config(cfg)
    config = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    cfg.merge_from_file(detectron2_zoo.get_config_file(config))
    cfg.merge_from_list(
        [
            *("MODEL.ROI_HEADS.NAME", "MaskXROIHeads"),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskXConvUpsampleHead"),
            *("MODEL.DEVICE", "meta"),
        ]
    )
    import torch

    with torch.device("meta"):
        model = build_model(cfg)
    assert type(model.roi_heads) is MaskXROIHeads
    assert type(model.roi_heads.mask_head) is MaskXConvUpsampleHead


def test_an_unknown_key_is_an_error_that_names_it():
    cfg = model_zoo.get_config("coco/voc2nonvoc/maskx_rcnn_R_50_FPN_1x.yaml")
    with pytest.raises(AssertionError, match=r"Non-existent key: MODEL\.MASKX\.TRANSFER_IMPUT"):
        cfg.merge_from_list(["MODEL.MASKX.TRANSFER_IMPUT", "cls"])
