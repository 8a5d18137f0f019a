"""``maskx attach``, from a detector's files to one checkpoint with masks."""

import json

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from test_attach import box_outputs, lazy, randomize_statistics

from maskx_d2 import ClassSplit
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import load_model
from maskx_d2.engine.yaml_main import load_config

pytestmark = pytest.mark.usefixtures("no_registration_left")
SPLIT = ClassSplit("pets", {"cat", "cup"}, {"dog", "car"})
SCHEDULE = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", "1"]


@pytest.fixture
def pets(tmp_path):
    json_file, images = write_coco(tmp_path)
    register_coco_instances("pets", {}, str(json_file), str(images))
    register_partial("pets_train", base="pets", split=SPLIT)
    register_partial("pets_val", base="pets", split=SPLIT, keep_masks=True)
    return tmp_path


@pytest.fixture
def faster_rcnn(pets):
    """Config and checkpoint of a detector without masks, with batch norm."""
    cfg = tiny_cfg(
        "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml",
        *("MODEL.MASK_ON", False, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        *("MODEL.FPN.NORM", "BN", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        *("DATASETS.TRAIN", ("pets",), "DATASETS.TEST", ("pets",)),
    )
    cfg.MODEL.pop("MASKX")  # as detectron2 would have it
    cfg.TEST.pop("MASK_PROBE")
    cfg.TEST.pop("BEST_CHECKPOINT")
    model = build_model(cfg)
    randomize_statistics(model)
    (pets / "faster_rcnn.yaml").write_text(cfg.dump())
    torch.save({"model": model.state_dict()}, pets / "faster_rcnn.pth")
    return [
        "--config-file",
        str(pets / "faster_rcnn.yaml"),
        "--weights",
        str(pets / "faster_rcnn.pth"),
    ]


IMAGES = [torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8) for _ in range(2)]


def assert_same_boxes(before, after):
    for a, b in zip(box_outputs(before.eval(), IMAGES), box_outputs(after.eval(), IMAGES)):
        assert len(a["scores"]) > 0
        assert all(torch.equal(a[k], b[k]) for k in a)


def losses_of(output):
    lines = (output / "metrics.json").read_text().splitlines()
    return {key for line in lines for key in json.loads(line) if key.startswith("loss_")}


@pytest.mark.parametrize("cached", [[], ["--roi-cache"]], ids=["", "cached"])
def test_boxes_can_teach_it_too(cached, faster_rcnn, pets):
    output = pets / "out"
    command = ["attach", *faster_rcnn, "--output", str(output), "--train", "pets_train"]
    assert main([*command, "--learn-from-boxes", *cached, *SCHEDULE, "DATASETS.TEST", "()"]) == 0
    assert {"loss_mask", "loss_box_projection"} <= losses_of(output)


@pytest.mark.parametrize("cached", [[], ["--roi-cache"]], ids=["", "cached"])
def test_it_trains_masks_and_leaves_the_boxes(cached, faster_rcnn, pets, capsys):
    output = pets / "out"
    command = ["attach", *faster_rcnn, "--output", str(output), "--train", "pets_train", *cached]
    assert main([*command, "--test", "pets_val", *SCHEDULE]) == 0
    assert "model_final.pth: the detector of" in capsys.readouterr().out
    before = build_model(load_config(faster_rcnn[1]))
    DetectionCheckpointer(before).load(faster_rcnn[3])
    after = load_model(str(output / "attached.yaml"), str(output / "model_final.pth"))
    assert after.metadata.class_split == SPLIT
    assert_same_boxes(before, after.model)
    # Trained, not as it was made.
    card = torch.load(output / "model_final.pth", weights_only=True)
    assert card["iteration"] == 1
    # The same command again has nothing left to do, and does not evaluate again.
    results = output / "inference" / "coco_instances_results.json"
    before = results.stat().st_mtime_ns
    assert main([*command, "--test", "pets_val", *SCHEDULE]) == 0
    assert "is trained and evaluated already" in capsys.readouterr().out
    assert results.stat().st_mtime_ns == before
    # One that was killed in its evaluation does, and a longer one goes on.
    lines = (output / "metrics.json").read_text().splitlines(keepends=True)
    (output / "metrics.json").write_text("".join(lines)[:-30])
    assert main([*command, "--test", "pets_val", *SCHEDULE]) == 0
    assert results.stat().st_mtime_ns > before
    assert main([*command, "--test", "pets_val", *SCHEDULE, "SOLVER.MAX_ITER", "3"]) == 0
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 2


def test_a_folder_has_one_training(faster_rcnn, pets, capsys):
    output = pets / "out"
    command = ["attach", *faster_rcnn, "--output", str(output), "--train", "pets_train"]
    command += [*SCHEDULE, "DATASETS.TEST", "()"]
    assert main(command) == 0
    assert main([*command, "SOLVER.MAX_ITER", "3", "MODEL.DEVICE", "cpu"]) == 0
    trained = (output / "model_final.pth").read_bytes()
    assert main([*command[:7], "--learn-from-boxes", *command[7:]]) == 1
    said = capsys.readouterr().err
    assert "has MODEL.MASKX.BOX_PROJECTION_WEIGHT 0.0, not 0.3; give another --output" in said
    state = torch.load(pets / "faster_rcnn.pth", weights_only=True)
    torch.save({**state, "iteration": 7}, pets / "faster_rcnn.pth")
    assert main(command) == 1
    assert "is of the detector" in capsys.readouterr().err
    # The detector's own folder.
    command[command.index("--output") + 1] = str(pets)
    (pets / "last_checkpoint").write_text("faster_rcnn.pth")
    assert main(command) == 1
    assert "has another training; give an --output of its own" in capsys.readouterr().err
    assert not (pets / "attached.yaml").exists()
    assert (output / "model_final.pth").read_bytes() == trained


def test_a_lazy_config(pets):
    cfg = lazy()
    cfg.train.init_checkpoint = ""
    model = instantiate(cfg.model)
    torch.save({"model": model.state_dict()}, pets / "m.pth")
    LazyConfig.save(cfg, str(pets / "m.yaml"))
    output = pets / "out"
    opts = [
        "dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.max_iter=1",
        "dataloader.train.total_batch_size=1", "train.device=cpu",
    ]  # fmt: skip
    files = ["--config-file", str(pets / "m.yaml"), "--weights", str(pets / "m.pth")]
    data = ["--train", "pets_train", "--test", "pets_val", "--learn-from-boxes"]
    assert main(["attach", *files, "--output", str(output), *data, *opts]) == 0
    assert {"loss_mask", "loss_box_projection"} <= losses_of(output)
    after = load_model(str(output / "attached.yaml"), str(output / "model_final.pth"))
    assert_same_boxes(model, after.model)
    again = ["attach", *files, "--output", str(output), *data]
    assert main([*again, *opts]) == 0
    assert main([*again[:-1], *opts]) == 1, "without --learn-from-boxes"
    assert main([*again, "--test", "pets_train", *opts]) == 1, "two to test on"


def test_config_only(faster_rcnn, pets, capsys):
    output = pets / "out"
    more = ["--output", str(output), "--transfer-input", "cls", "--config-only", *SCHEDULE]
    assert main(["attach", *faster_rcnn, "--train", "pets_train", *more]) == 0
    assert "--config-file" in capsys.readouterr().out
    cfg = load_config(str(output / "attached.yaml"))
    assert cfg.MODEL.MASKX.TRANSFER_INPUT == "cls"
    assert cfg.MODEL.MASKX.FREEZE_DETECTOR
    assert cfg.DATASETS.TRAIN == ("pets_train",)
    assert cfg.MODEL.WEIGHTS == faster_rcnn[3]
    assert not (output / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--weights", "none.pth"], 2, "file 'none.pth' does not exist"),
        (
            ["--train", "pets_trian"],
            2,
            "'pets_trian' is not registered; did you mean 'pets_train'?",
        ),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "7"], 1, "the detector has 7 categories, but data set"),
        (["SOLVER.MAX_ITERS", "7"], 1, "no key 'SOLVER.MAX_ITERS'; did you mean 'SOLVER.MAX_ITE"),
    ],
)
def test_what_is_wrong_is_said(more, status, message, faster_rcnn, pets, capsys):
    command = ["attach", *faster_rcnn, "--output", str(pets / "out"), "--config-only", *more]
    if status == 2:
        with pytest.raises(SystemExit):
            main(command)
    else:
        assert main(command) == status
    assert message in capsys.readouterr().err
