"""What checkpoints say of themselves, and what loading one of another model says."""

import logging

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model

from maskx_d2 import ClassSplit, __version__
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer, load_model
from maskx_d2.engine.checkpointing import MaskXCheckpointer
from maskx_d2.engine.model_card import card_split, differences, model_card

pytestmark = pytest.mark.usefixtures("no_registration_left")
NAMES = ["cat", "dog", "cup", "car"]
SPLIT = ClassSplit("pets", {"cat", "cup"}, {"dog", "car"})


@pytest.fixture
def trained(tmp_path):
    """A run of one iteration on a data set with a split."""
    json_file, images = write_coco(tmp_path)
    register_coco_instances("pets", {}, str(json_file), str(images))
    register_partial("pets_partial", base="pets", split=SPLIT)
    cfg = tiny_cfg()
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", ("pets_partial",), "DATASETS.TEST", ()),
            *("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 1, "OUTPUT_DIR", str(tmp_path / "o")),
        ]
    )
    trainer = MaskXTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    (tmp_path / "o" / "config.yaml").write_text(cfg.dump())
    return cfg, tmp_path / "o"


def test_a_checkpoint_carries_what_it_takes_to_use_it(trained):
    cfg, folder = trained
    card = torch.load(folder / "model_final.pth", weights_only=True)["maskx_d2"]
    assert card["version"] == __version__
    assert card["thing_classes"] == NAMES
    assert card["split"] == {
        "name": "pets", "with_masks": ["cat", "cup"], "boxes_only": ["car", "dog"]
    }  # fmt: skip
    assert card["transfer"] == {"input": "cls+box", "layers": [160, 256, 8]}
    assert "MaskXROIHeads" in card["config"]
    # And detectron2 loads it as ever.
    rest = DetectionCheckpointer(build_model(cfg)).load(str(folder / "model_final.pth"))
    assert rest["iteration"] == 0


@pytest.mark.parametrize("labels_only", [[], ["car"]])
def test_a_card_gives_back_the_split(labels_only):
    split = ClassSplit("pets", {"cat", "cup"}, {"dog", "car"}.difference(labels_only), labels_only)
    MetadataCatalog.get("carded").set(thing_classes=NAMES, class_split=split)
    card = model_card(torch.nn.Identity(), ["carded"])
    assert ("labels_only" in card["split"]) is bool(labels_only)
    assert card_split(card) == split


def test_predictions_know_their_categories_without_the_data_set(trained):
    _, folder = trained
    opts = ["DATASETS.TRAIN", "('of_someone_else',)"]
    loaded = load_model(str(folder / "config.yaml"), str(folder / "model_final.pth"), opts)
    assert loaded.metadata.thing_classes == NAMES
    assert loaded.metadata.class_split == SPLIT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        (
            {"names": ["cat", "cup", "dog", "car"]},
            "categories are in another order: category 1 is 'dog' in the checkpoint and 'cup' here",
        ),
        (
            {"names": ["cat", "dog", "cup", "bus"]},
            "of other categories (4 categories): 'car' only in the checkpoint; 'bus' only in the",
        ),
        (
            {"opts": ("MODEL.MASKX.TRANSFER_INPUT", "cls")},
            "weight transfer function sees 'cls+box' of each category, here it sees 'cls'",
        ),
        (
            {"opts": ("MODEL.MASKX.TRANSFER_HIDDEN_DIMS", [])},
            "weight transfer function has the widths [160, 256, 8], here it has [160, 8]",
        ),
    ],
)
def test_another_model_is_named(change, message, trained, caplog, tmp_path):
    cfg, folder = trained
    cfg = cfg.clone()
    cfg.merge_from_list(list(change.get("opts", ())))
    json_file, images = write_coco(tmp_path / "b", categories=change.get("names", NAMES))
    register_coco_instances("others", {}, str(json_file), str(images))
    with caplog.at_level(logging.WARNING, logger="maskx_d2"):
        checkpointer = MaskXCheckpointer(build_model(cfg), datasets=["others"])
        checkpointer.load(str(folder / "model_final.pth"))
    said = [r.getMessage() for r in caplog.records if r.name.startswith("maskx_d2")]
    if message is None:
        assert not said
    else:
        assert len(said) == 1
        assert message in said[0]
        assert "model_final.pth" in said[0]


def test_what_is_unknown_is_not_compared():
    empty = {"thing_classes": None, "split": None, "transfer": None}
    full = {"thing_classes": NAMES, "transfer": {"input": "cls", "layers": [3, 4]}}
    assert differences(empty, full) == differences(full, empty) == differences({}, full) == []
    assert not differences(
        {"thing_classes": ["a"]}, {"thing_classes": ["b"], "open_vocabulary": True}
    )
    [found] = differences({"thing_classes": list("abcdefghi")}, {"thing_classes": ["a"]})
    assert "9 categories, 1 here): 'b', 'c', 'd', 'e', 'f' and 3 more only in the" in found
