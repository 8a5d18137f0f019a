"""
Make the "shapes" data set: a synthetic, COCO-format data set for partially supervised segmentation.

    python datasets/make_shapes.py [--root DIR] [--seed 0] [--num-train 3000] [--num-val 300]
                                   [--num-test 300] [--image-size 128]

It writes ``ROOT/shapes/{train,val,test}/00000000.png`` and
``ROOT/shapes/annotations/instances_{train,val,test}.json``, with the real masks of all categories:
which of them are held back from training is a matter of the split, not of the files. Beside them,
``ROOT/shapes/attributes.npy`` and ``.json`` are what word vectors would be at their best.

A category is a texture on a shape ("striped star"), 36 in all. Most objects come in pairs: two
objects of different shape and different texture in nearly the same box, one in front of the other.
The box of such an object does not say which of the two is meant, only its category does, so a mask
branch that ignores the category cannot do well here.

The same arguments give the same bytes. Image i of a part depends on the seed, the part, i and the
image size alone, so a longer data set begins with the images of a shorter one.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from tqdm import tqdm

from maskx_d2.splits import SHAPES, TEXTURES

# Part of each JSON's "info": raise it whenever the same arguments would give other files.
VERSION = "1"

PARTS = ("train", "val", "test")
NUM_IMAGES: Mapping[str, int] = MappingProxyType({"train": 3000, "val": 300, "test": 300})
CATEGORIES = [
    {"id": i + 1, "name": f"{texture} {shape}", "supercategory": shape}
    for i, (shape, texture) in enumerate((s, t) for s in SHAPES for t in TEXTURES)
]

# All lengths are in pixels of a 128 x 128 image and scale with the image.
REFERENCE_SIZE = 128
MIN_IMAGE_SIZE = 64
SINGLE_SIDE = (28.0, 62.0)
PAIR_SIDE = (38.0, 62.0)  # the parts that are seen of a smaller pair would be too small to tell
SLOT_ASPECT = (0.85, 1.18)
BOX_JITTER = 2
SLIVER = 3  # what is narrower than this does not count as a visible part
MAX_GAP = 4  # between the visible parts and each side of the object's full box
MAX_BOX_DIFFERENCE = 3  # between the sides of a pair's two visible boxes
STRIPE_PERIOD = (10.0, 13.0)
SPECK = 2

NUM_SLOTS = (2, 4)
PAIR_SHARE = 0.587  # of the slots: makes 74 % of the objects one of a pair
MIN_PAIR_IOU = 0.82  # of the two visible boxes
MIN_VISIBLE = 0.3  # of the area of the object behind
# Whichever is in front, too little is seen of the other, or too little of its box.
NEVER_PAIRED = (
    ("disk", "square"),
    ("disk", "ring"),
    ("disk", "crescent"),
    ("ring", "crescent"),
    ("cross", "heart"),
)
MAX_TILT = 10.0  # degrees
# RGB levels, the upper end exclusive. The background lies between dark and light.
DARK, LIGHT, BACKGROUND = (0, 75), (181, 256), (95, 161)


# x0, y0, x1, y1 in pixels; x1 and y1 are exclusive.
Box = tuple[int, int, int, int]


class Slot(NamedTuple):
    """A rectangle of the image, in pixels, that holds one object or a pair."""

    x: int
    y: int
    width: int
    height: int
    pair: bool


class Drawn(NamedTuple):
    """An object's category and its visible pixels, a (slot height, slot width) bool array."""

    shape: str
    texture: str
    visible: np.ndarray


# ---------------------------------------------------------------------------------- silhouettes


def _arc(radius: float, start: float, stop: float, centre_x: float = 0.0) -> np.ndarray:
    """Points on a circle between two angles in radians: (48, 2) float x, y."""
    angle = np.linspace(start, stop, 48)
    return np.stack([centre_x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star() -> np.ndarray:
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross(arm: float = 0.34) -> np.ndarray:
    corner = np.array([[-arm, -1], [arm, -1], [arm, -arm]])
    quarter_turn = np.array([[0, 1], [-1, 0]])
    turns = [np.linalg.matrix_power(quarter_turn, k) for k in range(4)]
    return np.concatenate([corner @ turn for turn in turns])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _crescent(shift: float = 0.6, radius: float = 0.8) -> np.ndarray:
    # The unit disk less a smaller disk that is shifted to the right; the circles meet at meet_x.
    meet_x = (1 + shift**2 - radius**2) / (2 * shift)
    outer = np.arccos(meet_x)
    inner = np.arccos((meet_x - shift) / radius)
    return np.concatenate(
        [_arc(1, outer, 2 * np.pi - outer), _arc(radius, 2 * np.pi - inner, inner, shift)]
    )


_CIRCLE = _arc(1, 0, 2 * np.pi)
# Closed contours in x, y (y down), the outer one first; what a second one encloses is a hole. They
# need no common scale, as each is stretched to its box.
CONTOURS: dict[str, list[np.ndarray]] = {
    "disk": [_CIRCLE],
    "square": [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])],
    "triangle": [np.array([[0, -1], [1, 1], [-1, 1]])],
    "star": [_star()],
    "cross": [_cross()],
    "ring": [_CIRCLE, 0.6 * _CIRCLE],
    "heart": [_heart()],
    "crescent": [_crescent()],
    "arrow": [
        np.array([[1, 0], [0, -1], [0, -0.4], [-1, -0.4], [-1, 0.4], [0, 0.4], [0, 1]]),
    ],
}


def draw_shape(rng: np.random.Generator, shape: str, width: int, height: int) -> np.ndarray:
    """The shape, tilted a little and mirrored or not: a (height, width) bool mask that is tight."""
    tilt = np.deg2rad(rng.uniform(-MAX_TILT, MAX_TILT))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    # Mirrored at random because training flips its images, and the test images are not flipped.
    turn[0] *= rng.choice((-1, 1))
    contours = [contour @ turn for contour in CONTOURS[shape]]
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    scale = np.array([width - 1, height - 1]) / (high - low)
    # fillPoly fills the contour's own pixels too: the extreme points end up on the box's border.
    points = [np.rint((contour - low) * scale).astype(np.int32) for contour in contours]
    return cv2.fillPoly(np.zeros((height, width), np.uint8), points, 1).astype(bool)


# -------------------------------------------------------------------------- colours and textures


def pick_colours(rng: np.random.Generator) -> np.ndarray:
    """A dark colour and a light one, of any hue: (2, 3) uint8."""
    return np.stack([rng.integers(*DARK, 3), rng.integers(*LIGHT, 3)]).astype(np.uint8)


def texture_pattern(
    rng: np.random.Generator, texture: str, width: int, height: int, scale: float
) -> np.ndarray:
    """Where the texture shows its light colour: a (height, width) bool array."""
    if texture in ("dark", "light"):
        return np.full((height, width), texture == "light")
    if texture == "speckled":
        speck = max(1, round(SPECK * scale))
        cells = rng.random((-(-height // speck), -(-width // speck))) < 0.5
        return cells.repeat(speck, axis=0).repeat(speck, axis=1)[:height, :width]
    if texture == "striped":
        period, angle = rng.uniform(*STRIPE_PERIOD) * scale, rng.uniform(0, np.pi)
        x, y = np.arange(width), np.arange(height)[:, None]
        phase = rng.uniform(0, period)
        return (x * np.cos(angle) + y * np.sin(angle) + phase) % period < period / 2
    raise ValueError(f"unknown texture '{texture}'")


def draw_background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """A gradient with soft noise: an (H, W, 3) uint8 image."""
    mean = rng.integers(*BACKGROUND, 3)
    slope = rng.uniform(-25, 25, (2, 3))
    corners = mean + np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) @ slope
    size = (image_size, image_size)
    image = cv2.resize(corners.reshape(2, 2, 3).astype(np.float32), size)
    for cells, contrast in ((8, 10.0), (image_size // 3, 7.0)):
        noise = rng.standard_normal((cells, cells, 3), dtype=np.float32) * contrast
        image += cv2.resize(noise, size)
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw short strokes and small blobs, which are no objects, onto the (H, W, 3) image."""
    scale = len(image) / REFERENCE_SIZE
    for _ in range(rng.integers(8, 20)):
        colour = rng.integers(0, 256, 3).tolist()
        x, y = rng.integers(0, len(image), 2).tolist()
        if rng.random() < 0.5:
            dx, dy = (rng.uniform(-12, 12, 2) * scale).astype(int).tolist()
            cv2.line(image, (x, y), (x + dx, y + dy), colour, max(1, round(scale)))
        else:
            axes = np.maximum(1, rng.uniform(1, 4.5, 2) * scale).astype(int).tolist()
            cv2.ellipse(image, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, -1)


# ------------------------------------------------------------------------------------- objects


def mask_box(mask: np.ndarray) -> Box:
    """The tight box of an (H, W) bool mask that is not empty."""
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _box_difference(a: Box, b: Box) -> int:
    """The largest distance in pixels between the same side of two boxes."""
    return max(abs(p - q) for p, q in zip(a, b, strict=True))


def place_slots(rng: np.random.Generator, image_size: int) -> list[Slot]:
    """Two or more rectangles that do not overlap, for a square image of ``image_size`` pixels."""
    scale = image_size / REFERENCE_SIZE
    count = rng.integers(NUM_SLOTS[0], NUM_SLOTS[1] + 1)
    slots: list[Slot] = []
    while len(slots) < NUM_SLOTS[0]:
        slots = []
        for _ in range(count):
            slot = _place_slot(rng, image_size, scale, slots)
            if slot is not None:
                slots.append(slot)
    return slots


def _place_slot(
    rng: np.random.Generator, image_size: int, scale: float, others: list[Slot]
) -> Slot | None:
    pair = bool(rng.random() < PAIR_SHARE)
    min_side, max_side = PAIR_SIDE if pair else SINGLE_SIDE
    side = rng.uniform(min_side, max_side)
    aspect = np.sqrt(rng.uniform(*SLOT_ASPECT))
    for _ in range(60):
        width, height = round(side * aspect * scale), round(side / aspect * scale)
        x = int(rng.integers(0, image_size - width + 1))
        y = int(rng.integers(0, image_size - height + 1))
        if not any(
            x < o.x + o.width and o.x < x + width and y < o.y + o.height and o.y < y + height
            for o in others
        ):
            return Slot(x, y, width, height, pair)
        side = max(min_side, 0.96 * side)
    return None


def draw_in_slot(
    rng: np.random.Generator, shape: str, slot: Slot, scale: float
) -> tuple[np.ndarray, Box]:
    """The shape in a box that is the slot or a little less: its slot-sized mask and its box."""
    jitter = max(1, round(BOX_JITTER * scale))
    left, top, right, bottom = rng.integers(0, jitter + 1, 4).tolist()
    box = (left, top, slot.width - right, slot.height - bottom)
    mask = np.zeros((slot.height, slot.width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = draw_shape(
        rng, shape, box[2] - box[0], box[3] - box[1]
    )
    return mask, box


def _partner_chances() -> np.ndarray:
    """Chance of each shape (column) as the partner of another (row) in a pair: (9, 9) float."""
    chances = 1.0 - np.eye(len(SHAPES))
    for a, b in NEVER_PAIRED:
        i, j = SHAPES.index(a), SHAPES.index(b)
        chances[i, j] = chances[j, i] = 0
    # Shapes with fewer possible partners are drawn as partners more often: all are as frequent.
    for _ in range(200):
        total = np.sqrt(chances.sum(axis=1))
        chances /= total[:, None] * total
    return chances


_PARTNER_CHANCES = _partner_chances()


def draw_pair(rng: np.random.Generator, slot: Slot, scale: float) -> list[Drawn]:
    """Two objects of different shape and texture in one slot, of which neither is hidden."""
    while True:
        first = rng.integers(len(SHAPES))
        second = rng.choice(len(SHAPES), p=_PARTNER_CHANCES[first])
        shapes = [SHAPES[first], SHAPES[second]]
        # Many tries before other shapes are drawn, or pairs that rarely fit would be missing.
        for _ in range(60):
            # Either may be in front; for some shapes only one of the two orders works.
            shapes.reverse()
            front, front_box = draw_in_slot(rng, shapes[0], slot, scale)
            behind, behind_box = draw_in_slot(rng, shapes[1], slot, scale)
            visible = behind & ~front
            if not _is_well_visible(visible, behind, behind_box, scale):
                continue
            visible_box = mask_box(visible)
            difference = _box_difference(visible_box, front_box)
            if (
                difference <= round(MAX_BOX_DIFFERENCE * scale)
                and box_iou(visible_box, front_box) > MIN_PAIR_IOU
            ):
                textures = rng.permutation(len(TEXTURES))
                return [
                    Drawn(shapes[0], TEXTURES[textures[0]], front),
                    Drawn(shapes[1], TEXTURES[textures[1]], visible),
                ]


def _is_well_visible(visible: np.ndarray, full: np.ndarray, full_box: Box, scale: float) -> bool:
    """Whether the visible pixels, slivers aside, are many and reach all sides of the full box."""
    if visible.sum() < MIN_VISIBLE * full.sum():
        return False
    sliver = max(2, round(SLIVER * scale))
    core = cv2.morphologyEx(
        visible.astype(np.uint8),
        cv2.MORPH_OPEN,
        np.ones((sliver, sliver), np.uint8),
        # Outside the slot nothing is visible.
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    if core.sum() < MIN_VISIBLE * full.sum():
        return False
    return _box_difference(mask_box(core > 0), full_box) <= round(MAX_GAP * scale)


def draw_single(rng: np.random.Generator, slot: Slot, scale: float) -> list[Drawn]:
    """One object in a slot."""
    shape, texture = SHAPES[rng.integers(len(SHAPES))], TEXTURES[rng.integers(len(TEXTURES))]
    return [Drawn(shape, texture, draw_in_slot(rng, shape, slot, scale)[0])]


def render_image(
    rng: np.random.Generator, image_size: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """
    Draw one image.

    Args:
        rng: the only source of randomness.
        image_size: side of the square image in pixels, at least 64.

    Returns:
        The (image_size, image_size, 3) uint8 RGB image, and a COCO annotation per object, without
        "id" and "image_id". Masks are the visible pixels, as compressed RLE; boxes are tight
        around them, ``[x, y, width, height]`` in pixels.
    """
    scale = image_size / REFERENCE_SIZE
    image = draw_background(rng, image_size)
    draw_clutter(rng, image)
    category_ids: list[int] = []
    masks: list[np.ndarray] = []
    for slot in place_slots(rng, image_size):
        objects = (draw_pair if slot.pair else draw_single)(rng, slot, scale)
        window = np.s_[slot.y : slot.y + slot.height, slot.x : slot.x + slot.width]
        for shape, texture, visible in objects:
            pattern = texture_pattern(rng, texture, slot.width, slot.height, scale)
            image[window][visible] = pick_colours(rng)[pattern[visible].astype(np.intp)]
            mask = np.zeros((image_size, image_size), bool)
            mask[window] = visible
            masks.append(mask)
            category_ids.append(SHAPES.index(shape) * len(TEXTURES) + TEXTURES.index(texture) + 1)
    # Nothing in the annotations' order may tell which object of a pair is in front.
    order = rng.permutation(len(masks)).tolist()
    return image, [_annotation(category_ids[i], masks[i]) for i in order]


def _annotation(category_id: int, mask: np.ndarray) -> dict[str, Any]:
    """A COCO annotation of an (H, W) bool mask, without "id" and "image_id"."""
    x0, y0, x1, y1 = mask_box(mask)
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "category_id": category_id,
        "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
    }


# --------------------------------------------------------------------------------------- files


def make_shapes(
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_images: Mapping[str, int] = NUM_IMAGES,
    image_size: int = 128,
    progress: bool = True,
) -> Path:
    """
    Write the data set to ``root/shapes``; parts that are there already are left alone.

    A part's JSON file is removed before its first image is written and comes back, complete, after
    its last one. So a part whose JSON file exists is finished, and its "info" says what it is.

    Args:
        root: directory that holds the data sets, made if need be.
        seed: the same seed gives the same files; not negative.
        num_images: number of images for each part to make, of "train", "val" and "test".
        image_size: side of the square images in pixels, at least 64.
        progress: show a progress bar, or say that there is nothing to do.

    Returns:
        The path ``root/shapes``.

    Raises:
        ValueError: if an argument is out of range.
        OSError: if a file cannot be written.
    """
    _check_arguments(seed, num_images, image_size)
    directory = Path(root) / "shapes"
    infos = {part: _info(part, seed, count, image_size) for part, count in num_images.items()}
    _write_attributes(directory)
    stale = [part for part in infos if not is_complete(directory, part, infos[part])]
    if not stale:
        if progress:
            print(f"{directory} is up to date: nothing to make.")
        return directory
    # Older files go first: a run that stops half way must not leave them beside other images.
    for part in stale:
        json_path(directory, part).unlink(missing_ok=True)
    total = sum(num_images[part] for part in stale)
    with tqdm(total=total, unit="image", disable=not progress) as bar:
        for part in stale:
            bar.set_description(f"shapes {part}")
            _make_part(directory, part, infos[part], bar)
    return directory


def _check_arguments(seed: int, num_images: Mapping[str, int], image_size: int) -> None:
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE} pixels, got {image_size}.")
    for part, count in num_images.items():
        if part not in PARTS:
            raise ValueError(f"num_images has an unknown part '{part}'; known are {PARTS}.")
        if count < 1:
            raise ValueError(f"num_images['{part}'] must be at least 1, got {count}.")


def attribute_vectors() -> np.ndarray:
    """
    Each category's shape and texture, as two ones among zeros.

    Returns:
        (K, S + T) float32 with K categories, S shapes and T textures.
    """
    vectors = [
        [float(shape == s) for s in SHAPES] + [float(texture == t) for t in TEXTURES]
        for shape in SHAPES
        for texture in TEXTURES
    ]
    return np.array(vectors, dtype=np.float32)


def _write_attributes(directory: Path) -> None:
    names_file = directory / "attributes.json"
    if names_file.exists():  # the same whatever the arguments
        return
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "attributes.npy", attribute_vectors())
    names = json.dumps({"categories": [category["name"] for category in CATEGORIES]})
    names_file.write_text(names)


def json_path(directory: Path, part: str) -> Path:
    return directory / "annotations" / f"instances_{part}.json"


def _info(part: str, seed: int, count: int, image_size: int) -> dict[str, Any]:
    return {
        "description": "maskx_d2 shapes, made by datasets/make_shapes.py",
        "version": VERSION,
        "arguments": {
            "part": part,
            "seed": seed,
            "num_images": count,
            "image_size": image_size,
        },
    }


def is_complete(directory: Path, part: str, info: dict[str, Any]) -> bool:
    """Whether the part's JSON file is of the asked kind and all its images are there."""
    try:
        content = json.loads(json_path(directory, part).read_text())
        existing = set(os.listdir(directory / part))
    except (OSError, ValueError):
        return False
    if not isinstance(content, dict) or content.get("info") != info:
        return False
    return existing.issuperset(image["file_name"] for image in content["images"])


def _make_part(directory: Path, part: str, info: dict[str, Any], bar: tqdm) -> None:
    """Write the images of one part, then its JSON file."""
    arguments = info["arguments"]
    size = arguments["image_size"]
    (directory / part).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(arguments["num_images"]):
        rng = np.random.default_rng((arguments["seed"], PARTS.index(part), index))
        image, objects = render_image(rng, size)
        file_name = f"{index:08d}.png"
        _write_png(directory / part / file_name, image)
        images.append({"id": index + 1, "file_name": file_name, "height": size, "width": size})
        for annotation in objects:
            ids = {"id": len(annotations) + 1, "image_id": index + 1}
            annotations.append(ids | annotation)
        bar.update()
    content = {
        "info": info,
        "licenses": [],
        "categories": CATEGORIES,
        "images": images,
        "annotations": annotations,
    }
    path = json_path(directory, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, separators=(",", ":")))
    os.replace(temporary, path)


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB image, fast rather than small."""
    if not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"could not write the image '{path}'.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the synthetic data set 'shapes'.")
    parser.add_argument(
        "--root",
        default=os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="directory of the data sets (default: $DETECTRON2_DATASETS, or 'datasets')",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    for part in PARTS:
        parser.add_argument(
            f"--num-{part}",
            type=int,
            default=NUM_IMAGES[part],
            help=f"number of {part} images (default: %(default)s)",
        )
    parser.add_argument(
        "--image-size",
        type=int,
        default=128,
        help=f"side of the images in pixels, at least {MIN_IMAGE_SIZE} (default: %(default)s)",
    )
    args = parser.parse_args()
    counts = {part: getattr(args, f"num_{part}") for part in PARTS}
    try:
        make_shapes(args.root, seed=args.seed, num_images=counts, image_size=args.image_size)
    except ValueError as e:
        parser.error(str(e))


if __name__ == "__main__":
    main()
