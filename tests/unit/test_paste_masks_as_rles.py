"""Masks pasted as run lengths, against detectron2's bitmaps encoded by pycocotools."""

import numpy as np
import pytest
import torch
from detectron2.layers import mask_ops, paste_masks_in_image
from pycocotools import mask as mask_util

from maskx_d2.postprocessing import (
    RLEMasks,
    changes_of_crop,
    encode_changes,
    paste,
    paste_masks_as_rles,
)

SIZES = [(48, 64), (64, 48), (1, 70), (90, 1), (211, 307)]


def stock(masks, boxes, image_size, threshold=0.5):
    """What detectron2 and its COCO evaluator make of the masks."""
    return [
        mask_util.encode(np.array(bitmap[:, :, None], order="F", dtype="uint8"))[0]
        for bitmap in paste_masks_in_image(masks, boxes, image_size, threshold)
    ]


def stock_on_a_gpu(masks, boxes, image_size, threshold=0.5):
    """The same where detectron2 samples the whole image, which it does on GPUs."""
    values, _ = mask_ops._do_paste_mask(masks[:, None], boxes, *image_size, skip_empty=False)
    return [
        mask_util.encode(np.asfortranarray(bitmap.numpy(), dtype=np.uint8))
        for bitmap in values >= threshold
    ]


def as_bytes(masks):
    assert isinstance(masks, RLEMasks)
    return [{**rle, "counts": rle["counts"].encode()} for rle in masks.rles]


def random_masks(rng, n, side=28):
    """Blobs, noise, what fills the box, what is nowhere, and values at the very threshold."""
    noise = rng.random((n, side, side), dtype=np.float32)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    blobs = 1 / (1 + np.exp(-8 * (rng.uniform(0.2, 1.2, (n, 1, 1)) - np.hypot(x, y))))
    kinds = [noise, blobs, np.ones_like(noise), np.zeros_like(noise), np.round(2 * noise) / 2]
    chosen = rng.integers(len(kinds), size=n)
    return torch.from_numpy(
        np.stack([kinds[k][i] for i, k in enumerate(chosen)]).astype(np.float32)
    )


def random_boxes(rng, n, image_size):
    """
    Of all kinds that postprocessing leaves, and some that it does not.

    Anywhere inside; on the border; from border to border; on whole pixels; narrower than a pixel,
    between two pixel centres as well; over the border.
    """
    size = np.array([image_size[1], image_size[0]], dtype=np.float64)
    low = rng.uniform(0, size, (n, 2))
    high = low + rng.uniform(0, 1, (n, 2)) ** 2 * (size - low)
    boxes = np.concatenate([low, high], axis=1)
    kinds = rng.integers(8, size=n)
    boxes[kinds == 1, :2] = 0
    boxes[kinds == 2, 2:] = size
    boxes[kinds == 3] = [0, 0, *size]
    boxes[kinds == 4] = np.round(boxes[kinds == 4])
    tiny = kinds == 5
    boxes[tiny, 2:] = boxes[tiny, :2] + 10.0 ** rng.uniform(-6, 0, (tiny.sum(), 2))
    over = kinds == 6
    boxes[over] += rng.uniform(-0.6, 0.6, (over.sum(), 4)) * np.tile(size, 2)
    full_height = kinds == 7
    boxes[full_height, 1], boxes[full_height, 3] = 0, size[1]
    # At least something in each direction, and something of it in the image.
    boxes[:, :2] = np.minimum(boxes[:, :2], size - 1e-3)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], np.maximum(boxes[:, :2], 0) + 1e-6)
    return torch.from_numpy(boxes.astype(np.float32))


@pytest.mark.parametrize("image_size", SIZES, ids=str)
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.0, 1.0])
def test_the_same_strings_as_detectron2_and_pycocotools(image_size, threshold):
    runs = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        masks, boxes = random_masks(rng, 16), random_boxes(rng, 16, image_size)
        expected = stock(masks, boxes, image_size, threshold)
        assert as_bytes(paste_masks_as_rles(masks, boxes, image_size, threshold)) == expected
        runs += sum(len(rle["counts"]) for rle in expected)
    assert runs > 12 * 16 * 2, "the control: there is something on the images"


@pytest.mark.parametrize("side", [1, 7, 14, 56])
def test_other_sides_of_masks_and_a_mask_that_takes_several_goes(side):
    rng = np.random.default_rng(side)
    masks, boxes = random_masks(rng, 12, side), random_boxes(rng, 12, (403, 507))
    boxes[0] = torch.tensor([0.0, 0.0, 507.0, 403.0])
    masks[0] = torch.rand(side, side)
    assert 403 * 507 > 3 * paste._PIXELS_IN_CACHE
    assert as_bytes(paste_masks_as_rles(masks, boxes, (403, 507))) == stock(
        masks, boxes, (403, 507)
    )


def test_an_image_higher_than_what_is_sampled_at_once(monkeypatch):
    monkeypatch.setattr(paste, "_PIXELS_IN_CACHE", 32)
    rng = np.random.default_rng(0)
    masks, boxes = random_masks(rng, 20), random_boxes(rng, 20, (70, 50))
    assert as_bytes(paste_masks_as_rles(masks, boxes, (70, 50))) == stock(masks, boxes, (70, 50))


@pytest.mark.parametrize("image_size", SIZES, ids=str)
def test_the_way_of_gpus_gives_detectron2s_bitmaps_of_that_device(image_size, monkeypatch):
    monkeypatch.setattr(paste, "_changes_by_crops", paste._changes_by_bitmaps)
    monkeypatch.setattr(paste, "_PIXELS_ON_DEVICE", 3 * image_size[0] * image_size[1])

    def on_a_gpu(masks, boxes, size, threshold):
        values, _ = mask_ops._do_paste_mask(masks[:, None], boxes, *size, skip_empty=False)
        return values >= threshold

    for seed in range(6):
        rng = np.random.default_rng(seed)
        masks, boxes = random_masks(rng, 16), random_boxes(rng, 16, image_size)
        rles = as_bytes(paste_masks_as_rles(masks, boxes, image_size))
        assert rles == stock(masks, boxes, image_size)
        with monkeypatch.context() as patch:
            patch.setattr(paste, "paste_masks_in_image", on_a_gpu)
            rles = as_bytes(paste_masks_as_rles(masks, boxes, image_size))
        assert rles == stock_on_a_gpu(masks, boxes, image_size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_on_a_gpu(threshold):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        masks, boxes = random_masks(rng, 40).cuda(), random_boxes(rng, 40, (211, 307)).cuda()
        bitmaps = paste_masks_in_image(masks, boxes, (211, 307), threshold)
        expected = RLEMasks.from_bitmaps(bitmaps).rles
        assert paste_masks_as_rles(masks, boxes, (211, 307), threshold).rles == expected


@pytest.mark.parametrize(
    ("of_masks", "of_boxes"),
    [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.uint8, torch.float32)],
    ids=str,
)
def test_other_types_are_what_detectron2_makes_of_them(of_masks, of_boxes):
    rng = np.random.default_rng(0)
    masks, boxes = random_masks(rng, 20).to(of_masks), random_boxes(rng, 20, (48, 64)).to(of_boxes)
    assert as_bytes(paste_masks_as_rles(masks, boxes, (48, 64))) == stock(masks, boxes, (48, 64))


def test_no_masks_and_grey_values():
    for dtype in (torch.float32, torch.float64):
        masks, boxes = torch.zeros(0, 28, 28, dtype=dtype), torch.zeros(0, 4, dtype=dtype)
        nothing = paste_masks_as_rles(masks, boxes, (48, 64))
        assert nothing.rles == [] and nothing.shape == (0, 48, 64)
    with pytest.raises(ValueError, match="grey values have no RLE"):
        paste_masks_as_rles(torch.zeros(1, 28, 28), torch.ones(1, 4), (48, 64), -1)


@pytest.mark.parametrize("height", [1, 5])
def test_every_crop_of_every_small_image(height):
    rng = np.random.default_rng(0)
    width = 4
    for x0, y0, x1, y1 in np.ndindex(width, height, width + 1, height + 1):
        if x1 < x0 or y1 < y0:
            continue
        for share in (0.0, 0.5, 0.9, 1.0):
            bitmap = np.zeros((height, width), dtype=np.uint8)
            bitmap[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < share
            columns = np.zeros((x1 - x0, y1 - y0 + 1), dtype=bool)
            columns[:, :-1] = bitmap[y0:y1, x0:x1].T
            changes = changes_of_crop(columns, (x0, y0), height)
            assert (np.diff(changes) > 0).all()
            (rle,) = encode_changes([changes], (height, width))
            expected = mask_util.encode(np.asfortranarray(bitmap))
            assert rle == {"size": [height, width], "counts": expected["counts"].decode()}


def test_rle_masks_are_used_as_the_tensor_that_they_stand_for():
    bitmaps = torch.rand(5, 6, 9) > 0.5
    masks = RLEMasks.from_bitmaps(bitmaps)
    assert len(masks) == 5 and masks.shape == bitmaps.shape
    assert masks.tensor.dtype == torch.bool and torch.equal(masks.tensor, bitmaps)
    assert np.array_equal(np.asarray(masks), bitmaps.numpy())
    assert all(torch.equal(a, b) for a, b in zip(masks, bitmaps, strict=True))
    assert torch.equal(masks[-1], bitmaps[-1]) and torch.equal(masks[torch.tensor(2)], bitmaps[2])
    keep = torch.tensor([True, False, True, True, False])
    for item in (slice(1, 4), keep, torch.tensor([3, 0, 3]), [4, 1], np.array([2]), slice(0, 0)):
        assert torch.equal(masks[item].tensor, bitmaps[item])
    assert torch.equal(RLEMasks.cat([masks[:2], masks[2:]]).tensor, bitmaps)
    assert masks.to("cpu", non_blocking=True) is masks
    assert repr(masks) == "RLEMasks(5 of 6 × 9)"
    for item in (5, -6, (slice(None), 0)):
        with pytest.raises(IndexError):
            masks[item]
