"""Training as a user starts it: train_net.py on a config file, killed, resumed, evaluated."""

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pycocotools.mask as mask_util
import pytest
import torch
from conftest import REPOSITORY, make_batch, make_targets, tiny_cfg, write_coco
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import ClassSplit, engine
from maskx_d2.data import register_partial
from maskx_d2.evaluation import SplitCOCOEvaluator


def start(shapes, output, *args, config="configs/shapes/maskx.py"):
    command = [
        *(sys.executable, "train_net.py", "--config-file", config, *args),
        *(f"train.output_dir={output}", "train.checkpointer.period=2", "train.log_period=1"),
        # A schedule for a few steps: a learning rate this early must not diverge.
        *("optimizer.lr=0.0001", "dataloader.train.num_workers=0"),
    ]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(shapes), "OMP_NUM_THREADS": "2"}
    with open(output / "stdout.txt", "a") as log:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def metrics(output):
    path = output / "metrics.json"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_killed_and_resumed_then_evaluated(shapes, tmp_path):
    run = start(shapes, tmp_path, "train.max_iter=100000")
    deadline = time.time() + 120
    while not (tmp_path / "model_0000003.pth").exists():
        assert run.poll() is None, (tmp_path / "stdout.txt").read_text()[-3000:]
        assert time.time() < deadline
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()

    checkpoint = (tmp_path / "last_checkpoint").read_text()
    done = torch.load(tmp_path / checkpoint, weights_only=False)["iteration"] + 1
    end = done + 3
    resumed = start(shapes, tmp_path, "--resume", f"train.max_iter={end}")
    assert resumed.wait() == 0, (tmp_path / "stdout.txt").read_text()[-3000:]
    iterations = [m["iteration"] for m in metrics(tmp_path) if "loss_mask" in m]
    assert iterations[-3:] == [done, done + 1, done + 2]
    final = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert final["iteration"] == end - 1

    evaluated = [m for m in metrics(tmp_path) if "segm_B/AP" in m]
    assert len(evaluated) == 1, "the end of training evaluates once"
    assert {f"{t}{s}/AP50" for t in ("bbox", "segm") for s in ("", "_A", "_B")} <= set(evaluated[0])
    assert re.search(
        r"shapes_train_a27b9: 24 images, .* \d+ categories with masks, 9 with boxes only, 0 mixed",
        (tmp_path / "log.txt").read_text(),
    )

    # The yaml file that the run left describes it as well as the Python file it was started from.
    for config in ("configs/shapes/maskx.py", str(tmp_path / "config.yaml")):
        weights = f"train.init_checkpoint={tmp_path / 'model_final.pth'}"
        only = start(shapes, tmp_path, "--eval-only", weights, config=config)
        assert only.wait() == 0, (tmp_path / "stdout.txt").read_text()[-3000:]
    stdout = (tmp_path / "stdout.txt").read_text()
    assert stdout.count("Evaluation by split 'a27b9'") == 3
    noise = [
        line for line in stdout.splitlines() if "Warning" in line or re.match(r"W\d{4} ", line)
    ]
    assert not noise, "users can't act on the warnings of dependencies"


@pytest.mark.usefixtures("no_registration_left")
def test_resuming_restores_weights_optimizer_and_schedule(tmp_path):
    json_file, images = write_coco(tmp_path / "data")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_partial", base="pets", split=split)
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("DATASETS.TRAIN", ("pets_partial",), "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 2),
        *(
            "SOLVER.MAX_ITER",
            4,
            "SOLVER.STEPS",
            (2,),
            "SOLVER.WARMUP_ITERS",
            1,
            "OUTPUT_DIR",
            str(tmp_path),
        ),
    )
    first = engine.MaskXTrainer(cfg)
    first.resume_or_load(resume=True)
    assert first.start_iter == 0
    first.train()
    second = engine.MaskXTrainer(cfg)
    second.resume_or_load(resume=True)
    assert second.start_iter == 4
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    momenta = zip(first.optimizer.state.values(), second.optimizer.state.values())
    for one, other in momenta:
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])
    assert first.scheduler.state_dict() == second.scheduler.state_dict()


@pytest.mark.usefixtures("photographs")
@pytest.mark.parametrize("split", ["voc2nonvoc", "nonvoc2voc"])
def test_the_ground_truth_of_the_photographs_is_perfect_although_a_category_has_none(split):
    """One of the 80 categories has no ground truth in these photographs: no NaN, no 0."""
    name = f"coco_2017_val_{split}"
    evaluator = SplitCOCOEvaluator(name, ("bbox", "segm"), distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        annotations = [a for a in record["annotations"] if not a["iscrowd"]]
        found = [
            {
                "image_id": record["image_id"],
                "category_id": a["category_id"],
                "bbox": a["bbox"],
                "score": 1.0,
                "segmentation": mask_util.merge(
                    mask_util.frPyObjects(a["segmentation"], record["height"], record["width"])
                ),
            }
            for a in annotations
        ]
        evaluator._predictions.append({"image_id": record["image_id"], "instances": found})
    results = evaluator.evaluate()
    per_category = [v for k, v in results["segm"].items() if k.startswith("AP-")]
    assert sum(math.isnan(v) for v in per_category) == 1
    for task in ("bbox", "segm"):
        for subset in ("", "_A", "_B"):
            assert results[f"{task}{subset}"]["AP"] == pytest.approx(100, abs=0.5)


@pytest.mark.usefixtures("photographs")
@pytest.mark.parametrize("method", ["maskx_rcnn_no_mlp", "class_agnostic", "oracle"])
def test_yaml_configs_on_the_photographs(method, tmp_path, monkeypatch):
    """Trains on real annotations from a yaml file, checkpoints, resumes, evaluates."""
    small = ["MODEL.ROI_HEADS.NUM_CLASSES", 80, "INPUT.MAX_SIZE_TRAIN", 96]
    small += ["INPUT.MAX_SIZE_TEST", 96, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", str(tmp_path)]
    small += ["SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.BASE_LR", 1e-4, "SOLVER.MAX_ITER", 3]
    cfg = tiny_cfg(f"coco/nonvoc2voc/{method}_R_50_FPN_1x.yaml", *small)
    config_file = tmp_path / "config.yaml"
    config_file.write_text(cfg.dump())

    def args(*argv):
        from detectron2.engine import default_argument_parser

        return default_argument_parser().parse_args(["--config-file", str(config_file), *argv])

    monkeypatch.setattr(engine.MaskXTrainer, "test", classmethod(lambda cls, cfg, model: {}))
    engine.main(args())
    assert (tmp_path / "model_final.pth").exists()
    engine.main(args("--resume", "SOLVER.MAX_ITER", "5"))
    iteration = torch.load(tmp_path / "model_final.pth", weights_only=False)["iteration"]
    assert iteration == 4
    monkeypatch.undo()
    monkeypatch.setattr(engine.MaskXTrainer, "build_test_loader", classmethod(first_images))
    results = engine.main(args("--eval-only", "--resume"))
    assert set(results) == {f"{t}{s}" for t in ("bbox", "segm") for s in ("", "_A", "_B")}


def first_images(cls, cfg, dataset_name):
    """The photographs to evaluate on, only a few of them: each costs time."""
    records = DatasetCatalog.get(dataset_name)[:8]
    mapper = DatasetMapper(cfg, is_train=False)
    return build_detection_test_loader(dataset=records, mapper=mapper)


def test_usage_errors_are_one_line(capsys):
    for argv, message in (
        ([], "--config-file is required"),
        (["--config-file", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
    ):
        with pytest.raises(SystemExit):
            engine.run(argv)
        assert message in capsys.readouterr().err


def test_a_stock_model_is_evaluated_and_not_trained(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path / "data", num_images=2)
    register_coco_instances("pets", {}, str(json_file), str(images))
    cfg = tiny_cfg(
        "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml",
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "OUTPUT_DIR", str(tmp_path / "out")),
        *("DATASETS.TRAIN", ("pets",), "DATASETS.TEST", ("pets",), "SOLVER.IMS_PER_BATCH", 2),
    )
    config = tmp_path / "stock.yaml"
    config.write_text(cfg.dump())
    engine.run(["--config-file", str(config), "--eval-only"])
    assert (tmp_path / "out" / "inference" / "coco_instances_results.json").is_file()
    with pytest.raises(ValueError, match="StandardROIHeads would train on boxes as if"):
        engine.MaskXTrainer(cfg)


def one_batch():
    """A loader that somebody has written, without a mapper."""
    return itertools.repeat(make_batch(make_targets([True, False], [0, 1])))


def test_a_lazy_config_with_a_loader_of_its_own_trains(tmp_path):
    config = tmp_path / "own.py"
    config.write_text(
        "from maskx_d2 import model_zoo\n"
        "cfg = model_zoo.get_config('shapes/maskx.py')\n"
        "model, train, optimizer = cfg.model, cfg.train, cfg.optimizer\n"
        "lr_multiplier = cfg.lr_multiplier\n"
        "dataloader = dict(train=dict(_target_='test_train_net.one_batch'))\n"
        f"train.update(output_dir='{tmp_path}/out', max_iter=1, device='cpu')\n"
    )
    engine.run(["--config-file", str(config)])
    assert (tmp_path / "out" / "model_final.pth").is_file()
