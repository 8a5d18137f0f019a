"""Pictures in TensorBoard and the best checkpoint, while a model trains."""

import json

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.config import LazyConfig
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_argument_parser
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.data import register_partial
from maskx_d2.engine import main
from maskx_d2.engine.monitoring import BestCheckpointer

pytestmark = pytest.mark.usefixtures("no_registration_left")


@pytest.fixture
def pets(tmp_path):
    json_file, images = write_coco(tmp_path / "pets", num_images=6)
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_train", base="pets", split=split)
    register_partial("pets_val", base="pets", split=split, keep_masks=True)


def train(folder, kind, watched):
    """Four iterations, with or without what is tested; the final weights."""
    folder.mkdir()
    if kind == "yaml":
        opts = ["VIS_PERIOD", 2, "TEST.BEST_CHECKPOINT", "segm_B/AP"] if watched else []
        cfg = tiny_cfg(
            "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
            *("DATASETS.TRAIN", ("pets_train",), "DATASETS.TEST", ("pets_val",)),
            *("SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 2, "TEST.EVAL_PERIOD", 2),
            *("SOLVER.CHECKPOINT_PERIOD", 3, "OUTPUT_DIR", str(folder), *opts),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),  # else nothing is predicted
        )
        (folder / "cfg.yaml").write_text(cfg.dump())
        name = "cfg.yaml"
    else:
        cfg = model_zoo.get_config("shapes/maskx.py")
        cfg.model.roi_heads.num_classes = 4
        cfg.dataloader.train.update(total_batch_size=2, num_workers=0)
        cfg.dataloader.train.dataset.names = "pets_train"
        cfg.dataloader.test.dataset.names = "pets_val"
        cfg.train.update(output_dir=str(folder), max_iter=4, eval_period=2, device="cpu")
        cfg.train.checkpointer.period = 3
        if watched:
            cfg.train.update(vis_period=2, best_checkpoint="segm_B/AP")
        LazyConfig.save(cfg, str(folder / "cfg.yaml"))
        name = "cfg.yaml"
    main(default_argument_parser().parse_args(["--config-file", str(folder / name)]))
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


@pytest.mark.parametrize("kind", ["yaml", "lazy"])
def test_a_watched_training_is_the_same_training(kind, pets, tmp_path):
    folder = tmp_path / "watched"
    watched, alone = train(folder, kind, True), train(tmp_path / "alone", kind, False)
    assert all(torch.equal(watched[name], alone[name]) for name in alone)
    (events,) = folder.glob("events.out.tfevents.*")
    found = EventAccumulator(str(events), size_guidance={"images": 0}).Reload()
    drawn = sorted(tag for tag in found.Tags()["images"] if tag.startswith("predictions/"))
    assert drawn == [f"predictions/{i}_{i}.png" for i in range(4)]  # beside detectron2's own
    pictures = found.Images("predictions/0_0.png")
    assert [picture.step for picture in pictures] == [1, 3]
    # Detections, masks on true boxes, truth: each enlarged to 640 pixels.
    assert {picture.width for picture in pictures} == {3 * 640 + 2 * 4}
    assert (folder / "model_best.pth").is_file()
    said = json.loads((folder / "model_best.json").read_text())
    assert said["metric"] == "segm_B/AP" and said["iteration"] in (1, 2, 3, 4)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert not (tmp_path / "alone" / "model_best.pth").exists()


class FakeCheckpointer:
    def __init__(self, folder):
        self.save_dir, self.saved = str(folder), []
        self._last = folder / "last_checkpoint"

    def save(self, name, **_):
        self.saved.append(name)
        self._last.write_text(f"{name}.pth")


class FakeTrainer:
    def __init__(self, start_iter, storage):
        self.start_iter, self.storage, self.max_iter = start_iter, storage, 100


def test_a_resumed_training_remembers_the_best_and_goes_on_from_the_last(tmp_path):
    last = tmp_path / "last_checkpoint"
    last.write_text("model_0000009.pth")

    def evaluated(start_iter, values, metric="segm_B/AP"):
        checkpointer = FakeCheckpointer(tmp_path)
        hook = BestCheckpointer(10, checkpointer, metric)
        with EventStorage(start_iter) as storage:
            hook.trainer = FakeTrainer(start_iter, storage)
            hook.before_train()
            for value in values:
                storage.put_scalar(metric, value)
                hook.trainer.iter = storage.iter = start_iter + 9
                hook.after_step()
        return len(checkpointer.saved)

    assert evaluated(0, [5.0, 4.0, 6.0]) == 2
    assert last.read_text() == "model_0000009.pth"
    assert evaluated(10, [5.5]) == 0  # resumed
    assert evaluated(10, [6.5]) == 1
    assert evaluated(10, [1.0], "segm_A/AP") == 1  # the best of another metric is no matter
    assert evaluated(0, [0.5], "segm_A/AP") == 1  # begun anew
    last.unlink()
    assert evaluated(0, [9.0]) == 1
    assert not last.exists()  # or it would be resumed from the best
