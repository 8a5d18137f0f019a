"""``maskx predict`` from a yaml config and from a LazyConfig, on files and on a data set."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.cli import main
from maskx_d2.cli.videos import Video
from maskx_d2.data import register_partial
from maskx_d2.engine import Predictor, load_model

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


def test_a_picture_without_detections_says_so(trained, pets, tmp_path, capsys):
    argv = ["predict", *trained, "--scale", "4", str(pets / "0.png")]
    pictures = []
    for confidence in ("0", "1"):
        output = tmp_path / confidence
        assert main([*argv, "--output", str(output), "--confidence", confidence]) == 0
        assert f"1 picture in {output}\n" in capsys.readouterr().out
        pictures.append(np.asarray(Image.open(output / "000000_0.png")))
    found, nothing = pictures
    assert found.shape == nothing.shape == (192, 256, 3)
    corner = np.s_[4:14, 4:100]  # of a picture of which no object reaches there
    assert (nothing[corner] == 255).all(axis=-1).mean() > 0.5
    assert (nothing[40:] == nothing[-1, -1]).all(axis=-1).any(), "the image is there"
    assert not (found[corner] == 255).all(axis=-1).mean() > 0.5


def heading_height(side):
    size = max(14, side // 32)
    return size + size // 2


@pytest.mark.usefixtures("pets")
def test_data_set_beside_its_ground_truth(trained, tmp_path):
    output = tmp_path / "pictures"
    argv = ["predict", *trained, "--output", str(output), "--dataset", "pets_split", "--limit", "3"]
    assert main([*argv, "--scale", "1"]) == 0
    pictures = sorted(output.iterdir())
    assert len(pictures) == 3
    expected = (64 + 4 + 64, 48 + heading_height(48))
    assert all(Image.open(p).size == expected for p in pictures)


def test_small_images_are_enlarged_until_labels_can_be_read(trained, pets, tmp_path):
    assert main(["predict", *trained, "--output", str(tmp_path / "p"), str(pets / "0.png")]) == 0
    assert Image.open(tmp_path / "p" / "000000_0.png").size == (640, 480)


def test_folders_patterns_and_what_is_wrong_with_files(trained, pets, tmp_path, capsys):
    (pets / "more").mkdir()
    (pets / "more" / "cut.png").write_bytes((pets / "0.png").read_bytes()[:80])
    (pets / "more" / "notes.txt").write_text("no image")
    output, found = tmp_path / "pictures", tmp_path / "found.json"
    argv = ["predict", *trained, "--output", str(output), "--json", str(found)]
    argv += ["--confidence", "0", "--scale", "1"]
    assert main([*argv, str(pets), str(pets / "[01].png")]) == 1  # all are in the folder already
    err = capsys.readouterr().err
    assert "1 file can't be used" in err and "cut.png' can't be read (" in err
    assert [p.name[7:] for p in sorted(output.iterdir())] == ["0.png", "1.png", "2.png", "3.png"]
    images = json.loads(found.read_text())["images"]
    assert [i["file_name"] for i in images] == [str(pets / f"{i}.png") for i in range(4)]


def test_a_coco_file_with_the_data_sets_own_ids(trained, pets, tmp_path):
    found = tmp_path / "found.json"
    argv = ["predict", *trained, "--json", str(found), "--confidence", "0"]
    assert main([*argv, "--dataset", "pets_split"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".png") == []
    content = json.loads(found.read_text())
    assert [c["id"] for c in content["categories"]] == [1, 4, 7, 10]
    expected = []
    loaded = load_model(trained[1], trained[3])
    for record in DatasetCatalog.get("pets_split"):
        expected += instances_to_coco_json(loaded.predict(record), record["image_id"])
    ids = MetadataCatalog.get("pets_split").thing_dataset_id_to_contiguous_id
    contiguous = [a | {"category_id": ids[a["category_id"]]} for a in content["annotations"]]
    assert len(expected) == len(contiguous) > 0
    for new, old in zip(contiguous, expected, strict=True):
        assert new["image_id"] == old["image_id"] and new["category_id"] == old["category_id"]
        assert new["bbox"] == pytest.approx(old["bbox"], abs=0.006)
        assert new["score"] == pytest.approx(old["score"], abs=6e-6)
        assert new["segmentation"] == old["segmentation"]
        assert new["area"] == mask_util.area(old["segmentation"])
    coco = COCO(str(found))
    assert len(coco.loadRes(content["annotations"]).anns) == len(expected)


def test_a_data_set_of_other_categories_is_refused(trained, tmp_path, capsys):
    json_file, images = write_coco(tmp_path / "fruit", categories=("apple", "pear"))
    register_coco_instances("fruit", {}, str(json_file), str(images))
    register_coco_instances("gone", {}, str(tmp_path / "gone.json"), str(images))
    wrong = json.loads(json_file.read_text())
    del wrong["annotations"][0]["bbox"]
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    register_coco_instances("wrong", {}, str(tmp_path / "wrong.json"), str(images))
    register_partial("wrong_partial", base="wrong")
    argv = ["predict", *trained, "--json", str(tmp_path / "found.json"), "--dataset"]
    for name, said in (
        ("fruit", "are not those of 'fruit'"),
        ("gone", "data set 'gone' is not there"),
        ("wrong_partial", "data set 'wrong_partial' can't be read"),
    ):
        with pytest.raises(SystemExit) as e:
            main([*argv, name])
        assert e.value.code == 2
        assert said in capsys.readouterr().err


def test_some_categories_beside_another_model(trained, pets, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    checkpoint = torch.load(trained[3])
    checkpoint["model"]["roi_heads.box_predictor.cls_score.bias"] -= 50  # but not background's
    checkpoint["model"]["roi_heads.box_predictor.cls_score.bias"][-1] += 100
    torch.save(checkpoint, other / "model_final.pth")
    argv = ["predict", *trained, "--compare", trained[1], str(other / "model_final.pth")]
    output, found = tmp_path / "pictures", tmp_path / "found.json"
    argv += ["--output", str(output), "--json", str(found), "--confidence", "0.05", "--scale", "1"]
    assert main([*argv, "--categories", "cat,cup", str(pets / "0.png")]) == 0
    picture = np.asarray(Image.open(output / "000000_0.png").convert("RGB"))
    assert picture.shape[:2] == (48 + heading_height(48), 64 + 4 + 64)
    plain = np.asarray(Image.open(pets / "0.png"))
    assert np.array_equal(picture[-16:, -64:], plain[-16:])  # under what says so
    assert not np.array_equal(picture[-48:, :64], plain)
    content = json.loads(found.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert {names[a["category_id"]] for a in content["annotations"]} <= {"cat", "cup"}
    with pytest.raises(SystemExit):
        main([*argv, "--categories", "cats", str(pets / "0.png")])
    assert "no category 'cats'; did you mean 'cat'?" in capsys.readouterr().err


def test_a_video(trained, pets, tmp_path, capsys, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in (0, 1, 2):
        writer.write(cv2.imread(str(pets / f"{i}.png")))
    writer.release()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    output, found = tmp_path / "pictures", tmp_path / "found.json"
    argv = ["predict", *trained, "--output", str(output), "--json", str(found)]
    assert main([*argv, "--scale", "1", str(clip), str(tmp_path / "broken.mp4")]) == 1
    assert "broken.mp4' is no video" in capsys.readouterr().err
    drawn = cv2.VideoCapture(str(output / "000000_clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == 10
    frames = [drawn.read()[1] for _ in range(4)]
    assert frames[3] is None and [frame.shape for frame in frames[:3]] == [(48, 64, 3)] * 3
    images = json.loads(found.read_text())["images"]
    assert [image["frame"] for image in images] == [0, 1, 2]
    # Of a codec that OpenCV lacks.
    monkeypatch.setattr(Video, "__iter__", lambda _self: iter(()))
    assert main([*argv, str(clip)]) == 1
    assert f"no frame of video '{clip}' can be read" in capsys.readouterr().err


def test_the_python_interface(trained, pets):
    predictor = Predictor(trained[1], trained[3], confidence=0)
    file = str(pets / "0.png")
    instances = predictor(file)
    assert len(instances) > 0
    assert instances.pred_masks.shape == (len(instances), 48, 64)
    assert instances.pred_masks.dtype == torch.bool
    assert not predictor.model.training
    assert predictor.metadata.name == "pets_split"
    same = predictor(np.asarray(Image.open(file))[:, :, ::-1])  # BGR, as OpenCV reads it
    assert torch.equal(same.pred_boxes.tensor, instances.pred_boxes.tensor)
    assert torch.equal(same.pred_masks, instances.pred_masks)
    assert torch.equal(predictor(file, rles=True).pred_masks.tensor, instances.pred_masks)
    assert predictor.draw(file, scale=1).shape == (48, 64, 3)
    assert np.array_equal(predictor.draw(file), predictor.draw(file, instances))
    few = Predictor(trained[1], trained[3], confidence=float(instances.scores.median()))(file)
    assert 0 < len(few) < len(instances)
    with pytest.raises(FileNotFoundError, match=r"^file 'nope\.png' does not exist\.$"):
        predictor("nope.png")
    with pytest.raises(ValueError, match=r"array of \(H, W, 3\) uint8 in BGR"):
        predictor(np.zeros((48, 64), np.uint8))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give either images or --dataset"),
        (["--dataset", "pest"], "data set 'pest' is not registered"),
        (["nowhere.png"], "file 'nowhere.png' does not exist"),
        (["no*where.png"], "pattern 'no*where.png' matches nothing"),
        (["empty"], "folder 'empty' has no images or videos"),
    ],
)
def test_usage_errors_are_one_line(tmp_path, argv, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    config, weights = tmp_path / "config.yaml", tmp_path / "model.pth"
    config.write_text("")
    weights.write_text("")
    files = ["--config-file", str(config), "--weights", str(weights), "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["predict", *files, *argv])
    assert message in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"file '.*gone\.pth' does not exist"):
        load_model(str(config), str(tmp_path / "gone.pth"))
