"""Categories of a checkpoint by name, and training some parts only."""

import json
import pickle

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model

from maskx_d2 import model_zoo
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer
from maskx_d2.vocabulary import change_vocabulary, operate

pytestmark = pytest.mark.usefixtures("no_registration_left")
OLD = ["cat", "dog", "cup", "car"]
CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "MaskXCascadeROIHeads", "MODEL.MASKX.TRANSFER_INPUT", "cls"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)
STOCK = (
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
)


def build(*opts):
    model = build_model(tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *opts))
    for parameter in model.roi_heads.parameters():  # zeros would be equal everywhere
        torch.nn.init.normal_(parameter)
    return model.eval()


def class_scores(model):
    """Logits (2, K + 1), box deltas and T's or the mask predictor's rows."""
    heads = model.roi_heads
    predictor = heads.box_predictor
    predictor = predictor[-1] if isinstance(predictor, torch.nn.ModuleList) else predictor
    with torch.no_grad():
        scores, deltas = predictor(torch.arange(64.0).reshape(2, 32) / 64)
        masks = (
            heads.class_weights() if hasattr(heads, "class_weights")
            else heads.mask_head.predictor.weight[:, :, 0, 0]
        )  # fmt: skip
    return scores, deltas, masks


@pytest.mark.parametrize("opts", [(), CASCADE, STOCK], ids=["Mask^X", "Cascade", "Mask R-CNN"])
def test_kept_categories_predict_as_before(opts):
    model = build(*opts)
    new = ["car", "bus", "kitten", "dog", "cow"]
    state, surgery = change_vocabulary(model.state_dict(), OLD, new, renamed={"cat": "kitten"})
    assert (surgery.kept, surgery.added) == (("car", "kitten", "dog"), ("bus", "cow"))
    assert surgery.dropped == ("cup",)
    after = build(*opts, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
    after.load_state_dict(state)
    before_rows, after_rows = [3, 0, 1, 4], [0, 2, 3, 5]  # the last is the background
    (scores, deltas, masks), (new_scores, new_deltas, new_masks) = map(class_scores, (model, after))
    torch.testing.assert_close(new_scores[:, after_rows], scores[:, before_rows])
    torch.testing.assert_close(new_masks[after_rows[:3]], masks[before_rows[:3]])
    if deltas.shape[1] == 4:
        torch.testing.assert_close(new_deltas, deltas)
    else:
        by_class, new_by_class = deltas.reshape(2, 4, 4), new_deltas.reshape(2, 5, 4)
        torch.testing.assert_close(new_by_class[:, after_rows[:3]], by_class[:, before_rows[:3]])
    # New rows are small, like a new detector's, and not all the same.
    weight = next(v for k, v in state.items() if k.endswith("cls_score.weight"))
    assert 0.005 < weight[[1, 4]].std() < 0.02
    assert not torch.equal(weight[1], weight[4])
    again, _ = change_vocabulary(model.state_dict(), OLD, new, renamed={"cat": "kitten"})
    assert all(torch.equal(again[k], v) for k, v in state.items()), "the seed decides"


AGNOSTIC = (*STOCK, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
AGNOSTIC += ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)


@pytest.mark.parametrize(
    ("opts", "rows"),
    [(STOCK, (12, 3)), (AGNOSTIC, (4, 1)), (CASCADE, (4, None))],
    ids=["for each category", "for all", "cascade"],
)
def test_of_one_category_what_is_for_all_stays(opts, rows, tmp_path):
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *(*opts, "MODEL.ROI_HEADS.NUM_CLASSES", 1),
    )
    card = {"thing_classes": ["cat"], "config": cfg.dump()}
    weights, out = tmp_path / "one.pth", tmp_path / "three.pth"
    torch.save({"model": build_model(cfg).state_dict(), "maskx_d2": card}, weights)
    operate(weights, out, ["cat", "dog", "cow"])
    after = torch.load(out, weights_only=True)["model"]
    boxes = {len(v) for k, v in after.items() if k.endswith("bbox_pred.weight")}
    masks = {len(v) for k, v in after.items() if k.endswith("mask_head.predictor.weight")}
    assert boxes == {rows[0]} and masks == ({rows[1]} if rows[1] else set())
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    assert not build_model(cfg).load_state_dict(after, strict=False).unexpected_keys


@pytest.mark.parametrize(("count", "rows"), [(1, 1), ("${..num_classes}", 3)])
def test_of_one_category_a_lazy_config_says_what_is_for_all(count, rows, tmp_path):
    cfg = model_zoo.get_config("shapes/class_agnostic.py")
    cfg.model.roi_heads.num_classes = 1
    cfg.model.roi_heads.mask_head.num_classes = count
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    card = {"thing_classes": ["cat"], "config": (tmp_path / "config.yaml").read_text()}
    state = {
        "roi_heads.box_predictor.cls_score.weight": torch.ones(2, 4),
        "roi_heads.mask_head.predictor.weight": torch.ones(1, 4, 1, 1),
    }
    torch.save({"model": state, "maskx_d2": card}, tmp_path / "one.pth")
    operate(tmp_path / "one.pth", tmp_path / "three.pth", ["cat", "dog", "cow"])
    after = torch.load(tmp_path / "three.pth", weights_only=True)["model"]
    assert len(after["roi_heads.mask_head.predictor.weight"]) == rows


def test_vectors_that_t_sees():
    state = {
        "roi_heads.box_predictor.cls_score.weight": torch.randn(5, 3),
        "roi_heads.class_embedding": torch.arange(8.0).reshape(4, 2),
    }
    found, _ = change_vocabulary(state, OLD, ["car", "cat"])
    assert found["roi_heads.class_embedding"].tolist() == [[6, 7], [0, 1]]
    with pytest.raises(ValueError, match="none of the categories that are added; give --embedding"):
        change_vocabulary(state, OLD, ["car", "bus"])
    vectors = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    found, _ = change_vocabulary(state, OLD, ["car", "bus"], vectors=vectors)
    assert found["roi_heads.class_embedding"].tolist() == [[6, 7], [2, 2]]
    with pytest.raises(ValueError, match=r"are \(2, 3\), but 'roi_heads.class_emb.* 2 numbers"):
        change_vocabulary(state, OLD, ["car", "bus"], vectors=torch.ones(2, 3))


@pytest.mark.parametrize(
    ("old", "new", "renamed", "message"),
    [
        (OLD, ["cat", "cat"], {}, "'cat' is twice among the new categories"),
        (["cat"] * 4, ["cat"], {}, "'cat' is twice among the checkpoint's"),
        (OLD, ["bus", "cow"], {}, "no row would be kept: 'bus', 'cow' against 'cat', 'dog', 'cup'"),
        (OLD, ["cat"], {"cow": "cat"}, "'cow' is to be renamed, but is none of the checkpoint's"),
        (OLD, ["cat"], {"dog": "cow"}, "'cow' is to be renamed, but is none of the new"),
        (OLD[:3], ["cat"], {}, r"has 5 rows, but of 3 categories it should have 4"),
    ],
)
def test_what_is_wrong_is_said(old, new, renamed, message):
    with pytest.raises(ValueError, match=message):
        change_vocabulary(build().state_dict(), old, new, renamed=renamed)


def test_a_checkpoint_without_a_detector():
    with pytest.raises(ValueError, match=r"no 'cls_score\.weight'"):
        change_vocabulary({"conv1.weight": torch.ones(1)}, OLD, ["cat"])


# ------------------------------------------------------------------------------------- command


@pytest.fixture
def files(tmp_path):
    """A checkpoint that knows its categories, and a data set of others."""
    model = build()
    torch.save(
        {"model": model.state_dict(), "maskx_d2": {"thing_classes": OLD}}, tmp_path / "m.pth"
    )
    json_file, images = write_coco(tmp_path, categories=("car", "bus", "dog"))
    register_coco_instances("traffic", {}, str(json_file), str(images))
    return tmp_path


def test_command(files, capsys):
    out = files / "new" / "start.pth"
    command = ["surgery", "--weights", str(files / "m.pth"), "--output", str(out)]
    assert main([*command, "--to", "traffic"]) == 0
    said = capsys.readouterr()
    assert "3 categories, of which 2 keep their rows and 1 are new" in said.out
    assert "dropped: cat, cup" in said.out
    assert torch.load(out, weights_only=True)["maskx_d2"]["thing_classes"] == ["car", "bus", "dog"]
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    DetectionCheckpointer(build_model(cfg)).load(str(out))
    assert main([*command, "--to", ",".join(["dog", *(f"category {i}" for i in range(80))])]) == 0
    # A near miss is pointed out.
    assert main([*command, "--to", "cats,dog"]) == 0
    assert (
        "If 'cats' is the checkpoint's 'cat', add --rename 'cat=cats'." in capsys.readouterr().err
    )
    (files / "names.txt").write_text("dog\n\ncat\n")
    assert main([*command, "--to", str(files / "names.txt")]) == 0
    (files / "names.txt").write_bytes(b"\xef\xbb\xbfdog\r\n\r\ncat\r\n")  # of Windows
    assert main([*command, "--to", str(files / "names.txt")]) == 0
    assert "2 keep their rows and 0 are new" in capsys.readouterr().out.splitlines()[-2]
    (files / "names.json").write_text('["dog" "cat"]')
    assert main([*command, "--to", str(files / "names.json")]) == 1
    assert "names.json' is no JSON list" in capsys.readouterr().err
    (files / "names.json").write_text('["dog", "cat"]')
    assert main([*command, "--to", str(files / "names.json"), "--rename", "cup"]) == 1
    assert "--rename takes OLD=NEW, not 'cup'" in capsys.readouterr().err
    assert main([*command, "--to", "trafic"]) == 1
    assert "no registered data set and no file; did you mean 'traffic'?" in capsys.readouterr().err
    assert main([*command, "--to", "dog,"]) == 0
    assert "1 categories, of which 1 keep their rows" in capsys.readouterr().out


def test_a_model_zoo_file(files, capsys):
    model = build(*STOCK)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    with open(files / "zoo.pkl", "wb") as f:
        pickle.dump({"model": state, "__author__": "Detectron2 Model Zoo"}, f)
    out = files / "start.pth"
    command = ["surgery", "--weights", str(files / "zoo.pkl"), "--output", str(out)]
    assert main([*command, "--to", "traffic"]) == 1
    assert "doesn't say which categories it has; say it by --from" in capsys.readouterr().err
    assert main([*command, "--to", "traffic", "--from", ",".join(OLD)]) == 0
    after = build(*STOCK, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    DetectionCheckpointer(after).load(str(out))
    np.testing.assert_array_equal(
        after.roi_heads.box_predictor.cls_score.weight[0].detach().numpy(),
        state["roi_heads.box_predictor.cls_score.weight"][3],
    )


def test_files_that_are_none(files, capsys):
    (files / "bad.pth").write_text("no checkpoint")
    command = ["surgery", "--to", "traffic", "--output", str(files / "o.pth"), "--weights"]
    assert main([*command, str(files / "bad.pth")]) == 1
    assert "bad.pth' can't be read as a checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, str(files / "none.pth")])


# --------------------------------------------------------------- categories that come later


def test_the_box_predictor_alone_is_trained_and_needs_no_masks(files, tmp_path):
    """Masks of added categories come from T, which has not seen them."""
    out = files / "start.pth"
    main(["surgery", "--weights", str(files / "m.pth"), "--output", str(out), "--to", "traffic"])
    content = json.loads((files / "annotations.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (files / "annotations.json").write_text(json.dumps(content))
    register_partial("traffic_boxes", base="traffic", split=None)
    cfg = tiny_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.WEIGHTS", str(out)),
            *("MODEL.MASKX.TRAINED_MODULES", ["roi_heads.box_predictor"]),
            *("DATASETS.TRAIN", ("traffic_boxes",), "DATASETS.TEST", ()),
            *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", str(tmp_path / "o")),
        ]
    )
    trainer = MaskXTrainer(cfg)
    trainer.resume_or_load(resume=False)
    before = {k: v.clone() for k, v in trainer._trainer.model.state_dict().items()}
    trainer.train()
    after = trainer._trainer.model.state_dict()
    changed = {k for k in after if not torch.equal(before[k], after[k])}
    assert changed
    assert all(k.startswith("roi_heads.box_predictor.") for k in changed)


def test_a_part_that_is_not_there_is_named():
    from maskx_d2.engine.freezing import freeze

    with pytest.raises(
        ValueError, match=r"no part 'roi_heads\.box_predictr' .*'roi_heads\.box_pre"
    ):
        freeze(build(), False, ["roi_heads.box_predictr"])
    with pytest.raises(ValueError, match="give one of them"):
        freeze(build(), True, ["roi_heads.box_predictor"])
