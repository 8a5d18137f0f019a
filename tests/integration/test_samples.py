"""``maskx samples``: what a training sees, drawn; and what a training says of its data."""

import logging

import numpy as np
import pytest
from conftest import tiny_cfg, write_coco
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.env import seed_all_rng
from PIL import Image

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer
from maskx_d2.visualization import draw_instances

pytestmark = pytest.mark.usefixtures("no_registration_left")


@pytest.fixture
def config(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_partial", base="pets", split=split)
    return tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("DATASETS.TRAIN", ("pets_partial",), "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 2),
    )


def test_the_pictures_are_of_the_samples_that_the_training_sees(config, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(config.dump())
    output = tmp_path / "samples"
    args = ["samples", "--config-file", str(tmp_path / "config.yaml"), "--output", str(output)]
    assert main([*args, "--limit", "3", "--scale", "1"]) == 0
    assert "3 pictures" in capsys.readouterr().out
    seed_all_rng(config.SEED)  # as a training does
    batches = iter(MaskXTrainer.build_train_loader(config))
    seen = [*next(batches), *next(batches)][:3]
    pictures = sorted(output.iterdir())
    assert len(pictures) == 3
    for sample, path in zip(seen, pictures):
        picture = np.asarray(Image.open(path))
        assert picture.shape == (*sample["image"].shape[1:], 3)
        # Filled where there is a mask; of the rest only the outline is drawn.
        image = sample["image"].permute(1, 2, 0).flip(2).numpy()
        for (x0, y0, x1, y1), masked in zip(
            sample["instances"].gt_boxes.tensor.int().tolist(),
            sample["instances"].gt_has_mask.tolist(),
        ):
            inside = slice((y0 + y1) // 2 + 2, y1 - 3), slice(x0 + 4, x1 - 4)
            change = np.abs(picture[inside].astype(int) - image[inside]).mean()
            assert (change > 10) == masked


def test_of_a_lazy_config(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    json_file = shapes / "annotations" / "instances_train.json"
    if not json_file.exists():
        json_file = shapes / "shapes" / "annotations" / "instances_train.json"
    register_coco_instances("few", {}, str(json_file), str(json_file.parents[1] / "train"))
    register_partial("few_partial", base="few")
    config = model_zoo.get_config_file("shapes/maskx.py")
    args = ["samples", "--config-file", config, "--output", str(tmp_path / "samples")]
    assert main([*args, "--limit", "2", "dataloader.train.dataset.names=few_partial"]) == 0
    assert len(list((tmp_path / "samples").iterdir())) == 2
    assert "2 pictures" in capsys.readouterr().out


def test_a_config_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["samples", "--config-file", "nowhere.yaml", "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "'nowhere.yaml' does not exist" in capsys.readouterr().err


def test_mistakes_are_said_in_a_sentence(config, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(config.dump())
    args = ["samples", "--config-file", str(path), "--output", str(tmp_path / "samples")]
    assert main([*args, "INPUT.CROPS.ENABLED", "True"]) == 1
    assert "maskx samples: the config has no key 'INPUT.CROPS.ENABLED'" in capsys.readouterr().err
    for name, said in (("pets_partail", "did you mean 'pets_partial'"), ("gone", "does not exist")):
        if name == "gone":
            register_coco_instances(name, {}, str(tmp_path / "gone.json"), str(tmp_path))
            register_partial("gone_partial", base=name)
            name = "gone_partial"
        with pytest.raises(SystemExit) as stop:
            main([*args, "DATASETS.TRAIN", f"('{name}',)"])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "samples").exists()


@pytest.mark.usefixtures("no_registration_left")
def test_an_image_that_is_no_image_is_said_in_a_sentence(config, tmp_path, capsys):
    json_file, images = write_coco(tmp_path / "broken")
    for file in images.glob("*.png"):
        file.write_text("no image")
    register_coco_instances("broken", {}, str(json_file), str(images))
    register_partial("broken_partial", base="broken")
    path = tmp_path / "config.yaml"
    path.write_text(config.dump())
    args = ["samples", "--config-file", str(path), "--output", str(tmp_path / "samples")]
    assert main([*args, "DATASETS.TRAIN", "('broken_partial',)"]) == 1
    said = capsys.readouterr().err
    assert "maskx samples: cannot identify image file" in said and "`maskx check` finds" in said
    assert "Traceback" not in said


def test_a_training_says_what_has_masks(config, caplog):
    with caplog.at_level(logging.INFO, logger="maskx_d2"):
        MaskXTrainer.build_train_loader(config)
    assert (
        "pets_partial: 4 images, 16 boxes, 8 of them with a mask (50 %). 2 categories with masks, "
        "2 with boxes only, 0 mixed; 0 images without a mask." in caplog.text
    )


def test_a_mask_head_without_any_mask_to_learn_from_is_an_error(config):
    no_mask_left = ClassSplit("all", {"cat"}, {"dog", "cup", "car"})
    register_partial("cats", base="pets", split=no_mask_left)
    register_partial("boxes", base="cats", split=ClassSplit("x", {"dog"}, {"cat", "cup", "car"}))
    config.DATASETS.TRAIN = ("boxes",)
    with pytest.raises(ValueError, match=r"no instance of boxes has a mask.*MASK_ON"):
        MaskXTrainer.build_train_loader(config)
    config.MODEL.MASK_ON = False
    MaskXTrainer.build_train_loader(config)


def test_targets_without_a_mask_are_labelled_so(config, monkeypatch):
    labels = []
    monkeypatch.setattr(
        "detectron2.utils.visualizer.Visualizer.overlay_instances",
        lambda self, **kwargs: labels.extend(kwargs["labels"]),
    )
    sample = next(iter(MaskXTrainer.build_train_loader(config)))[0]
    metadata = type("M", (), {"get": lambda self, key, default=None: None})()
    draw_instances(np.zeros((64, 85, 3), np.uint8), sample["instances"], metadata)
    assert sorted("no mask" in label for label in labels) == [False, False, True, True]
