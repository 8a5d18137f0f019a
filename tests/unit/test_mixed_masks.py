"""
Every kind of missing mask beside every kind of mask, through every augmentation.

What must come out is computed here from the transforms alone: boxes with ``apply_box``, polygons
with ``apply_polygons`` and shapely, bitmaps with ``apply_segmentation``.
"""

from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
import pytest
import shapely
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import transform_keypoint_annotations
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskx_d2.data import PartialMaskDatasetMapper

WIDTH, HEIGHT = 64, 48
HFLIP_INDICES = np.array([1, 0, 2])

#: What an annotation says if there is no mask; "no key" is a missing key.
MISSING = {
    "no key": "no key",
    "None": None,
    "empty": [],
    "two points": [[3.0, 3.0, 9.0, 9.0], [4.0, 4.0]],
    "odd": [[3.0, 3.0, 9.0, 9.0, 3.0, 9.0, 5.0]],
}


@dataclass
class Case:
    """One instance: its annotation, and the mask it ought to have (None: none)."""

    annotation: dict
    polygons: list | None = None
    bitmap: np.ndarray | None = None


def no_mask(box, category, segmentation, **kwargs):
    annotation = {
        "bbox": [float(v) for v in box],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
    }
    annotation.update(iscrowd=0, id=100 + category, **kwargs)
    if not (isinstance(segmentation, str) and segmentation == "no key"):
        annotation["segmentation"] = segmentation
    return Case(annotation)


def upper_half(box):
    x0, y0, x1, y1 = box
    middle = (y0 + y1) / 2
    return np.array([[x0, y0], [x1, y0], [x1, middle], [x0, middle]])


def polygon(box, category, bad_part=False, **kwargs):
    outline = upper_half(box)
    parts = [outline.ravel().tolist()]
    if bad_part:
        parts = [[1.0, 1.0, 2.0, 2.0], *parts, [0.0] * 7]
    return Case(no_mask(box, category, parts, **kwargs).annotation, polygons=[outline])


def bitmap(box, category, encoding, **kwargs):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    x0, y0, x1, y1 = (round(v) for v in box)
    mask[y0 : (y0 + y1 + 1) // 2, x0:x1] = 1
    segmentation = {
        "RLE": compressed,
        "uncompressed RLE": uncompressed,
        "array": lambda m: m.astype(bool),
    }[encoding](mask)
    return Case(no_mask(box, category, segmentation, **kwargs).annotation, bitmap=mask)


def compressed(mask):
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}  # as JSON has it


def uncompressed(mask):
    flat = mask.ravel(order="F").astype(int)
    ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    counts = np.diff([0, *ends]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def crowd(box, category):
    case = bitmap(box, category, "uncompressed RLE")
    case.annotation["iscrowd"] = 1
    return case


def make_mask(kind, box, category, **kwargs):
    if kind in ("polygon", "polygon with bad parts"):
        return polygon(box, category, bad_part=kind != "polygon", **kwargs)
    return bitmap(box, category, kind, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads would only wait for each other on images as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "image.png"
    pixels = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def fixed(augmentations, seed):
    """The transforms that the augmentations draw, which are the same however often applied."""
    np.random.seed(seed)
    augmentation = T.AugmentationList(augmentations)
    return augmentation(T.AugInput(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)))


def check(image_file, cases, transforms, mask_format, *, recompute_boxes=False, keypoints=False):
    """Map the instances and compare with what the transforms alone make of each of them."""
    mapper = PartialMaskDatasetMapper(
        is_train=True,
        augmentations=list(transforms.transforms),
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=mask_format,
        recompute_boxes=recompute_boxes,
        use_keypoint=keypoints,
        keypoint_hflip_indices=HFLIP_INDICES if keypoints else None,
    )
    sample = mapper(
        {
            "file_name": image_file,
            "image_id": 5,
            "height": HEIGHT,
            "width": WIDTH,
            "annotations": [c.annotation for c in cases],
        }
    )
    instances = sample["instances"]
    size = instances.image_size
    assert sample["image"].shape[1:] == size
    cases = [c for c in cases if not c.annotation["iscrowd"]]
    if not cases:
        assert len(instances) == 0
        return instances
    bitmaps = mask_format == "bitmask" or any(c.bitmap is not None for c in cases)
    assert isinstance(instances.gt_masks, BitMasks if bitmaps else PolygonMasks)
    assert instances.gt_has_mask.dtype == torch.bool

    survivors = 0
    for case in cases:
        box = transforms.apply_box(np.array([case.annotation["bbox"]], dtype=float))[0]
        box = np.clip(box, 0, [size[1], size[0]] * 2).astype(np.float32)
        if not _is_area(box) and not (recompute_boxes and _expected(case, transforms, size)[0]):
            continue
        assert survivors < len(instances), f"lost: {case}"
        one = instances[survivors]
        survivors += 1
        assert one.gt_classes.item() == case.annotation["category_id"]
        has_mask = one.gt_has_mask.item()
        tight = _check_mask(case, one, has_mask, transforms, bitmaps)
        if recompute_boxes and has_mask:
            box = tight
        np.testing.assert_allclose(one.gt_boxes.tensor[0].numpy(), box, atol=1e-3)
        if keypoints:
            points = np.zeros((3, 3))
            if case.annotation.get("keypoints"):
                points = transform_keypoint_annotations(
                    list(case.annotation["keypoints"]), transforms, size, HFLIP_INDICES
                )
            np.testing.assert_allclose(one.gt_keypoints.tensor[0].numpy(), points, rtol=1e-5)
    assert len(instances) == survivors, "an instance was invented"
    return instances


def _is_area(box):
    return box[2] - box[0] > 1e-5 and box[3] - box[1] > 1e-5


def _expected(case, transforms, size):
    """Whether a mask is left (None: a sliver, may be or not), and which: bitmap or geometry."""
    if case.bitmap is not None:
        mask = transforms.apply_segmentation(case.bitmap) == 1  # 255 is padding
        return bool(mask.any()), mask
    if case.polygons is None:
        return False, None
    polygons = transforms.apply_polygons([p.copy() for p in case.polygons])
    area = shapely.union_all([shapely.Polygon(p).buffer(0) for p in polygons])
    area = area.intersection(shapely.box(0, 0, size[1], size[0]))
    if area.is_empty or area.area == 0:
        return False, None
    return None if area.buffer(-1).is_empty else True, area


def _check_mask(case, one, has_mask, transforms, bitmaps):
    """Returns the tight box of the mask if there is one."""
    left, expected = _expected(case, transforms, one.image_size)
    assert has_mask == left or left is None, case
    if not has_mask:
        return None
    if not bitmaps:
        (polygons,) = one.gt_masks.polygons
        area = shapely.union_all([shapely.Polygon(p.reshape(-1, 2)).buffer(0) for p in polygons])
        assert area.symmetric_difference(expected).area < 1e-3 * (1 + expected.area), case
        return expected.bounds
    mask = one.gt_masks.tensor[0].numpy()
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(mask, expected)
    else:
        near, inner = expected.buffer(1.5), expected.buffer(-1.5)
        shapely.prepare([near, inner])
        assert shapely.contains_xy(near, xs[mask], ys[mask]).all(), case
        assert not shapely.contains_xy(inner, xs[~mask], ys[~mask]).any(), case
    x, y = xs[mask], ys[mask]
    return x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5


BOXES = [[4, 4, 24, 20], [28, 6, 60, 40], [6, 24, 26, 46]]
ORDERS = {
    "first": (False, True, True),
    "last": (True, True, False),
    "between": (True, False, True),
    "all": (False, False, False),
}
KINDS = ("polygon", "polygon with bad parts", "RLE", "uncompressed RLE", "array")
AUGMENTATIONS = {
    "none": [],
    "horizontal flip": [T.RandomFlip(prob=1.0)],
    "vertical flip": [T.RandomFlip(prob=1.0, horizontal=False, vertical=True)],
    "resize": [T.Resize((80, 100))],
    "crop": [T.RandomCrop("absolute", (26, 30))],
    "jitter": [T.ResizeScale(0.5, 2.0, 64, 64), T.FixedSizeCrop((64, 64))],
    "rotation": [T.RandomRotation([-60, 60])],
    "rotation in place": [T.RandomRotation([-60, 60], expand=False)],
    "extent": [T.RandomExtent((0.4, 0.9), (0.5, 0.5))],
    "brightness": [T.RandomBrightness(0.5, 1.5)],
}


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("kind", [*KINDS, "crowd beside"])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_table(image_file, name, kind, mask_format):
    """Half of all orders with all kinds of missing masks; the next kind of mask has the others."""
    parity = [*KINDS, "crowd beside"].index(kind) + (mask_format == "bitmask")
    present = "polygon" if kind == "crowd beside" else kind
    for seed, missing in enumerate(MISSING.values()):
        transforms = fixed(AUGMENTATIONS[name], seed)
        for order in list(ORDERS.values())[(seed + parity) % 2 :: 2]:
            cases = [
                make_mask(present, box, i) if masked else no_mask(box, i, missing)
                for i, (box, masked) in enumerate(zip(BOXES, order))
            ]
            if kind == "crowd beside":
                cases.insert(seed % 4, crowd([0, 0, 64, 24], 3))
            check(image_file, cases, transforms, mask_format, recompute_boxes=name == "crop")


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_all_with_masks_and_mixed_kinds(image_file, name, mask_format):
    for seed, kinds in enumerate([KINDS[:3], KINDS[2:], ("polygon",) * 3]):
        cases = [make_mask(k, box, i) for i, (k, box) in enumerate(zip(kinds, BOXES))]
        transforms = fixed(AUGMENTATIONS[name], seed)
        check(image_file, cases, transforms, mask_format, recompute_boxes=name == "crop")


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_keypoints_beside_masks(image_file, name, mask_format):
    points = [8.0, 8.0, 2.0, 20.0, 10.0, 1.0, 0.0, 0.0, 0.0]
    transforms = fixed(AUGMENTATIONS[name], 1)
    for keypoints in ([points, None, []], [None, points, "no key"], ["no key"] * 3):
        cases = [polygon(BOXES[0], 0), no_mask(BOXES[1], 1, None), polygon(BOXES[2], 2)]
        for case, value in zip(cases, keypoints):
            if value != "no key":
                case.annotation["keypoints"] = value
        check(image_file, cases, transforms, mask_format, keypoints=True)
        without = check(image_file, cases, transforms, mask_format)
        assert not without.has("gt_keypoints")


def test_a_mask_that_an_augmentation_moves_out_of_the_image_is_none(image_file):
    """Only crops cut polygons; here the box stays in the image by a corner and its mask leaves."""
    cases = [polygon([0, 0, 40, 40], 0), no_mask([2, 2, 20, 20], 1, None)]
    below_the_mask = T.TransformList([T.ExtentTransform((10, 24, 42, 48), (24, 32))])
    for mask_format in ("polygon", "bitmask"):
        instances = check(image_file, cases, below_the_mask, mask_format)
        assert instances.gt_has_mask.tolist() == [False]
        instances = check(image_file, cases, below_the_mask, mask_format, recompute_boxes=True)
        assert instances.gt_boxes.tensor.tolist() == [[0, 0, 30, 16]]


def test_recomputed_boxes_stay_in_the_image(image_file):
    cases = [polygon([10, 10, 40, 40], 0)]
    half_out = T.TransformList([T.ExtentTransform((20, 0, 52, 48), (48, 32))])
    for mask_format in ("polygon", "bitmask"):
        instances = check(image_file, cases, half_out, mask_format, recompute_boxes=True)
        assert instances.gt_boxes.tensor.tolist() == [[0, 10, 20, 25]]


@pytest.mark.parametrize("recompute_boxes", [False, True])
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_polygons_without_an_area_are_no_masks(image_file, mask_format, recompute_boxes):
    """All points on a line: the mask is empty as pixels, and its tight box would be dropped."""
    case = no_mask(BOXES[0], 0, [[4.0, 4.0, 24.0, 4.0, 10.0, 4.0]])
    check(
        image_file,
        [case, polygon(BOXES[1], 1)],
        T.TransformList([]),
        mask_format,
        recompute_boxes=recompute_boxes,
    )


# ------------------------------------------------------------------------------ property-based


@st.composite
def instance(draw):
    x0, y0 = draw(st.integers(0, WIDTH - 2)), draw(st.integers(0, HEIGHT - 2))
    box = [x0, y0, draw(st.integers(x0 + 1, WIDTH)), draw(st.integers(y0 + 1, HEIGHT))]
    category = draw(st.integers(0, 9))
    kind = draw(st.sampled_from([*MISSING, *KINDS, "crowd", "empty RLE"]))
    keypoints = {}
    if draw(st.booleans()):
        coordinates = st.sampled_from([0.0, 0.5, 17.0, 40.0])
        point = st.tuples(coordinates, coordinates, st.sampled_from([0.0, 1.0, 2.0]))
        points = draw(st.lists(point, min_size=3, max_size=3))
        keypoints = {"keypoints": [float(v) for p in points for v in p]}
    if kind in MISSING:
        case = no_mask(box, category, MISSING[kind], **keypoints)
    elif kind == "crowd":
        case = crowd(box, category)
    elif kind == "empty RLE":
        empty = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        case = no_mask(box, category, mask_util.encode(empty), **keypoints)
        case.bitmap = empty
    else:
        case = make_mask(kind, box, category, **keypoints)
    return case


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    cases=st.lists(instance(), max_size=6),
    names=st.lists(st.sampled_from(sorted(AUGMENTATIONS)), max_size=3),
    seed=st.integers(0, 10_000),
    mask_format=st.sampled_from(["polygon", "bitmask"]),
    recompute_boxes=st.booleans(),
    keypoints=st.booleans(),
)
def test_whatever_the_annotations_and_augmentations(
    image_file, cases, names, seed, mask_format, recompute_boxes, keypoints
):
    transforms = fixed([a for n in names for a in AUGMENTATIONS[n]], seed)
    check(
        image_file,
        cases,
        transforms,
        mask_format,
        recompute_boxes=recompute_boxes,
        keypoints=keypoints,
    )
