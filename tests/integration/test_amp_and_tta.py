"""Mixed precision and test-time augmentation, with masks missing."""

import json
import warnings

import pytest
import torch
from conftest import make_batch, make_targets, tiny_cfg, write_coco
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model

from maskx_d2 import _environment
from maskx_d2.engine import MaskXTrainer, run
from maskx_d2.engine.autocast import CPUAutocastTrainer, GPUAutocastTrainer

MASKX = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
CLASS_AGNOSTIC = "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml"


@pytest.mark.parametrize("name", [MASKX, CLASS_AGNOSTIC])
@pytest.mark.parametrize("has_mask", [[True, False], [False, False]])
def test_a_step_in_bfloat16(storage, name, has_mask):
    model = build_model(tiny_cfg(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_batch(make_targets(has_mask, [0, 1]), make_targets([False], [2])))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert (losses["loss_mask"] > 0) == any(has_mask)
    for key, parameter in model.roi_heads.named_parameters():
        if key.startswith(("mask_head", "weight_transfer")):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_the_backward_pass_within_autocast_gives_the_same_gradients(storage):
    model = build_model(tiny_cfg(MASKX))
    batch = make_batch(make_targets([True, False], [0, 1]), make_targets([True], [2]))
    gradients = []
    for within in (False, True):
        model.zero_grad()
        torch.manual_seed(0)  # the same RoIs
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sum(model(batch).values())
            if within:
                loss.backward()
        if not within:
            loss.backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        gradients.append(found)
    assert len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.usefixtures("no_registration_left")
@pytest.mark.parametrize("enabled", [True, False])
def test_the_config_key_for_mixed_precision_works_without_a_gpu(tmp_path, enabled):
    json_file, images = write_coco(tmp_path / "data")
    register_coco_instances("pets", {}, str(json_file), str(images))
    data = ("DATASETS.TRAIN", ("pets",), "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 2)
    run = ("SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 0, "OUTPUT_DIR", str(tmp_path))
    with warnings.catch_warnings(record=True) as shown:
        _environment._quiet_dependencies()  # pytest has its own rules otherwise
        trainer = MaskXTrainer(tiny_cfg(MASKX, *data, *run, "SOLVER.AMP.ENABLED", enabled))
    assert not shown
    seen = []
    trainer.model.roi_heads.mask_head.mask_fcn1.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.dtype)
    )
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert seen == [torch.bfloat16 if enabled else torch.float32] * 2
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["loss_mask"] > 0
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_a_training_on_a_cpu_goes_on_on_a_gpu():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saved = CPUAutocastTrainer(model, [], optimizer).state_dict()
    assert "grad_scaler" not in saved
    trainer = GPUAutocastTrainer(model, [], optimizer)
    trainer.load_state_dict(saved)
    assert trainer.state_dict().keys() == saved.keys() | {"grad_scaler"}


@pytest.mark.usefixtures("no_registration_left")
def test_a_training_ends_with_test_time_augmentation_where_the_config_says_so(tmp_path):
    json_file, images = write_coco(tmp_path / "data", num_images=2)
    register_coco_instances("pets", {}, str(json_file), str(images))
    cfg = tiny_cfg(
        MASKX,
        *("DATASETS.TRAIN", ("pets",), "DATASETS.TEST", ("pets",), "SOLVER.IMS_PER_BATCH", 2),
        *("SOLVER.MAX_ITER", 1, "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48,)),
        *("OUTPUT_DIR", str(tmp_path / "out")),
    )
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    run(["--config-file", str(config)])
    assert (tmp_path / "out" / "inference_TTA" / "coco_instances_results.json").is_file()
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert {"bbox/AP", "bbox_TTA/AP", "segm_TTA/AP"} <= json.loads(lines[-1]).keys()


@pytest.mark.parametrize("name", [MASKX, CLASS_AGNOSTIC])
def test_test_time_augmentation(name):
    sizes = ("TEST.AUG.MIN_SIZES", (48, 64), "TEST.AUG.MAX_SIZE", 80, "TEST.AUG.ENABLED", True)
    cfg = tiny_cfg(name, *sizes, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    model = GeneralizedRCNNWithTTA(cfg, build_model(cfg).eval())
    batch = make_batch(make_targets([True], [0]))
    with torch.no_grad():
        output = model([{"image": batch[0]["image"], "height": 64, "width": 64}])
    instances = output[0]["instances"]
    assert len(instances) > 0
    assert instances.pred_masks.shape == (len(instances), 64, 64)
