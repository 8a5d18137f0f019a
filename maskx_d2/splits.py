"""
Which categories have masks (set A), which have boxes only (set B), and of which only the labels
of images are known (set C: "there is a zebra in it").

A split is a statement about category **names**, so that it survives another order of the
categories, or another data set that uses the same names. Only the data and the
evaluation know about it: the model never does.

Set A and set B are the paper's names ("Learning to Segment Every Thing", section 3); set C
continues them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import combinations
from os import PathLike

import numpy as np

__all__ = [
    "COCO_VOC_CLASSES",
    "SHAPES",
    "SHAPES_CLASSES",
    "TEXTURES",
    "ClassSplit",
    "coco_a20b30c30",
    "coco_nonvoc2voc",
    "coco_random_splits",
    "coco_voc2nonvoc",
    "load_split",
    "random_split",
    "shapes_a18b9c9",
    "shapes_a27b9",
]

_SHOWN = 8  # names in a message
_SETS = ("with_masks", "boxes_only", "labels_only")  # A, B and C


@dataclass(frozen=True)
class ClassSplit:
    """
    A partition of category names by their supervision: masks, boxes only, or image labels only.

    Attributes:
        name: how the split is called in data set names and messages, e.g. ``"voc2nonvoc"``.
        with_masks: set A, the names of the categories whose masks may be used in training.
        boxes_only: set B, the names of the categories that have boxes only.
        labels_only: set C, the names of the categories of which it is known only in which images
            they are. Most splits have none.

    Raises:
        ValueError: if a category is in two of the sets, or set A is empty.
    """

    name: str
    with_masks: frozenset[str]
    boxes_only: frozenset[str]
    labels_only: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        # A plain list or set is welcome: what is stored is always a frozenset.
        for field in _SETS:
            value = getattr(self, field)
            if isinstance(value, str):
                raise ValueError(
                    f"split '{self.name}': {field} must be a collection of category names, "
                    f"not the single string {value!r}; write [{value!r}]."
                )
            object.__setattr__(self, field, frozenset(value))
        for one, other in combinations(_SETS, 2):
            both = getattr(self, one) & getattr(self, other)
            if both:
                raise ValueError(
                    f"split '{self.name}': {_names(both)} in {one} and in {other}; "
                    "a category belongs to one of them."
                )
        if not self.with_masks:
            raise ValueError(
                f"split '{self.name}': with_masks is empty, but the mask branch needs at least "
                "one category with masks to learn from."
            )

    @classmethod
    def from_with_masks(
        cls, name: str, with_masks: Iterable[str], thing_classes: Sequence[str]
    ) -> ClassSplit:
        """
        The split in which ``with_masks`` have masks and all other ``thing_classes`` do not.

        Raises:
            ValueError: if a name in ``with_masks`` is not in ``thing_classes``.
        """
        with_masks = frozenset(with_masks)
        _check_known(name, with_masks, thing_classes)
        return cls(name, with_masks, frozenset(thing_classes) - with_masks)

    @property
    def sets(self) -> dict[str, frozenset[str]]:
        """The category names by set: ``"A"`` and ``"B"``, and ``"C"`` where it is not empty."""
        sets = {"A": self.with_masks, "B": self.boxes_only}
        return {**sets, "C": self.labels_only} if self.labels_only else sets

    def set_of(self, category: str) -> str:
        """
        A category's set: ``"A"``, ``"B"`` or ``"C"``.

        Raises:
            KeyError: if the split does not name the category.
        """
        for letter, names in self.sets.items():
            if category in names:
                return letter
        raise KeyError(f"split '{self.name}' does not name '{category}'.")

    def indices(self, thing_classes: Sequence[str]) -> tuple[list[int], list[int]]:
        """
        The positions of A and of B in ``thing_classes``.

        Args:
            thing_classes: all K category names of a data set, in its order
                (``MetadataCatalog.get(...).thing_classes``).

        Returns:
            Two ascending lists of contiguous category ids in [0, K), for A and for B.
            :meth:`labels_only_indices` gives those of C.

        Raises:
            ValueError: if the split names a category that the data set does not have, or does
                not cover one that it has. The sentence names the categories.
        """
        sets = self.indices_of_sets(thing_classes)
        return sets["A"], sets["B"]

    def labels_only_indices(self, thing_classes: Sequence[str]) -> list[int]:
        """The positions of C in ``thing_classes``, ascending; see :meth:`indices`."""
        return self.indices_of_sets(thing_classes).get("C", [])

    def indices_of_sets(self, thing_classes: Sequence[str]) -> dict[str, list[int]]:
        """The positions of each of :attr:`sets` in ``thing_classes``; see :meth:`indices`."""
        covered = frozenset().union(*self.sets.values())
        _check_known(self.name, covered, thing_classes)
        uncovered = [c for c in thing_classes if c not in covered]
        if uncovered:
            raise ValueError(
                f"split '{self.name}' does not say whether {_names(uncovered)} of the data set "
                "have masks; add each to with_masks, to boxes_only or to labels_only."
            )
        return {
            letter: [i for i, c in enumerate(thing_classes) if c in names]
            for letter, names in self.sets.items()
        }

    def swapped(self, name: str | None = None) -> ClassSplit:
        """
        The same partition the other way round: masks for B, boxes only for A.

        C stays C, so that the two splits differ in nothing but whose masks are known.
        """
        return ClassSplit(
            name or f"{self.name}_swapped", self.boxes_only, self.with_masks, self.labels_only
        )


def load_split(path: str | PathLike[str]) -> ClassSplit:
    """
    Read a split from a JSON file ``{"name": ..., "with_masks": [...], "boxes_only": [...]}``.

    ``name`` may be left out: it is then the file's stem. ``"labels_only": [...]`` may be added.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a JSON file; the sentence names the file and the key.
    """
    from pathlib import Path

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"category split file '{path}' does not exist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ValueError(f"category split file '{path}' is not valid JSON: {e}.") from e
    if not isinstance(content, dict):
        raise ValueError(f"category split file '{path}' must hold a JSON object.")
    known = {"name", *_SETS}
    for key in content.keys() - known:
        hint = get_close_matches(key, known, n=1)
        raise ValueError(
            f"category split file '{path}' has an unknown key '{key}'"
            + (f"; did you mean '{hint[0]}'?" if hint else f"; known are {_names(known)}.")
        )
    for key in _SETS:
        value = content.get(key, [] if key == "labels_only" else None)
        if not isinstance(value, list) or not all(isinstance(c, str) for c in value):
            raise ValueError(
                f"category split file '{path}' needs the key '{key}' with a list of category names."
            )
        twice = {c for c, count in Counter(value).items() if count > 1}
        if twice:
            raise ValueError(
                f"category split file '{path}' lists {_names(twice)} twice in '{key}'."
            )
    try:
        return ClassSplit(
            str(content.get("name", path.stem)),
            frozenset(content["with_masks"]),
            frozenset(content["boxes_only"]),
            frozenset(content.get("labels_only", ())),
        )
    except ValueError as e:
        raise ValueError(f"category split file '{path}': {e}") from e


def _check_known(split_name: str, categories: Iterable[str], thing_classes: Sequence[str]) -> None:
    unknown = sorted(set(categories) - set(thing_classes))
    if unknown:
        hints = [f"'{category}'" for category in unknown]
        for i, category in enumerate(unknown[:_SHOWN]):  # a search through all names each
            close = get_close_matches(category, thing_classes, n=1)
            hints[i] += f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"split '{split_name}' names {_shorten(hints)}, which the data set does not have; "
            f"its {len(thing_classes)} categories are {_names(thing_classes)}."
        )


def _names(categories: Iterable[str], limit: int = _SHOWN) -> str:
    listed = list(categories)
    if isinstance(categories, (set, frozenset)):
        listed.sort()
    return _shorten([f"'{c}'" for c in listed], limit)


def _shorten(items: Sequence[str], limit: int = _SHOWN) -> str:
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------------------- presets

COCO_VOC_CLASSES: frozenset[str] = frozenset(
    # The 20 categories that COCO shares with PASCAL VOC, under COCO's names (paper, section 4.1).
    (
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "airplane",
        "bus",
        "train",
        "boat",
        "bird",
        "cat",
        "dog",
        "horse",
        "sheep",
        "cow",
        "bottle",
        "chair",
        "couch",
        "potted plant",
        "dining table",
        "tv",
    )
)


def coco_voc2nonvoc(thing_classes: Sequence[str]) -> ClassSplit:
    """The paper's "voc → non-voc": masks for the 20 VOC categories, boxes for the other 60."""
    return ClassSplit.from_with_masks("voc2nonvoc", COCO_VOC_CLASSES, thing_classes)


def coco_nonvoc2voc(thing_classes: Sequence[str]) -> ClassSplit:
    """The paper's "non-voc → voc": masks for the 60 other categories, boxes for the 20 of VOC."""
    return coco_voc2nonvoc(thing_classes).swapped("nonvoc2voc")


def coco_a20b30c30(thing_classes: Sequence[str]) -> ClassSplit:
    """
    Masks for the 20 VOC categories, boxes for 30 others and image labels for the other 30.

    Of the 60 that are not VOC's, every second one in the order of ``thing_classes`` has boxes.
    """
    others = [c for c in thing_classes if c not in COCO_VOC_CLASSES]
    boxes_only, labels_only = frozenset(others[::2]), frozenset(others[1::2])
    return ClassSplit("a20b30c30", COCO_VOC_CLASSES, boxes_only, labels_only)


def random_split(
    thing_classes: Sequence[str], num_with_masks: int, seed: int, name: str | None = None
) -> ClassSplit:
    """
    Masks for ``num_with_masks`` of the categories, drawn at random.

    Args:
        thing_classes: all K category names of a data set, in its order.
        num_with_masks: |A|, at least 1 and less than K.
        seed: of the draw, which is the same on every machine.
        name: of the split; None is such as ``random_a20_seed1``.

    Raises:
        ValueError: if ``num_with_masks`` leaves A or B empty.
    """
    if not 0 < num_with_masks < len(thing_classes):
        raise ValueError(
            f"a random split of {len(thing_classes)} categories needs from 1 to "
            f"{len(thing_classes) - 1} of them with masks, not {num_with_masks}."
        )
    rng = np.random.RandomState(seed)  # whose streams numpy promises never to change
    chosen = rng.choice(len(thing_classes), num_with_masks, replace=False)
    with_masks = {thing_classes[i] for i in chosen}
    name = name or f"random_a{num_with_masks}_seed{seed}"
    return ClassSplit.from_with_masks(name, with_masks, thing_classes)


def coco_random_splits() -> dict[str, Callable[[Sequence[str]], ClassSplit]]:
    """
    The paper's 25 random splits of COCO (section 4.2, figure 3): five draws for each |A|.

    Returns:
        by their names in the authors' code, ``E1_A20B60`` to ``E5_A60B20``, a function from
        COCO's 80 category names to the split.
    """
    rng = np.random.RandomState(3)
    splits: dict[str, Callable[[Sequence[str]], ClassSplit]] = {}
    for trial in range(1, 6):
        for size in (20, 30, 40, 50, 60):
            chosen = rng.choice(80, size, replace=False).tolist()
            name = f"E{trial}_A{size}B{80 - size}"
            splits[name] = partial(_split_by_position, name, tuple(chosen))
    return splits


def _split_by_position(
    name: str, positions: tuple[int, ...], thing_classes: Sequence[str]
) -> ClassSplit:
    if len(thing_classes) != 80:
        raise ValueError(
            f"split '{name}' is of COCO's 80 categories, but the data set has "
            f"{len(thing_classes)}; use random_split."
        )
    with_masks = {thing_classes[i] for i in positions}
    return ClassSplit.from_with_masks(name, with_masks, thing_classes)


# The generated data set of datasets/make_shapes.py: every category is a texture on a shape.
SHAPES = ("disk", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "arrow")
TEXTURES = ("light", "dark", "speckled", "striped")
SHAPES_CLASSES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)


def shapes_a27b9(thing_classes: Sequence[str]) -> ClassSplit:
    """
    Boxes only for 9 of the 36 combinations of a shape and a texture.

    Each shape and each texture is seen with masks, the 9 combinations never are.
    """
    boxes_only = {
        f"{texture} {shape}"
        for s, shape in enumerate(SHAPES)
        for t, texture in enumerate(TEXTURES)
        if (s + t) % 4 == 0
    }
    return ClassSplit("a27b9", frozenset(thing_classes) - boxes_only, frozenset(boxes_only))


def shapes_a18b9c9(thing_classes: Sequence[str]) -> ClassSplit:
    """
    Boxes only for 9 of the 36 combinations, those of :func:`shapes_a27b9`, and image labels only
    for 9 others.

    Each shape and each texture is seen with masks.
    """
    sets: dict[int, set[str]] = {remainder: set() for remainder in range(4)}
    for s, shape in enumerate(SHAPES):
        for t, texture in enumerate(TEXTURES):
            sets[(s + t) % 4].add(f"{texture} {shape}")
    with_masks = frozenset(thing_classes) - sets[0] - sets[2]
    return ClassSplit("a18b9c9", with_masks, frozenset(sets[0]), frozenset(sets[2]))
