"""``maskx predict`` from a yaml config and from a LazyConfig, on files and on a data set."""

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.config import LazyConfig, instantiate
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from PIL import Image

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import load_model

pytestmark = pytest.mark.usefixtures("no_registration_left")


@pytest.fixture
def pets(tmp_path, no_registration_left):
    json_file, images = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_split", base="pets", split=split, keep_masks=True)
    return images


@pytest.fixture(params=["yaml", "lazy"])
def trained(request, tmp_path):
    """The config file and the checkpoint that a run leaves."""
    if request.param == "yaml":
        cfg = tiny_cfg(
            "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
            *("DATASETS.TEST", ("pets_split",), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        )
        (tmp_path / "config.yaml").write_text(cfg.dump())
        model = build_model(cfg)
    else:
        cfg = model_zoo.get_config("shapes/maskx.py")
        cfg.model.roi_heads.num_classes = 4
        cfg.model.roi_heads.box_predictor.test_score_thresh = 0.0
        cfg.dataloader.test.dataset.names = "pets_split"
        LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
        model = instantiate(cfg.model)
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    return ["--config-file", f"{tmp_path}/config.yaml", "--weights", f"{tmp_path}/model_final.pth"]


def test_files(trained, pets, tmp_path, capsys):
    output = tmp_path / "pictures"
    images = [str(pets / "0.png"), str(pets / "1.png")]
    argv = ["predict", *trained, "--output", str(output), "--confidence", "0", "--scale", "2"]
    assert main([*argv, *images]) == 0
    pictures = sorted(output.iterdir())
    assert [p.name for p in pictures] == ["000000_0.png", "000001_1.png"]
    assert all(Image.open(p).size == (128, 96) for p in pictures)
    assert f"2 pictures in {output}" in capsys.readouterr().out


@pytest.mark.usefixtures("pets")
def test_data_set_beside_its_ground_truth(trained, tmp_path):
    output = tmp_path / "pictures"
    argv = ["predict", *trained, "--output", str(output), "--dataset", "pets_split", "--limit", "3"]
    assert main(argv) == 0
    pictures = sorted(output.iterdir())
    assert len(pictures) == 3
    assert all(Image.open(p).size == (128, 48) for p in pictures)


def test_the_python_interface(trained, pets):
    loaded = load_model(trained[1], trained[3])
    instances = loaded.predict({"file_name": str(pets / "0.png")})
    assert len(instances) > 0
    assert instances.pred_masks.shape == (len(instances), 48, 64)
    assert not loaded.model.training
    assert loaded.metadata.name == "pets_split"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give either image files or --dataset"),
        (["--dataset", "pest"], "data set 'pest' is not registered"),
        (["nowhere.png"], "file 'nowhere.png' does not exist"),
    ],
)
def test_usage_errors_are_one_line(tmp_path, argv, message, capsys):
    config, weights = tmp_path / "config.yaml", tmp_path / "model.pth"
    config.write_text("")
    weights.write_text("")
    files = ["--config-file", str(config), "--weights", str(weights), "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["predict", *files, *argv])
    assert message in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"file '.*gone\.pth' does not exist"):
        load_model(str(config), str(tmp_path / "gone.pth"))
