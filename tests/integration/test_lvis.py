"""LVIS from its files to AP of A and B: training, evaluation, and the configs for the real one."""

import itertools
import json
import math

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.evaluation import LVISEvaluator
from detectron2.modeling import build_model

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer
from maskx_d2.evaluation import SplitLVISEvaluator

CONFIGS = [n for n in model_zoo.list_configs() if n.startswith("lvis/")]
METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


@pytest.fixture
def pets(tmp_path, no_registration_left):
    """COCO's format with LVIS's fields; only the first image has the rare cup."""
    json_file, images = write_coco(tmp_path / "data", num_images=6)
    content = json.loads(json_file.read_text())
    cup, car = (c["id"] for c in content["categories"][2:])
    content["annotations"] = [
        a for a in content["annotations"] if a["category_id"] != cup or a["image_id"] == 1
    ]
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    for category, frequency in zip(content["categories"], "ffrc"):
        category.update(frequency=frequency, synset=f"{category['name']}.n.01")
    for image in content["images"]:
        image["neg_category_ids"] = [] if image["id"] == 1 else [cup]
        image["not_exhaustive_category_ids"] = [car] if image["id"] == 2 else []
    json_file.write_text(json.dumps(content))
    register_lvis_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_train_split", base="pets", split=split)
    register_partial("pets_val_split", base="pets", split=split, keep_masks=True)
    return json_file


def trainer_of(name, folder, *opts):
    cfg = tiny_cfg(
        name,
        *("DATASETS.TRAIN", ("pets_train_split",), "DATASETS.TEST", ("pets_val_split",)),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
        *("SOLVER.BASE_LR", 0.001, "OUTPUT_DIR", str(folder), "DATALOADER.REPEAT_THRESHOLD", 0.9),
        *opts,
    )
    trainer = MaskXTrainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("method", ["maskx_rcnn", "class_agnostic"])
def test_training_and_evaluation(method, tmp_path):
    name = f"lvis/coco/{method}_R_50_FPN_1x.yaml"
    # After two iterations a network finds nothing yet: take whatever there is.
    trainer = trainer_of(name, tmp_path / "out", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", -1.0)
    trainer.train()
    results = trainer._last_eval_results
    assert set(results) == {f"{t}{s}" for t in ("bbox", "segm") for s in ("", "_A", "_B")}
    for task, metrics in results.items():
        assert list(metrics) == METRICS
        assert math.isfinite(metrics["AP"]), task
    assert math.isnan(results["segm_A"]["APr"]) and math.isfinite(results["segm_B"]["APr"])
    assert math.isnan(results["segm_B"]["APf"])
    found = json.loads((tmp_path / "out/inference/lvis_instances_results.json").read_text())
    assert found and {d["category_id"] for d in found} <= {1, 4, 7, 10}
    assert all("segmentation" in d for d in found)


@pytest.mark.usefixtures("pets")
def test_rare_categories_are_repeated_and_the_stream_goes_on_from_anywhere(tmp_path):
    trainer = trainer_of(
        "lvis/coco/maskx_rcnn_R_50_FPN_1x.yaml", tmp_path, "DATALOADER.REPEAT_THRESHOLD", 1.0
    )
    loader = trainer._trainer.data_loader
    assert isinstance(loader._sampler, RepeatFactorTrainingSampler)
    whole = [[r["image_id"] for r in b] for b in itertools.islice(loader, 40)]
    shares = torch.bincount(torch.tensor(whole).flatten())
    # The cup is in 1 of 6 images: repeated sqrt(6) times, twice or three times an epoch.
    assert shares[1] > 1.5 * shares[2:].float().mean()
    loader.start_iter = 17
    assert [[r["image_id"] for r in b] for b in itertools.islice(loader, 10)] == whole[17:27]


@pytest.mark.usefixtures("pets")
def test_the_evaluator_of_a_data_set(tmp_path):
    cfg = tiny_cfg("lvis/coco/maskx_rcnn_R_50_FPN_1x.yaml", "OUTPUT_DIR", str(tmp_path))
    evaluator = MaskXTrainer.build_evaluator(cfg, "pets_val_split")
    assert isinstance(evaluator, SplitLVISEvaluator)
    assert not isinstance(evaluator, LVISEvaluator), "which needs the package lvis"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_and_names_data_sets_that_exist(name):
    cfg = model_zoo.get_config(name)
    _, split, file = name.split("/")
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog.list())
    assert cfg.DATASETS.TEST == (f"lvis_v1_val_{split}",)
    trained_on = "all" if file.startswith("oracle") else split
    assert cfg.DATASETS.TRAIN == (f"lvis_v1_train_{trained_on}",)
    # Detectron2's own LVIS configs have these.
    assert (cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST) == (300, 0.0001)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (16, 0.02, 180000)
    assert not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    assert f"_R_{cfg.MODEL.RESNETS.DEPTH}_" in file
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        heads = build_model(cfg).roi_heads
    assert heads.box_predictor.bbox_pred.weight.shape == (4 * 1203, 1024)
    outputs = 1203 if file.startswith("oracle") else 1
    if not file.startswith("maskx"):
        assert heads.mask_head.predictor.weight.shape[0] == outputs


def test_all_configs_are_there():
    methods = ("maskx_rcnn", "class_agnostic", "oracle")
    assert set(CONFIGS) == {
        f"lvis/{split}/{method}_R_{depth}_FPN_1x.yaml"
        for split in ("coco", "frequent")
        for method in methods
        for depth in (50, 101)
    }
