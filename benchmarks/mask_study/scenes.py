"""The data of the study: what is trained on, what is chosen and reported on, and which splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from maskx_d2 import ClassSplit
from maskx_d2.data import class_split_of
from maskx_d2.data.datasets import thing_classes_of
from maskx_d2.splits import random_split

Split = Callable[[int], ClassSplit]


@dataclass(frozen=True)
class Scenes:
    """
    A data set with detectors on it.

    Attributes:
        folder: of ``configs``, with ``detector.py`` and ``box_losses.py``.
        train: data set of the detectors and of the mask branches, with all masks; the split takes
            them away.
        parts: what is measured on.
        splits: name → seed → the split.
        iterations: of a detector.
        detectors: how many; seeds take turns.
    """

    folder: str
    train: str
    parts: tuple[str, ...]
    splits: Mapping[str, Split]
    iterations: int
    detectors: int

    @property
    def classes(self) -> list[str]:
        """The categories' names."""
        return list(thing_classes_of(self.train))


def _registered(name: str) -> Split:
    def split(_seed: int) -> ClassSplit:
        found = class_split_of(name)
        assert found is not None
        return found

    return split


def _emoji(categories: int, parts: tuple[str, ...], iterations: int, detectors: int) -> Scenes:
    train = f"emoji{categories}_train"

    def halves(seed: int) -> ClassSplit:
        return random_split(thing_classes_of(train), categories // 2, seed)

    return Scenes(
        folder="emoji",
        train=train,
        parts=tuple(f"emoji{categories}_{part}" for part in parts),
        splits={"random halves": halves, "by group": _registered(f"{train}_by_group")},
        iterations=iterations,
        detectors=detectors,
    )


SCENES: dict[str, Scenes] = {
    # To choose on.
    "emoji40": _emoji(40, ("val",), iterations=1500, detectors=3),
    # To report: three times the categories, the 40 among them, images that chose nothing, and a
    # style that no training saw.
    "emoji120": _emoji(120, ("test_seen", "test"), iterations=2500, detectors=1),
    "shapes": Scenes(
        folder="shapes",
        train="shapes_train",
        parts=("shapes_test",),
        splits={"a27b9": _registered("shapes_train_a27b9")},
        iterations=1200,
        detectors=2,
    ),
}
