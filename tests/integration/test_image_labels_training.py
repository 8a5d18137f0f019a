"""Training where categories have image labels only, and what evaluation says of them."""

import json

import pytest
from conftest import tiny_cfg, write_coco
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import ClassSplit
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer

pytestmark = pytest.mark.usefixtures("no_registration_left")


def test_a_training_sees_no_instance_of_c_and_reports_c(tmp_path, capsys):
    json_file, images = write_coco(tmp_path)
    content = json.loads(json_file.read_text())
    # The last image has a car, which is in C, and nothing else.
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] < 4 or a["category_id"] == 10
    ]
    json_file.write_text(json.dumps(content))
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("grades", {"cat", "dog"}, {"cup"}, {"car"})
    register_partial("pets_train", base="pets", split=split)
    register_partial("pets_val", base="pets", split=split, keep_masks=True)
    cfg = tiny_cfg()
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", ("pets_train",), "DATASETS.TEST", ("pets_val",)),
            *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", str(tmp_path / "o")),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        ]
    )
    trainer = MaskXTrainer(cfg)
    # Without a box the last image teaches a detector nothing, as detectron2 has it.
    assert (
        "pets_train: 3 images, 9 boxes, 6 of them with a mask (67 %). 2 categories with masks, 1 "
        "with boxes only, 1 with image labels only (3 labels), 0 mixed;"
    ) in capsys.readouterr().out
    seen = set()
    forward = trainer._trainer.model.forward

    def watched(batch):
        if trainer._trainer.model.training:
            seen.update(c for x in batch for c in x["instances"].gt_classes.tolist())
        return forward(batch)

    trainer._trainer.model.forward = watched
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert seen == {0, 1, 2}
    metrics = [json.loads(line) for line in (tmp_path / "o" / "metrics.json").open()]
    figures = {key for line in metrics for key in line if key.endswith("/AP")}
    assert figures == {f"{t}{s}/AP" for t in ("bbox", "segm") for s in ("", "_A", "_B", "_C")}
