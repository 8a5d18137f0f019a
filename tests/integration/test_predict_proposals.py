"""``maskx predict`` of models that find objects of no category."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from PIL import Image
from torchvision.ops import box_iou

from maskx_d2 import ClassSplit, model_zoo
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import Predictor
from maskx_d2.visualization import draw_annotations, draw_instances

pytestmark = pytest.mark.usefixtures("no_registration_left")


@pytest.fixture
def pets(tmp_path):
    json_file, images = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_split", base="pets", split=split, keep_masks=True)
    return images


@pytest.fixture(params=["DeepMask", "ProposalNetwork"])
def trained(request, tmp_path, pets):
    """What a run leaves, and whether its proposals have masks."""
    torch.manual_seed(0)
    if request.param == "DeepMask":
        cfg = model_zoo.get_config("shapes/deepmask.py")
        cfg.dataloader.test.dataset.names = "pets_split"
        cfg.model.topk = 20
        LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
        model = instantiate(cfg.model)
    else:
        cfg = tiny_cfg(
            "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
            *("MODEL.META_ARCHITECTURE", "ProposalNetwork", "DATASETS.TEST", ("pets_split",)),
        )
        (tmp_path / "config.yaml").write_text(cfg.dump())
        model = build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    return str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth")


def test_proposals_are_instances_of_one_category(trained, pets):
    predictor = Predictor(*trained, confidence=0.0)
    (proposals,) = (output["proposals"] for output in predictor.model([loaded(predictor, pets)]))
    found = predictor(str(pets / "0.png"))
    assert predictor.proposes and predictor.metadata.thing_classes == ["object"]
    assert len(found) == len(proposals) > 1
    expected = torch.sigmoid(proposals.objectness_logits)
    torch.testing.assert_close(found.scores, expected)
    torch.testing.assert_close(found.pred_boxes.tensor, proposals.proposal_boxes.tensor)
    assert found.pred_classes.tolist() == [0] * len(found)
    assert found.has("pred_masks") == proposals.has("pred_masks")
    if found.has("pred_masks"):
        assert found.pred_masks.dtype == torch.bool
        np.testing.assert_array_equal(found.pred_masks, np.asarray(proposals.pred_masks))
    best = float(found.scores.max())
    assert len(Predictor(*trained, confidence=best)(str(pets / "0.png"))) < len(found)


def loaded(predictor, pets):
    return predictor._model_input(str(pets / "0.png"))


def test_pictures_show_the_best_of_those_that_lie_on_each_other(trained, pets):
    predictor = Predictor(*trained, confidence=0.0)
    image = str(pets / "0.png")
    found = predictor(image, rles=True)
    kept = []
    for i in found.scores.argsort(descending=True).tolist():
        boxes = found.pred_boxes.tensor
        if not kept or box_iou(boxes[i : i + 1], boxes[kept]).max() <= 0.5:
            kept.append(i)
    assert len(kept) < len(found)
    picture = predictor.draw(image, found)
    rgb, metadata = predictor.rgb(image), predictor.metadata
    shown = draw_instances(rgb, found[torch.tensor(kept)], metadata, min_score=0, scale=None)
    np.testing.assert_array_equal(picture, shown)


def test_the_command_beside_ground_truth(trained, pets, tmp_path, capsys):
    config, weights = trained
    argv = ["predict", "--config-file", config, "--weights", weights, "--confidence", "0"]
    argv += ["--output", str(tmp_path / "pictures"), "--json", str(tmp_path / "found.json")]
    assert main([*argv, "--dataset", "pets_split", "--limit", "2", "--scale", "1"]) == 0
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "object"}]
    assert {a["category_id"] for a in content["annotations"]} == {1}
    first, second = (Image.open(p) for p in sorted((tmp_path / "pictures").iterdir()))
    assert first.size == second.size and first.size[0] > 2 * 64, "ground truth stands beside it"
    with pytest.raises(SystemExit):
        main([*argv, "--categories", "cat", str(pets)])
    assert "proposals are of no category" in capsys.readouterr().err


@pytest.mark.parametrize("detector_first", [True, False])
def test_beside_a_detector(trained, pets, tmp_path, detector_first):
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("DATASETS.TEST", ("pets_split",), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    )
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    models = [trained, (str(folder / "config.yaml"), str(folder / "model_final.pth"))]
    first, second = models[::-1] if detector_first else models
    argv = ["predict", "--config-file", first[0], "--weights", first[1], "--compare", *second]
    argv += ["--confidence", "0", "--categories", "cat", "--dataset", "pets", "--limit", "1"]
    argv += ["--output", str(tmp_path / "pictures"), "--json", str(tmp_path / "found.json")]
    assert main(argv) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    expected = {"cat", "dog", "cup", "car"} if detector_first else {"object"}
    assert {c["name"] for c in found["categories"]} == expected
    (picture,) = (tmp_path / "pictures").iterdir()
    colors = {tuple(c) for c in np.asarray(Image.open(picture)).reshape(-1, 3).tolist()}
    truth = draw_annotations(
        Predictor.rgb(str(pets / "0.png")),
        DatasetCatalog.get("pets")[0]["annotations"],
        MetadataCatalog.get("pets_split"),
        scale=None,
    )
    assert {tuple(c) for c in truth.reshape(-1, 3).tolist()} <= colors, "B's colour in the truth"


def test_a_classifier_of_images_is_refused(tmp_path):
    cfg = model_zoo.get_config("shapes/image_labels.py")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    state = instantiate(cfg.model).state_dict()
    torch.save({"model": state}, tmp_path / "model_final.pth")
    with pytest.raises(ValueError, match="is a PeakResponseClassifier, which finds no instances;"):
        Predictor(str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth"))
