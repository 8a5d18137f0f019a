"""
Missing masks side by side: what detectron2 makes of them, and what this package does.

docs/MISSING_MASKS.md has the same table. Where the half about detectron2 fails, detectron2 has
changed: look at whether the package still has to do something about it.
"""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from maskx_d2.data import PartialMaskDatasetMapper, register_partial
from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.visualization import draw_annotations

SIZE = 64
BOXES = [[4.0, 4.0, 36.0, 28.0], [24.0, 20.0, 60.0, 60.0]]
POLYGON = "polygon"
NO_KEY = "no key"


def outline(box):
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def bitmap(box):
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    x0, y0, x1, y1 = map(int, box)
    mask[y0:y1, x0:x1] = 1
    return mask


RLE = mask_util.encode(bitmap(BOXES[0]))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads would only wait for each other on models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (SIZE, SIZE), (90, 120, 40)).save(path)

    def make(segmentations, keypoints=()):
        annotations = [
            {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, "iscrowd": 0}
            for i, box in enumerate(BOXES)
        ]
        for annotation, segmentation in zip(annotations, segmentations):
            if isinstance(segmentation, str) and segmentation == POLYGON:
                annotation["segmentation"] = outline(annotation["bbox"])
            elif not isinstance(segmentation, str):
                annotation["segmentation"] = segmentation
        for annotation, points in zip(annotations, keypoints):
            if points is not None:
                annotation["keypoints"] = points
        return {
            "file_name": str(path),
            "image_id": 1,
            "height": SIZE,
            "width": SIZE,
            "annotations": annotations,
        }

    return make


def mapped(mapper_class, data, augmentations=(), **kwargs):
    mapper = mapper_class(
        is_train=True,
        augmentations=list(augmentations),
        image_format="BGR",
        use_instance_mask=True,
        **kwargs,
    )
    return mapper(data)


def stock(*args, **kwargs):
    return mapped(DatasetMapper, *args, **kwargs)


def ours(*args, **kwargs):
    return mapped(PartialMaskDatasetMapper, *args, **kwargs)


def model_with(roi_heads):
    torch.manual_seed(0)
    cfg = tiny_cfg(
        "coco/voc2nonvoc/oracle_R_50_FPN_1x.yaml",
        *("MODEL.ROI_HEADS.NAME", roi_heads),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    )
    return build_model(cfg).train()


@pytest.fixture(scope="module")
def stock_model():
    return model_with("StandardROIHeads")


@pytest.fixture(scope="module")
def our_model():
    return model_with("SupervisedMasksROIHeads")


# The segmentations of two instances; what detectron2's mapper does: an error, or which instances
# are left and if there are masks; which of them have a mask here.
SITUATIONS = {
    "the first lacks the key": ([NO_KEY, POLYGON], ([0, 1], False), [False, True]),
    "a later one lacks the key": ([POLYGON, NO_KEY], (KeyError, "segmentation"), [True, False]),
    "no mask in the image": ([NO_KEY, NO_KEY], ([0, 1], False), [False, False]),
    "the first is empty": ([[], POLYGON], ([1], True), [False, True]),
    "a later one is empty": ([POLYGON, []], ([0], True), [True, False]),
    "all are empty": ([[], []], ([], True), [False, False]),
    "None": ([POLYGON, None], (ValueError, "segmentation of type '.*NoneType"), [True, False]),
    "two points": (
        [POLYGON, [[1.0, 1.0, 9.0, 9.0]]],
        (ValueError, "Failed to use mask_format=='polygon'"),
        [True, False],
    ),
    "an odd number of coordinates": (
        [POLYGON, [[1.0, 1.0, 9.0, 9.0, 1.0, 9.0, 4.0]]],
        (ValueError, "cannot reshape array"),
        [True, False],
    ),
    "RLE beside polygons": (
        [RLE, POLYGON],
        (ValueError, "Failed to use mask_format=='polygon'"),
        [True, True],
    ),
    "an array": (
        [bitmap(BOXES[0]), NO_KEY],
        (ValueError, "segmentation of type '.*ndarray"),
        [True, False],
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_one_image(record, situation):
    segmentations, of_stock, has_mask = SITUATIONS[situation]
    data = record(segmentations)
    if isinstance(of_stock[0], type):
        error, message = of_stock
        with pytest.raises(error, match=message):
            stock(data)
    else:
        left, masks = of_stock
        instances = stock(data)["instances"]
        assert instances.gt_classes.tolist() == left
        assert instances.has("gt_masks") == masks
    instances = ours(data)["instances"]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_boxes.tensor.tolist() == BOXES
    assert instances.gt_has_mask.tolist() == has_mask


def test_all_of_them_in_one_batch_train(record, our_model, storage):
    batch = [ours(record(segmentations)) for segmentations, _, _ in SITUATIONS.values()]
    assert {type(b["instances"].gt_masks).__name__ for b in batch} == {"BitMasks", "PolygonMasks"}
    losses = our_model(batch)
    assert losses["loss_mask"] > 0
    assert all(v.isfinite() for v in losses.values())
    assert storage.latest()["mask_head/num_supervised_rois"][0] > 0


@pytest.mark.parametrize("without", [[NO_KEY, NO_KEY], [NO_KEY, POLYGON]], ids=["none", "mixed"])
def test_an_image_that_lost_its_masks_in_a_batch(record, stock_model, our_model, storage, without):
    data = [record([POLYGON, POLYGON]), record(without)]
    with pytest.raises(AttributeError, match="gt_masks"):
        stock_model([stock(d) for d in data])
    losses = our_model([ours(d) for d in data])
    assert losses["loss_mask"] > 0
    assert all(v.isfinite() for v in losses.values())


def test_crop_that_recomputes_boxes(record):
    """INPUT.CROP does that."""
    crop = [T.CropTransform(0, 0, 48, 64, SIZE, SIZE)]
    with pytest.raises(AttributeError, match="gt_masks"):
        stock(record([NO_KEY, NO_KEY]), crop, recompute_boxes=True)
    left = stock(record([POLYGON, []]), crop, recompute_boxes=True)["instances"]
    assert left.gt_classes.tolist() == [0]
    for segmentations in ([NO_KEY, NO_KEY], [POLYGON, []]):
        instances = ours(record(segmentations), crop, recompute_boxes=True)["instances"]
        assert instances.gt_boxes.tensor.tolist() == [BOXES[0], [24, 20, 48, 60]]


def test_a_mask_that_is_cropped_away(record):
    """The box stays in the crop and the mask does not."""
    left_half = [[4.0, 4.0, 16.0, 4.0, 16.0, 28.0, 4.0, 28.0]]
    crop = [T.CropTransform(20, 0, 44, 64, SIZE, SIZE)]
    assert stock(record([left_half, POLYGON]), crop)["instances"].gt_classes.tolist() == [1]
    instances = ours(record([left_half, POLYGON]), crop)["instances"]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_has_mask.tolist() == [False, True]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_mask_that_is_moved_out_of_the_image(record, mask_format):
    left_half = [[4.0, 4.0, 16.0, 4.0, 16.0, 28.0, 4.0, 28.0]]
    shift = [T.ExtentTransform((20, 0, 84, 64), (SIZE, SIZE))]
    data = record([left_half, POLYGON])
    instances = stock(data, shift, instance_mask_format=mask_format)["instances"]
    left = [0, 1] if mask_format == "polygon" else [1]  # polygons stay, though they are outside
    assert instances.gt_classes.tolist() == left
    instances = ours(data, shift, instance_mask_format=mask_format)["instances"]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_has_mask.tolist() == [False, True]


def test_keypoints_of_some_instances(record):
    points = [8.0, 8.0, 2.0, 12.0, 9.0, 1.0]
    kwargs = {"use_keypoint": True, "keypoint_hflip_indices": np.array([1, 0])}
    with pytest.raises(ValueError, match="expected sequence of length 2"):
        stock(record([POLYGON, POLYGON], [points, None]), **kwargs)
    first_lacks = stock(record([POLYGON, POLYGON], [None, points]), **kwargs)["instances"]
    assert not first_lacks.has("gt_keypoints")
    for keypoints in ([points, None], [None, points], [None, None]):
        instances = ours(record([POLYGON, NO_KEY], keypoints), **kwargs)["instances"]
        visible = (instances.gt_keypoints.tensor[:, :, 2] > 0).any(dim=1)
        assert visible.tolist() == [k is not None for k in keypoints]


# ---------------------------------------------------------------------------------- COCO JSON


def register_base(folder, unusable):
    """A COCO JSON file as "base"; the masks of the given categories are replaced or (None) gone."""
    json_file, images = write_coco(folder)
    content = json.loads(json_file.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    for annotation in content["annotations"]:
        name = names[annotation["category_id"]]
        if name in unusable:
            annotation["segmentation"] = unusable[name]
            if unusable[name] is None:
                del annotation["segmentation"]
    json_file.write_text(json.dumps(content))
    register_coco_instances("base", {}, str(json_file), str(images))
    return json_file


TWO_POINTS = [[1.0, 1.0, 9.0, 9.0]]


@pytest.mark.usefixtures("no_registration_left")
def test_loading_a_coco_json(tmp_path):
    json_file = register_base(tmp_path, {"dog": TWO_POINTS, "cup": None})

    def count(records):
        return [
            (len(r["annotations"]), sum("segmentation" in a for a in r["annotations"]))
            for r in records
        ]

    assert count(load_coco_json(str(json_file), "", "base")) == [(3, 2)] * 4
    register_partial("all boxes", base="base")
    assert count(DatasetCatalog.get("all boxes")) == [(4, 2)] * 4


def evaluated(evaluator_class, dataset_name, records):
    """The results of a detector that finds every box, with a mask that fills it."""
    evaluator = evaluator_class(dataset_name, tasks=("bbox", "segm"), distributed=False)
    evaluator.reset()
    for r in records:
        boxes = [BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in r]
        found = Instances((48, 64))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        found.pred_classes = torch.tensor([(a["category_id"] - 1) // 3 for a in r])
        found.scores = torch.ones(len(r))
        masks = torch.zeros(len(r), 48, 64, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[y0:y1, x0:x1] = True
        found.pred_masks = masks
        evaluator.process([{"image_id": r[0]["image_id"]}], [{"instances": found}])
    return evaluator.evaluate()


@pytest.mark.usefixtures("no_registration_left")
@pytest.mark.parametrize(
    ("mask", "error"), [(None, KeyError), ([], IndexError), (TWO_POINTS, TypeError)], ids=str
)
def test_evaluation(tmp_path, mask, error):
    annotations = json.loads(register_base(tmp_path, {"cup": mask}).read_text())["annotations"]
    records = [[a for a in annotations if a["image_id"] == i] for i in range(1, 5)]
    DatasetCatalog.get("base")
    with pytest.raises(error):
        evaluated(COCOEvaluator, "base", records)
    results = evaluated(SplitCOCOEvaluator, "base", records)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100), "of those that have a mask"
    assert np.isnan(results["segm"]["AP-cup"]), "which has none"


# -------------------------------------------------------------------------------- visualiser


def test_drawing(record):
    def drawn(segmentations):
        np.random.seed(0)  # of the colours
        visualizer = Visualizer(pixels, metadata)
        return visualizer.draw_dataset_dict(record(segmentations)).get_image()

    pixels = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
    metadata = MetadataCatalog.get("drawn")
    with pytest.raises(KeyError, match="segmentation"):
        drawn([POLYGON, NO_KEY])
    assert (drawn([NO_KEY, POLYGON]) == drawn([NO_KEY, NO_KEY])).all(), "the mask is not drawn"

    def drawn_here(segmentations):
        return draw_annotations(pixels, record(segmentations)["annotations"], metadata)

    for mixed in ([POLYGON, NO_KEY], [NO_KEY, POLYGON]):
        assert (drawn_here(mixed) != drawn_here([NO_KEY, NO_KEY])).any()
    MetadataCatalog.remove("drawn")
