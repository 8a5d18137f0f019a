import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from maskx_d2.data import PartialMaskDatasetMapper

SIZE = 40
BOXES = {"a": [2, 2, 18, 18], "b": [20, 4, 38, 30], "c": [4, 22, 16, 36]}


def upper_half(box):
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, (y0 + y1) / 2, x0, (y0 + y1) / 2]]


def rle(box):
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    x0, y0, x1, y1 = box
    mask[y0 : (y0 + y1) // 2, x0:x1] = 1
    return mask_util.encode(mask)


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (SIZE, SIZE)).save(path)

    def make(segmentations):
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, "iscrowd": 0}
            for i, box in enumerate(BOXES.values())
        ]
        for annotation, segmentation in zip(annotations, segmentations):
            if not (isinstance(segmentation, str) and segmentation == "missing"):
                annotation["segmentation"] = segmentation
        return {
            "file_name": str(path),
            "image_id": 5,
            "height": SIZE,
            "width": SIZE,
            "annotations": annotations,
        }

    return make


def mapper(augmentations=(), mask_format="polygon", **kwargs):
    return PartialMaskDatasetMapper(
        is_train=True,
        augmentations=list(augmentations),
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=mask_format,
        **kwargs,
    )


ORDERS = {
    "A first": (True, False, True),
    "B first": (False, True, False),
    "only A": (True, True, True),
    "only B": (False, False, False),
}
AUGMENTATIONS = {
    "none": [],
    "flip": [T.RandomFlip(prob=1.0)],
    "resize": [T.Resize((80, 60))],
    "crop": [T.RandomCrop("absolute", (36, 36))],
    "LSJ": [T.ResizeScale(0.5, 1.0, 64, 64), T.FixedSizeCrop((64, 64))],
}


@pytest.mark.parametrize("augmentations", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("no_mask", ["missing", None, [], [[1, 1, 2, 2]]], ids=str)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_every_box_stays_and_every_mask_is_told(record, order, no_mask, mask_format, augmentations):
    np.random.seed(0)
    segmentations = [
        upper_half(box) if masked else no_mask for box, masked in zip(BOXES.values(), order)
    ]
    if mask_format == "bitmask":
        segmentations = [
            rle(box) if masked and box[0] == 2 else s
            for s, box, masked in zip(segmentations, BOXES.values(), order)
        ]
    instances = mapper(augmentations, mask_format)(record(segmentations))["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2]
    assert instances.gt_has_mask.tolist() == list(order)
    assert instances.gt_has_mask.dtype == torch.bool
    # A real mask covers half of its box; where there is none, nobody may rely on the stand-in.
    masks = instances.gt_masks.crop_and_resize(instances.gt_boxes.tensor, 28).float()
    for covered in masks[instances.gt_has_mask].mean(dim=(1, 2)):
        assert 0.35 < covered < 0.75


def test_a_crop_tightens_the_boxes_of_masks_and_clips_the_others(record):
    segmentations = [upper_half(BOXES["a"]), "missing", upper_half(BOXES["c"])]
    crop = [T.CropTransform(0, 0, 30, 40, SIZE, SIZE)]
    plain = mapper(crop)(record(segmentations))["instances"]
    tight = mapper(crop, recompute_boxes=True)(record(segmentations))["instances"]
    assert plain.gt_boxes.tensor.tolist() == [[2, 2, 18, 18], [20, 4, 30, 30], [4, 22, 16, 36]]
    assert tight.gt_boxes.tensor.tolist() == [[2, 2, 18, 10], [20, 4, 30, 30], [4, 22, 16, 29]]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("recompute_boxes", [False, True])
def test_what_is_cropped_away_goes_and_a_mask_cropped_away_leaves_its_box(
    record, recompute_boxes, mask_format
):
    def cropped(*args):
        crop = [T.CropTransform(*args, SIZE, SIZE)]
        segmentations = [upper_half(BOXES["a"]), "missing", upper_half(BOXES["c"])]
        mapped = mapper(crop, mask_format, recompute_boxes=recompute_boxes)(record(segmentations))
        return mapped["instances"]

    instances = cropped(0, 12, 40, 28)  # under the upper half of "a"
    assert instances.gt_classes.tolist() == [0, 1, 2]
    assert instances.gt_has_mask.tolist() == [False, False, True]
    assert instances.gt_boxes.tensor[0].tolist() == [2, 0, 18, 6]
    assert cropped(19, 0, 21, 40).gt_classes.tolist() == [1]


def test_bitmaps_are_masks_too(record):
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[2:10, 2:18] = True
    instances = mapper(mask_format="bitmask")(record([mask, "missing", "missing"]))["instances"]
    assert instances.gt_has_mask.tolist() == [True, False, False]
    assert instances.gt_masks.tensor[0].numpy().tolist() == mask.tolist()


def test_equals_stock_mapper_where_every_instance_has_a_mask(record):
    data = record([upper_half(box) for box in BOXES.values()])
    augmentations = [T.Resize((60, 80))]
    ours = mapper(augmentations)(data)["instances"]
    stock = DatasetMapper(
        is_train=True, augmentations=augmentations, image_format="BGR", use_instance_mask=True
    )(data)["instances"]
    assert ours.gt_has_mask.all()
    assert torch.equal(ours.gt_boxes.tensor, stock.gt_boxes.tensor)
    for mine, theirs in zip(ours.gt_masks.polygons, stock.gt_masks.polygons):
        np.testing.assert_array_equal(mine, theirs)


def test_images_without_annotations_and_crowds(record):
    data = record([upper_half(box) for box in BOXES.values()])
    data["annotations"][1]["iscrowd"] = 1
    assert mapper()(data)["instances"].gt_classes.tolist() == [0, 2]
    data["annotations"] = []
    assert len(mapper()(data)["instances"]) == 0


def test_without_masks_it_is_the_stock_mapper(record):
    box_only = PartialMaskDatasetMapper(is_train=True, augmentations=[], image_format="BGR")
    instances = box_only(record(["missing", upper_half(BOXES["b"]), []]))["instances"]
    assert len(instances) == 3
    assert not instances.has("gt_masks")


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_an_image_with_rle_gets_bitmasks_in_either_format(record, mask_format):
    segmentations = [rle(BOXES["a"]), "missing", upper_half(BOXES["c"])]
    instances = mapper(mask_format=mask_format)(record(segmentations))["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_has_mask.tolist() == [True, False, True]
    for i, name in ((0, "a"), (2, "c")):
        expected = mask_util.decode(rle(BOXES[name])).tolist()
        assert instances.gt_masks.tensor[i].int().tolist() == expected


def test_rle_of_a_crowd_does_not_count(record):
    data = record([rle(BOXES["a"]), "missing", upper_half(BOXES["c"])])
    data["annotations"][0]["iscrowd"] = 1
    assert isinstance(mapper()(data)["instances"].gt_masks, PolygonMasks)


@pytest.mark.parametrize("encode", [mask_util.encode, lambda m: m], ids=["RLE", "array"])
def test_a_mask_of_another_size_is_named(record, encode):
    data = record(["missing", encode(np.zeros((SIZE, 7), dtype=np.uint8, order="F")), "missing"])
    data["annotations"][1]["id"] = 81
    with pytest.raises(ValueError, match=r"image 5, annotation 81: the mask is of \(40, 7\)"):
        mapper()(data)


@pytest.mark.parametrize("given", [[True, False, False], [False, True, False], [False] * 3])
@pytest.mark.parametrize("missing", ["no key", None, []], ids=str)
def test_instances_without_keypoints_get_invisible_ones(record, given, missing):
    data = record([upper_half(BOXES["a"]), "missing", upper_half(BOXES["c"])])
    for annotation, has_keypoints in zip(data["annotations"], given):
        keypoints = np.array([5.0, 6.0, 2.0, 9.0, 8.0, 1.0]) if has_keypoints else missing
        if not (isinstance(keypoints, str) and keypoints == "no key"):
            annotation["keypoints"] = keypoints
    make = mapper([T.RandomFlip(prob=1.0)], use_keypoint=True, keypoint_hflip_indices=[1, 0])
    instances = make(data)["instances"]
    assert instances.gt_has_mask.tolist() == [True, False, True]
    flipped = [[SIZE - 9.0, 8.0, 1.0], [SIZE - 5.0, 6.0, 2.0]]
    nothing = [[0.0] * 3] * 2
    expected = [flipped if has_keypoints else nothing for has_keypoints in given]
    assert instances.gt_keypoints.tensor.tolist() == expected


def test_a_missing_image_is_named(record):
    data = record(["missing"] * 3)
    data["file_name"] = "/nowhere/1.png"
    with pytest.raises(FileNotFoundError, match=r"image 5: file '/nowhere/1\.png' does not exist"):
        mapper()(data)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_mask_is_there_as_often_as_its_weight_says(record, mask_format):
    data = record([upper_half(box) for box in BOXES.values()])
    data["annotations"][0]["mask_weight"] = 0.3
    data["annotations"][2]["mask_weight"] = 0.0
    found = []
    for seed in range(200):
        np.random.seed(seed)
        found.append(mapper(mask_format=mask_format)(data)["instances"])
    assert all(len(instances) == 3 for instances in found), "the boxes stay"
    there = torch.stack([instances.gt_has_mask for instances in found]).float().mean(0)
    assert 0.2 < there[0] < 0.4 and there[1] == 1 and there[2] == 0


def test_without_weights_no_random_number_is_drawn(record):
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    mapper()(record([upper_half(box) for box in BOXES.values()]))
    assert np.random.random() == expected


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), "1", None, True])
def test_what_is_no_weight_is_named(record, weight):
    data = record([upper_half(box) for box in BOXES.values()])
    data["annotations"][1].update(mask_weight=weight, id=81)
    with pytest.raises(ValueError, match="image 5, annotation 81: mask_weight is "):
        mapper()(data)


def test_the_padding_of_large_scale_jitter_is_no_object(record):
    jitter = [T.FixedSizeCrop((64, 56))]
    for recompute_boxes in (False, True):
        one = mapper(jitter, recompute_boxes=recompute_boxes)(record([rle(BOXES["a"])]))
        first = one["instances"][0]
        assert first.gt_masks.tensor.sum() == 16 * 8
        bottom = 10 if recompute_boxes else 18
        assert first.gt_boxes.tensor.tolist() == [[2, 2, 18, bottom]]


def test_a_crop_leaves_the_boxes_of_masks_that_were_made(record):
    made = record([rle(BOXES["a"]), upper_half(BOXES["b"])])
    made["annotations"][0] |= {"mask_source": "grabcut", "mask_weight": 0.0}
    made["annotations"][1] |= {"mask_source": "model"}
    crop = [T.CropTransform(10, 0, 30, 40)]
    instances = mapper(crop, recompute_boxes=True)(made)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 2, 8, 18], [10, 4, 28, 30], [0, 22, 6, 36]]
    assert instances.gt_has_mask.tolist() == [False, True, False]


def test_the_box_of_a_real_mask_does_not_hang_on_the_draw_of_its_weight(record):
    weighted = record([rle(BOXES["a"])])
    weighted["annotations"][0]["mask_weight"] = 0.0
    instances = mapper(recompute_boxes=True)(weighted)["instances"]
    assert instances.gt_boxes.tensor[0].tolist() == [2, 2, 18, 10]
    assert not instances.gt_has_mask[0]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [SIZE, SIZE], "counts": [100, 50]}, "150 pixels long"),
        ({"size": [SIZE, SIZE], "counts": b"T3b1"}, "pixels long"),
        ({"size": [SIZE, SIZE]}, "counts are None"),
        ([[[2, 2], [18, 2], [18, 9]]], "not a list of numbers"),
        ([[2, 2, 18, None, 18, 9]], "no finite number"),
        ([[None, 2, 18, 2, 18, 9]], "not a list of numbers"),
    ],
)
def test_a_mask_that_cannot_be_read_is_named(record, segmentation, message):
    with pytest.raises(ValueError, match=f"^image 5, annotation None: .*{message}"):
        mapper()(record([segmentation]))


def test_empty_counts_are_no_mask(record):
    empty = record([{"size": [SIZE, SIZE], "counts": ""}, upper_half(BOXES["b"])])
    assert mapper()(empty)["instances"].gt_has_mask.tolist() == [False, True, False]


def test_polygons_on_the_border_need_no_geometry(record, monkeypatch):
    monkeypatch.setattr(T.CropTransform, "apply_polygons", None)
    beyond = SIZE + 1e-13
    border = [[20, 4, beyond, 4, beyond, beyond, 20, beyond]]
    instances = mapper()(record(["missing", border]))["instances"]
    assert instances.gt_has_mask.tolist() == [False, True, False]
    assert instances.gt_masks.polygons[1][0].max() == SIZE
