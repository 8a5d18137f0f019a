"""Stage-wise training on cached RoI features: the same losses, the same guarantees."""

import json
from pathlib import Path

import pytest
import torch
from conftest import make_batch, make_targets, tiny_cfg, write_coco
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase
from detectron2.modeling import build_model

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.data import PartialMaskDatasetMapper, register_partial
from maskx_d2.engine import MaskXTrainer, run
from maskx_d2.engine.roi_cache import CachedBatch, RoICache
from maskx_d2.engine.roi_collecting import RoIRecorder, collect_rois
from maskx_d2.engine.roi_training import CachedMaskBranch
from maskx_d2.modeling import freeze_detector

pytestmark = pytest.mark.usefixtures("no_registration_left")

MASKX = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
BOX_LOSSES = ("loss_box_projection", "loss_color_affinity", "loss_known_background")
CLASS_AGNOSTIC = "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml"


@pytest.fixture
def pets(tmp_path):
    json_file, images = write_coco(tmp_path / "data", num_images=6)
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_partial", base="pets", split=split)


def config(tmp_path, output, iterations=6, *opts):
    return tiny_cfg(
        MASKX,
        *("DATASETS.TRAIN", ("pets_partial",), "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 2),
        *("SOLVER.MAX_ITER", iterations, "SOLVER.STEPS", (), "SOLVER.CHECKPOINT_PERIOD", 2),
        *("SOLVER.BASE_LR", 0.01, "SOLVER.WARMUP_ITERS", 0, "OUTPUT_DIR", str(tmp_path / output)),
        *("MODEL.MASKX.FREEZE_DETECTOR", True, "MODEL.MASKX.ROI_CACHE", str(tmp_path / "cache")),
        *opts,
    )


def train(cfg, resume=False):
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    trainer = MaskXTrainer(cfg)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.resume_or_load(resume=resume)
    trainer.train()
    after = torch.load(Path(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=False)["model"]
    return before, after


def detector_weights(tmp_path):
    model = MaskXTrainer.build_model(config(tmp_path, "run"))
    torch.save({"model": model.state_dict()}, tmp_path / "detector.pth")
    return ("MODEL.WEIGHTS", str(tmp_path / "detector.pth"))


BOXES = (
    *("MODEL.MASKX.BOX_PROJECTION_WEIGHT", 0.5, "MODEL.MASKX.BOX_AFFINITY_WEIGHT", 0.5),
    *("MODEL.MASKX.BOX_BACKGROUND_WEIGHT", 0.5),
)


@pytest.mark.parametrize("opts", [(), BOXES])
@pytest.mark.parametrize("name", [MASKX, CLASS_AGNOSTIC])
def test_losses_and_gradients_are_those_of_the_images(storage, name, opts):
    model = freeze_detector(build_model(tiny_cfg(name, *opts)))
    batch = make_batch(make_targets([True, False], [0, 1]), make_targets([True, True], [2, 0]))
    torch.manual_seed(3)
    losses = {k: v for k, v in model(batch).items() if k in ("loss_mask", *BOX_LOSSES)}
    sum(losses.values()).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(3)
    rois = dict(RoIRecorder(model)(batch))
    assert {0, 2} == set(rois["masks"].classes.tolist())
    if opts:
        assert {1} == set(rois["boxes"].classes.tolist())
    cached = CachedMaskBranch(model)(CachedBatch(rois["masks"], rois.get("boxes")))
    sum(cached.values()).backward()
    torch.testing.assert_close(cached, losses)
    assert len(losses) == (4 if opts else 1)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() >= expected.keys() - {"roi_heads.box_predictor.cls_score.weight"}
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], msg=key)


def test_trains_the_mask_branch_and_nothing_else(pets, tmp_path):
    before, after = train(config(tmp_path, "run"))
    mask = ("roi_heads.mask_head", "roi_heads.weight_transfer")
    for key, value in before.items():
        if key.startswith(mask):
            assert not torch.equal(value, after[key]), key
        else:
            assert torch.equal(value, after[key]), key
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert "total_loss" in json.loads(lines[-1]) and "loss_cls" not in json.loads(lines[-1])


def test_resuming_gives_the_same_weights(pets, tmp_path):
    weights = detector_weights(tmp_path)
    _, uninterrupted = train(config(tmp_path, "one", 6, *weights))
    cfg = config(tmp_path, "two", 6, *weights)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = MaskXTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([StopAt(3)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (tmp_path / "two" / "last_checkpoint").read_text() == "model_0000003.pth"
    _, resumed = train(cfg, resume=True)
    for key, value in uninterrupted.items():
        assert torch.equal(value, resumed[key]), key


class StopAt(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


def test_is_filled_once_for_one_detector_and_data(pets, tmp_path):
    weights = detector_weights(tmp_path)
    train(config(tmp_path, "run", 2, *weights))
    (folder,) = (tmp_path / "cache").iterdir()
    written = (folder / "masks" / "features.bin").stat().st_mtime_ns
    train(config(tmp_path, "other", 2, *weights, "MODEL.MASKX.MLP_BRANCH", True))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]
    assert (folder / "masks" / "features.bin").stat().st_mtime_ns == written
    train(config(tmp_path, "size", 2, *weights, "INPUT.MIN_SIZE_TRAIN", (80,)))
    train(config(tmp_path, "seed", 2, *weights, "SEED", 2))
    train(config(tmp_path, "new", 2))  # another detector
    # The same name, the other half of the masks.
    split = ClassSplit("pets", {"cup", "car"}, {"cat", "dog"})
    DatasetCatalog.remove("pets_partial")
    register_partial("pets_partial", base="pets", split=split)
    train(config(tmp_path, "split", 2, *weights))
    caches = [RoICache(path) for path in (tmp_path / "cache").iterdir()]
    assert len(caches) == 5
    assert [set(c.masks.classes.tolist()) for c in caches].count({2, 3}) == 1


def test_holds_supervised_rois_whatever_the_number_of_workers(pets, tmp_path):
    cfg = config(tmp_path, "run")
    model = MaskXTrainer.build_model(cfg).train()
    mapper = PartialMaskDatasetMapper(cfg, is_train=True)
    caches = [
        collect_rois(
            tmp_path / f"workers{n}",
            model,
            DatasetCatalog.get("pets_partial"),
            mapper,
            settings="",
            num_workers=n,
        )
        for n in (0, 2)
    ]
    assert len(caches[0]) >= 12 and caches[0].num_images == 6
    assert set(caches[0].masks.classes.tolist()) == {0, 1}, "cats and dogs alone have masks"
    assert caches[0].masks.features.tobytes() == caches[1].masks.features.tobytes()
    batch = caches[0].batch(range(len(caches[0]))).masks
    assert batch.targets.shape == (len(caches[0]), 28, 28)
    assert 0.2 < batch.targets.float().mean() <= 1


def test_a_batch_is_what_was_cached(pets, tmp_path):
    cfg = config(tmp_path, "run", 6, *BOXES)
    model = MaskXTrainer.build_model(cfg).train()
    caught = {"masks": [], "boxes": []}

    class Spy(RoIRecorder):
        def __call__(self, batch):
            found = super().__call__(batch)
            for part, rois in found:
                caught[part].append(rois)
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskx_d2.engine.roi_collecting.RoIRecorder", Spy)
        mapper = PartialMaskDatasetMapper(cfg, is_train=True)
        dataset_dicts = DatasetCatalog.get("pets_partial")
        cache = collect_rois(tmp_path / "c", model, dataset_dicts, mapper, settings="")
    batch = cache.batch(list(reversed(range(len(cache)))))  # in any order
    for part in ("masks", "boxes"):
        found, expected = getattr(batch, part), caught[part]
        features = torch.cat([c.features for c in expected])
        torch.testing.assert_close(found.features.float(), features, rtol=1e-3, atol=1e-4)
        assert torch.equal(found.targets, torch.cat([c.targets for c in expected]))
        assert torch.equal(found.classes, torch.cat([c.classes for c in expected]))
    (box,) = cache.batch([len(cache) - 1]).boxes.classes
    assert box == batch.boxes.classes[-1] and not len(cache.batch([0]).boxes.classes)


def test_boxes_alone_train_a_mask_branch(pets, tmp_path):
    """Without one mask: only what boxes and colours say."""
    DatasetCatalog.register("boxes_alone", without_masks)
    cfg = config(tmp_path, "run", 4, *BOXES, "DATASETS.TRAIN", ("boxes_alone",))
    before, after = train(cfg)
    key = "roi_heads.mask_head.mask_fcn1.weight"
    assert not torch.equal(before[key], after[key])
    (folder,) = (tmp_path / "cache").iterdir()
    cache = RoICache(folder)
    assert cache.masks is None and len(cache.boxes) == len(cache) > 0


def without_masks():
    return [
        {**r, "annotations": [{**a, "segmentation": None} for a in r["annotations"]]}
        for r in DatasetCatalog.get("pets")
    ]


def test_what_a_killed_process_left_is_cleared_away(pets, tmp_path):
    train(config(tmp_path, "run", 2, *detector_weights(tmp_path)))
    (folder,) = (tmp_path / "cache").iterdir()
    abandoned = folder.rename(folder.with_name(f"{folder.name}.99999999"))
    train(config(tmp_path, "again", 2, "MODEL.WEIGHTS", str(tmp_path / "detector.pth")))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]
    assert not abandoned.exists()


def test_of_a_lazy_config(shapes, tmp_path):
    root = shapes / "shapes"
    register_coco_instances(
        "few", {}, str(root / "annotations" / "instances_train.json"), str(root / "train")
    )
    opts = [
        *("dataloader.train.dataset.names=few", "dataloader.test.dataset.names=few"),
        *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
        *("train.max_iter=3", "train.freeze_detector=True", "train.log_period=1"),
        *(f"train.roi_cache={tmp_path / 'cache'}", f"train.output_dir={tmp_path / 'run'}"),
        *("train.device=cpu", "train.mask_probe=True"),
    ]
    run(["--config-file", model_zoo.get_config_file("shapes/maskx.py"), *opts])
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert any("mask_probe/AR" in line for line in lines), "the whole model is evaluated"
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.MASKX.FREEZE_DETECTOR", False), "set MODEL.MASKX.FREEZE_DETECTOR to True"),
        (("DATASETS.TRAIN", ("no_masks",)), "no instance of no_masks has a mask"),
        (("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"), "all RoIs equally often"),
    ],
)
def test_what_it_is_not_for(pets, tmp_path, opts, message):
    register_partial("no_masks", base="pets", split=ClassSplit("x", {"dog"}, {"cat", "cup", "car"}))
    DatasetCatalog.remove("no_masks")
    DatasetCatalog.register("no_masks", without_masks)
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path, "run", 2, *opts))


def test_a_full_disk_is_noticed_early(pets, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "maskx_d2.engine.roi_collecting.shutil.disk_usage", lambda _: type("", (), {"free": 1})
    )
    with pytest.raises(ValueError, match=r"the RoI cache needs .* GB more, but .* has 0 GB free"):
        train(config(tmp_path, "run", 2))
    assert not list((tmp_path / "cache").iterdir()), "nothing half filled is left"
