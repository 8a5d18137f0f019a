"""DeepMask in both trainers, from data with masks for some categories to its recall."""

import json
import math

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.config import get_cfg
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase
from detectron2.modeling import ProposalNetwork

from maskx_d2 import ClassSplit, add_maskx_config, model_zoo
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer, run
from maskx_d2.engine.inference import load_model, settings_hash
from maskx_d2.engine.lazy_main import build_train_loader, load_lazy
from maskx_d2.engine.monitoring import PredictionImages

pytestmark = pytest.mark.usefixtures("no_registration_left")

PETS = ("cat", "dog", "cup", "car")
TASKS = {f"{t}_proposals{s}" for t in ("box", "mask") for s in ("", "_A", "_B")}


@pytest.fixture
def pets(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path / "data", categories=PETS)
    register_coco_instances("pets", {"thing_classes": list(PETS)}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_train", base="pets", split=split)
    register_partial("pets_val", base="pets", split=split, keep_masks=True)
    content = json.loads(json_file.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    register_coco_instances("pets_boxes", {}, str(boxes), str(images))


def yaml_cfg(tmp_path, train="pets_train"):
    cfg = get_cfg()
    add_maskx_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "DeepMask", "MODEL.MASK_ON", True),
            *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.WEIGHTS", ""),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.DEEPMASK.PATCH_SIZE", 64),
            *("MODEL.DEEPMASK.OBJECT_SIZE", 36, "MODEL.DEEPMASK.MASK_SIZE", 16),
            *("MODEL.DEEPMASK.CONV_DIM", 6, "MODEL.DEEPMASK.RANK", 5),
            *("MODEL.DEEPMASK.SCORE_DIMS", [7, 8], "MODEL.DEEPMASK.SCALES", [1.0, 2.0]),
            *("MODEL.DEEPMASK.PATCHES_PER_IMAGE", 4, "MODEL.DEEPMASK.TOPK_TEST", 20),
            *("INPUT.MIN_SIZE_TEST", 48, "INPUT.MIN_SIZE_TRAIN", (48,), "SEED", 1),
            *("DATASETS.TRAIN", (train,), "DATASETS.TEST", ("pets_val",)),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
            *("DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", str(tmp_path / "run")),
        ]
    )
    return cfg


def metrics(folder):
    """The names of the figures that a run has written down."""
    return set().union(*map(json.loads, (folder / "metrics.json").read_text().splitlines()))


def test_a_yaml_config_trains_and_writes_proposals_for_other_detectors(pets, tmp_path):
    trainer = MaskXTrainer(yaml_cfg(tmp_path))
    seen = []

    class Recorder(HookBase):
        def after_step(self):
            latest = self.trainer.storage.latest()
            seen.append({k: latest[k][0] for k in ("loss_mask", "loss_score", "total_loss")})

    trainer.register_hooks([Recorder()])
    trainer.train()
    assert len(seen) == 2
    for losses in seen:
        assert 0 < losses["loss_mask"] < math.inf and 0 < losses["loss_score"] < math.inf
    assert {f"{t}/AR@100" for t in TASKS} <= metrics(tmp_path / "run")
    inference = tmp_path / "run" / "inference"
    assert json.loads((inference / "coco_proposals.json").read_text())
    (record, *_) = get_detection_dataset_dicts(
        "pets_val", proposal_files=[str(inference / "box_proposals.pkl")]
    )
    assert 0 < len(record["proposal_boxes"]) <= 20
    train_on_proposals(tmp_path / "other", str(inference / "box_proposals.pkl"))


def train_on_proposals(output, file):
    """A Mask^X Fast R-CNN, whose proposals are DeepMask's."""
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        *("DATASETS.TRAIN", ("pets_train",), "DATASETS.PROPOSAL_FILES_TRAIN", (file,)),
        *("DATASETS.TEST", ("pets_val",), "DATASETS.PROPOSAL_FILES_TEST", (file,)),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
        *("SOLVER.BASE_LR", 0.001, "OUTPUT_DIR", str(output)),
    )
    MaskXTrainer(cfg).train()
    assert "segm_B/AP" in metrics(output)
    assert not any(name.startswith("loss_rpn") for name in metrics(output))


def test_data_without_any_mask_are_refused(pets, tmp_path):
    cfg = yaml_cfg(tmp_path, train="pets_boxes")
    for weight in (0.0, 1.0):  # it has no mask head that could learn from boxes
        cfg.MODEL.MASKX.BOX_PROJECTION_WEIGHT = weight
        with pytest.raises(ValueError, match="no instance of pets_boxes has a mask"):
            MaskXTrainer(cfg)
    opts = ["dataloader.train.dataset.names=pets_boxes", "train.device=cpu"]
    opts += ["dataloader.train.num_workers=0", f"train.output_dir={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match="no instance of pets_boxes has a mask"):
        run(["--config-file", model_zoo.get_config_file("shapes/deepmask.py"), *opts])


@pytest.mark.parametrize("loss", ["PROJECTION", "AFFINITY", "BACKGROUND"])
def test_what_boxes_alone_can_teach_a_mask_head(pets, tmp_path, loss):
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("DATASETS.TRAIN", ("pets_boxes",), "DATASETS.TEST", ()),
        *(f"MODEL.MASKX.BOX_{loss}_WEIGHT", 1.0),
        *("OUTPUT_DIR", str(tmp_path / "yaml")),
    )
    weights = dict.fromkeys(("projection", "affinity", "background"), 0.0) | {loss.lower(): 1.0}
    opts = [f"model.roi_heads.box_supervision.{k}_weight={v}" for k, v in weights.items()]
    opts += ["dataloader.train.dataset.names=pets_boxes", "train.device=cpu"]
    opts.append("dataloader.test.dataset.names=pets_boxes")
    opts.append("dataloader.train.num_workers=0")
    config = load_lazy(model_zoo.get_config_file("shapes/box_losses.py"), opts)
    if loss == "BACKGROUND":  # which is known of other objects' masks
        with pytest.raises(ValueError, match="no instance of pets_boxes has a mask"):
            MaskXTrainer(cfg)
        with pytest.raises(ValueError, match="no instance of pets_boxes has a mask"):
            build_train_loader(config)
        return
    MaskXTrainer(cfg)
    build_train_loader(config)


def test_what_needs_detections_says_so(pets, tmp_path):
    cfg = yaml_cfg(tmp_path)
    cfg.VIS_PERIOD = 1
    with pytest.raises(TypeError, match="DeepMask gives proposals; set VIS_PERIOD"):
        MaskXTrainer(cfg)
    with pytest.raises(TypeError, match="ProposalNetwork gives proposals"):
        PredictionImages(1, ProposalNetwork.__new__(ProposalNetwork), "pets", None)
    config, weights = tmp_path / "deepmask.yaml", tmp_path / "model.pth"
    config.write_text(cfg.dump())
    weights.touch()
    with pytest.raises(ValueError, match=r"deepmask.yaml' is a DeepMask, which finds no instances"):
        load_model(str(config), str(weights))


def test_the_shapes_config_trains_and_is_evaluated(pets, tmp_path):
    run(
        [
            *("--config-file", model_zoo.get_config_file("shapes/deepmask.py")),
            *("dataloader.train.dataset.names=pets_train", "dataloader.train.num_workers=0"),
            *("dataloader.test.dataset.names=pets_val", "dataloader.test.num_workers=0"),
            *("dataloader.train.total_batch_size=2", "train.device=cpu", "train.max_iter=2"),
            *("model.topk=10", "train.log_period=1", "train.eval_period=2"),
            f"train.output_dir={tmp_path / 'run'}",
        ]
    )
    assert {"loss_mask", *(f"{t}/AR@100" for t in TASKS)} <= metrics(tmp_path / "run")
    weights = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)["model"]
    assert any(name.startswith("mask_branch.down") for name in weights)


def test_its_keys_are_no_settings_of_other_models(tmp_path):
    def hash_of(*opts):
        return settings_hash(str(config), ["MODEL.MASK_ON", True, *opts])

    config = tmp_path / "config.yaml"
    config.write_text("MODEL: {META_ARCHITECTURE: GeneralizedRCNN}\n")
    changed = ("MODEL.DEEPMASK.TOPK_TEST", 10)
    assert hash_of() == hash_of(*changed)
    deepmask = ("MODEL.META_ARCHITECTURE", "DeepMask")
    assert hash_of(*deepmask) != hash_of(*deepmask, *changed)


@pytest.mark.usefixtures("pets")
def test_data_sets_do_not_write_over_each_others_proposals(tmp_path):
    cfg = yaml_cfg(tmp_path)
    cfg.DATASETS.TEST = ("pets_train", "pets_val")
    MaskXTrainer.test(cfg, MaskXTrainer.build_model(cfg))
    found = sorted((tmp_path / "run" / "inference").glob("*/*"))
    names = ("box_proposals.pkl", "coco_proposals.json")
    assert [f"{f.parent.name}/{f.name}" for f in found] == [
        f"{data}/{name}" for data in ("pets_train", "pets_val") for name in names
    ]
