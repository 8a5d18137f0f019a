import builtins

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskx_d2.pseudo_masks.boxes import box_pixels
from maskx_d2.pseudo_masks.grabcut import grabcut_mask


def disk(height=90, width=120, center=(45, 60), radius=20, seed=0):
    """A noisy image with a disk of another colour, the disk, and its box."""
    image = np.random.default_rng(seed).normal(90, 10, (height, width, 3))
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2
    image[inside] += (70, -30, 20)
    box = [center[1] - radius, center[0] - radius, 2 * radius, 2 * radius]
    return image.clip(0, 255).astype(np.uint8), inside, box


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("max_side", [1000, 60])
@pytest.mark.parametrize("center", [(45, 60), (20, 20), (70, 100)])
def test_an_object_of_another_colour_is_found(max_side, center):
    image, inside, box = disk(center=center)
    mask = grabcut_mask(image, box, max_side=max_side, margin=0.5)
    assert mask.dtype == bool and mask.shape == inside.shape
    assert iou(mask, inside) > (0.95 if max_side == 1000 else 0.9)


def test_nothing_is_set_outside_the_box():
    image, inside, (x, y, w, h) = disk()
    box = [x + 0.7, y + 1.2, w - 2.1, h - 1.6]
    x0, y0, x1, y1 = box_pixels(box, *inside.shape)
    for max_side in range(20, 100, 7):
        mask = grabcut_mask(image, box, max_side=max_side, margin=0.5)
        assert mask.any()
        mask[y0:y1, x0:x1] = False
        assert not mask.any()


def test_the_same_seed_gives_the_same_mask_whatever_was_done_before():
    # Squares of many colours, so that it matters which of them a colour model starts from.
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3)).repeat(8, 0).repeat(8, 1)
    image = image.astype(np.uint8)

    def found(seed):
        mask = grabcut_mask(image, [15, 15, 50, 40], seed=seed, iterations=1, min_fill=0)
        return b"" if mask is None else mask.tobytes()

    first = found(5)
    assert len({found(seed) for seed in range(20)}) > 1  # the seed is used
    assert found(5) == first


def test_the_image_is_not_changed():
    image, _, box = disk()
    before = image.copy()
    grabcut_mask(image, box)
    assert (image == before).all()


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ([0, 0, 120, 90], "no background around the box"),
        ([10, 10, 0, 5], "no area"),
        ([120, 10, 5, 5], "outside the image"),
    ],
)
def test_where_there_is_nothing_to_find(box, why):
    image, _, _ = disk()
    assert grabcut_mask(image, box) is None, why


def test_a_mask_that_fills_too_little_of_its_box_is_none():
    image, inside, _ = disk(radius=6)
    box = [30, 15, 60, 60]
    assert iou(grabcut_mask(image, box, min_fill=0), inside) > 0.8
    assert grabcut_mask(image, box, min_fill=0.1) is None


def test_a_uniform_image_has_no_object():
    assert grabcut_mask(np.full((40, 40, 3), 128, np.uint8), [10, 10, 15, 15]) is None


@given(
    st.tuples(*[st.floats(-20, 80)] * 2, *[st.floats(0, 90)] * 2),
    st.integers(1, 60),
    st.integers(1, 60),
)
def test_box_pixels_are_at_least_one_and_in_the_image(box, height, width):
    x, y, w, h = box
    pixels = box_pixels(box, height, width)
    touches = w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
    assert (pixels is not None) == touches
    if pixels:
        x0, y0, x1, y1 = pixels
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        # No side is off by a pixel, where the box is not thinner.
        assert x0 >= min(x, width - 1) - 1 and x1 <= max(x + w, x0 + 0.5) + 0.5
        assert y0 >= min(y, height - 1) - 1 and y1 <= max(y + h, y0 + 0.5) + 0.5


def test_box_pixels_round():
    assert box_pixels([2.4, 3.6, 5.0, 4.0], 20, 20) == (2, 4, 7, 8)
    assert box_pixels([19.7, 5.1, 0.2, 0.2], 20, 20) == (19, 5, 20, 6)


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\) image, not"):
        grabcut_mask(np.zeros(shape, np.uint8), [1, 1, 4, 4])


def test_without_opencv_it_says_what_to_install(monkeypatch):
    def no_cv2(name, *args, load=builtins.__import__, **kwargs):
        if name == "cv2":
            raise ImportError("No module named 'cv2'")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_cv2)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        grabcut_mask(np.zeros((9, 9, 3), np.uint8), [1, 1, 4, 4])
