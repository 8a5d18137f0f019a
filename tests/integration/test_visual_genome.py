"""Both stages of the Visual Genome experiment, from downloaded files to masks of all categories."""

import importlib
import json

import pytest
import torch
from conftest import REPOSITORY, tiny_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from maskx_d2 import model_zoo
from maskx_d2.data import class_split_of
from maskx_d2.data.visual_genome import register_visual_genome, register_with_categories
from maskx_d2.engine import MaskXTrainer, load_model

SYNSETS = ("person.n.01", "bicycle.n.01", "tree.n.01", "wheel.n.01", "leaf.n.01", "arm.n.01")
COCO = MetadataCatalog.get("coco_2017_train")
NUM_CLASSES = 84


def draw(path):
    image = Image.new("RGB", (64, 64), (90, 120, 60))
    image.paste((230, 40, 30), (4, 4, 30, 40))
    image.paste((30, 40, 230), (34, 20, 60, 60))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_visual_genome(root):
    images, objects = [], []
    for i in range(1, 9):
        draw(root / "visual_genome" / "VG_100K" / f"{i}.jpg")
        images.append(
            {"image_id": i, "width": 64, "height": 64, "url": f"https://host/VG_100K/{i}.jpg"}
            | {"coco_id": i if i < 3 else None}
        )
        box = {"x": 4, "y": 4, "w": 26, "h": 36}
        things = [{"object_id": k, "synsets": [s]} | box for k, s in enumerate(SYNSETS)]
        objects.append({"image_id": i, "objects": things})
    (root / "visual_genome" / "image_data.json").write_text(json.dumps(images))
    (root / "visual_genome" / "objects.json").write_text(json.dumps(objects))


def write_coco_part(root, part):
    draw(root / "coco" / part / "1.jpg")
    draw(root / "coco" / part / "2.jpg")
    ids = COCO.thing_dataset_id_to_contiguous_id
    shared = {"area": 936, "iscrowd": 0, "bbox": [4, 4, 26, 36]}
    polygon = [[4, 4, 30, 4, 30, 40, 4, 40]]
    annotations = [
        {"id": 10 * i + c, "image_id": i, "category_id": c, "segmentation": polygon} | shared
        for i in (1, 2)
        for c in (1, 2)
    ]
    json_file = root / "coco" / "annotations" / f"instances_{part}.json"
    json_file.parent.mkdir(exist_ok=True)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in (1, 2)]
    categories = [{"id": c, "name": COCO.thing_classes[i]} for c, i in ids.items()]
    json_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return json_file


@pytest.fixture
def root(tmp_path, monkeypatch, no_registration_left):
    write_visual_genome(tmp_path)
    for part in ("train", "val"):
        json_file = write_coco_part(tmp_path, f"{part}2017")
        meta = {k: COCO.get(k) for k in ("thing_classes", "thing_dataset_id_to_contiguous_id")}
        images = tmp_path / "coco" / f"{part}2017"
        register_coco_instances(f"toy_coco_2017_{part}", meta, str(json_file), str(images))
    monkeypatch.syspath_prepend(str(REPOSITORY / "datasets"))
    conversion = importlib.import_module("vg_conversion.conversion")
    conversion.make_visual_genome(tmp_path, num_categories=NUM_CLASSES, num_test=1, progress=False)
    register_visual_genome(tmp_path, prefix="toy_")
    return tmp_path


def stage(name, output, *opts):
    """A config on the toy data, and the trainer that it makes."""
    cfg = tiny_cfg(f"visual_genome/{name}.yaml")
    # What tiny_cfg changes for every config, and this is about.
    assert model_zoo.get_config(f"visual_genome/{name}.yaml").MODEL.ROI_HEADS.NUM_CLASSES == 3001
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.DATASETS.TRAIN = tuple(f"toy_{n}" for n in cfg.DATASETS.TRAIN)
    cfg.DATASETS.TEST = tuple(f"toy_{n}" for n in cfg.DATASETS.TEST)
    cfg.merge_from_list(
        [
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
            *("SOLVER.BASE_LR", 0.001, "OUTPUT_DIR", str(output)),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 5, *opts),
        ]
    )
    trainer = MaskXTrainer(cfg)
    trainer.resume_or_load(resume=False)
    return cfg, trainer


def test_boxes_of_visual_genome_then_masks_of_coco(root):
    _, detector = stage("detector_R_50_FPN", root / "detector")
    detector.train()
    assert {"bbox", "bbox_A", "bbox_B"} <= set(detector._last_eval_results)
    weights = str(root / "detector" / "model_final.pth")
    cfg, trainer = stage("maskx_rcnn_R_50_FPN", root / "maskx", "MODEL.WEIGHTS", weights)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    assert {"segm", "segm_A", "segm_B"} <= set(trainer._last_eval_results)
    trained = torch.load(weights, weights_only=False)["model"]
    for name, value in trainer.model.state_dict().items():
        if name in trained:
            assert torch.equal(value, trained[name]), name
    changed = {n for n, v in trainer.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(n.startswith(("roi_heads.mask_head", "roi_heads.weight_transfer")) for n in changed)
    # Masks come for all categories, and pictures are coloured by A and B.
    (root / "config.yaml").write_text(cfg.dump())
    loaded = load_model(str(root / "config.yaml"), str(root / "maskx" / "model_final.pth"))
    found = loaded.predict({"file_name": str(root / "visual_genome" / "VG_100K" / "1.jpg")})
    assert found.pred_masks.shape == (5, 64, 64)
    assert len(loaded.metadata.thing_classes) == NUM_CLASSES
    assert loaded.metadata.class_split.name == "coco80"


def test_the_data_sets_share_their_categories(root):
    coco = DatasetCatalog.get("toy_coco_2017_train_vg3k_coco80")
    boxes = DatasetCatalog.get("toy_visual_genome_train_coco80")
    for name in ("coco_2017_train_vg3k_coco80", "visual_genome_train_coco80"):
        metadata = MetadataCatalog.get(f"toy_{name}")
        assert metadata.thing_classes[:80] == COCO.thing_classes
        assert metadata.thing_classes[80:] == ["arm", "leaf", "tree", "wheel"]
        a, b = metadata.class_split.indices(metadata.thing_classes)
        assert (a, b) == (list(range(80)), [80, 81, 82, 83])
    assert [a["category_id"] for a in coco[0]["annotations"]] == [0, 1]
    assert all("segmentation" in a for a in coco[0]["annotations"])
    assert [a["category_id"] for a in boxes[0]["annotations"]] == [0, 1, 82, 83, 81, 80]
    assert not any("segmentation" in a for a in boxes[0]["annotations"])
    assert class_split_of("toy_visual_genome_val_coco80").name == "coco80"


def test_what_is_missing_is_an_error_that_says_what_to_do(root):
    categories = root / "visual_genome" / "annotations" / "categories.json"
    content = json.loads(categories.read_text())
    content["categories"][0]["name"] = "human"
    categories.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"'person' of .* has the id 1, which is 'human' in"):
        DatasetCatalog.get("toy_coco_2017_train_vg3k")
    categories.unlink()
    with pytest.raises(FileNotFoundError, match=r"needs .*json'; make it with datasets/make_vis"):
        DatasetCatalog.get("toy_coco_2017_train_vg3k")
    with pytest.raises(ValueError, match="'toy_coco_2017_val_vg3k' is registered already"):
        register_with_categories(
            "toy_coco_2017_val_vg3k", base="toy_coco_2017_val", categories_file=categories
        )


@pytest.mark.parametrize(
    ("depth", "solver"),
    [(50, (16, 0.02, (60000, 80000), 90000)), (101, (8, 0.01, (120000, 160000), 180000))],
)
def test_the_configs_are_the_papers(depth, solver):
    one = model_zoo.get_config(f"visual_genome/detector_R_{depth}_FPN.yaml")
    two = model_zoo.get_config(f"visual_genome/maskx_rcnn_R_{depth}_FPN.yaml")
    for cfg, expected in ((one, (8, 0.01, (120000, 160000), 180000)), (two, solver)):
        s = cfg.SOLVER
        assert (s.IMS_PER_BATCH, s.BASE_LR, s.STEPS, s.MAX_ITER) == expected
        assert cfg.MODEL.RESNETS.DEPTH == depth
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3001
    assert not one.MODEL.MASK_ON
    assert f"R-{depth}" in one.MODEL.WEIGHTS
    assert two.MODEL.WEIGHTS == f"{one.OUTPUT_DIR}/model_final.pth"
    maskx = two.MODEL.MASKX
    assert two.MODEL.ROI_HEADS.NAME == "MaskXROIHeads"
    assert maskx.FREEZE_DETECTOR and maskx.MLP_BRANCH and maskx.TRANSFER_INPUT == "cls+box"
    assert (one.DATASETS.TRAIN, two.DATASETS.TRAIN) == (
        ("visual_genome_train",),
        ("coco_2017_train_vg3k_coco80",),
    )
