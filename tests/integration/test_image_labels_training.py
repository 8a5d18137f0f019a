"""The classifier of image labels in both trainers, on images that have labels and no instance."""

import json

import pytest
from conftest import tiny_cfg, write_coco
from detectron2.data import build_detection_train_loader
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer, run

PETS = ("cat", "dog", "cup", "car")
TASKS = {f"image_labels{s}/AP" for s in ("", "_A", "_B", "_C")}


@pytest.fixture(autouse=True)
def pets(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path / "data", categories=PETS)
    content = json.loads(json_file.read_text())
    # Of the first image nothing is known but that it has a cup.
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] > 1 or a["category_id"] == 7
    ]
    json_file.write_text(json.dumps(content))
    register_coco_instances("pets", {"thing_classes": list(PETS)}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat"}, {"dog"}, {"cup", "car"})
    register_partial("pets_train", base="pets", split=split)
    register_partial("pets_val", base="pets", split=split, keep_masks=True)


def metrics(folder):
    """The names of the figures that a run has written down."""
    return set().union(*map(json.loads, (folder / "metrics.json").read_text().splitlines()))


def yaml_cfg(tmp_path, *opts):
    return tiny_cfg(
        "coco/a20b30c30/image_labels_R_50_DC5_1x.yaml",
        *("DATASETS.TRAIN", ("pets_train",), "DATASETS.TEST", ("pets_val",)),
        *("MODEL.IMAGE_LABELS.NUM_CLASSES", 4, "MODEL.RESNETS.RES5_DILATION", 1),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
        *("OUTPUT_DIR", str(tmp_path / "run"), *opts),
    )


def test_a_yaml_config_trains_and_is_evaluated(tmp_path):
    cfg = yaml_cfg(tmp_path)
    records = build_detection_train_loader.from_config(cfg, mapper=None)["dataset"]
    labels = {r["image_id"]: r["image_labels"] for r in records}
    assert labels == {1: [2], 2: [0, 1, 2, 3], 3: [0, 1, 2, 3], 4: [0, 1, 2, 3]}
    MaskXTrainer(cfg).train()
    assert TASKS | {"total_loss"} <= metrics(tmp_path / "run")


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"has 5 categories.* set MODEL\.IMAGE_LABELS\.NUM_CLASS"):
        MaskXTrainer(yaml_cfg(tmp_path, "MODEL.IMAGE_LABELS.NUM_CLASSES", 5))
    with pytest.raises(TypeError, match="PeakResponseClassifier gives labels of images; set VIS_"):
        MaskXTrainer(yaml_cfg(tmp_path, "VIS_PERIOD", 1))


def test_the_shapes_config_trains_and_is_evaluated(tmp_path):
    run(
        [
            *("--config-file", model_zoo.get_config_file("shapes/image_labels.py")),
            *("dataloader.train.dataset.names=pets_train", "dataloader.train.num_workers=0"),
            *("dataloader.test.dataset.names=pets_val", "dataloader.test.num_workers=0"),
            *("dataloader.train.total_batch_size=2", "train.device=cpu", "train.max_iter=2"),
            *("model.num_classes=4", "train.log_period=1", "train.eval_period=2"),
            f"train.output_dir={tmp_path / 'run'}",
        ]
    )
    assert TASKS | {"total_loss"} <= metrics(tmp_path / "run")


@pytest.mark.parametrize(
    ("config", "opt", "message"),
    [
        (
            "shapes/image_labels.py",
            "dataloader.train.dataset.filter_empty=True",
            r"labels and no instance; set dataloader\.train\.dataset\.filter_empty to False",
        ),
        (
            "shapes/deepmask.py",
            "dataloader.train.mapper.use_instance_mask=False",
            r"learns from masks; set dataloader\.train\.mapper\.use_instance_mask to True",
        ),
    ],
)
def test_a_lazy_config_that_keeps_back_what_teaches_is_refused(tmp_path, config, opt, message):
    opts = ["dataloader.train.dataset.names=pets_train", "dataloader.train.num_workers=0", opt]
    opts += ["train.device=cpu", f"train.output_dir={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=message):
        run(["--config-file", model_zoo.get_config_file(config), *opts])
