"""The data of the study: what is trained on, what is chosen and reported on, and which splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from maskx_d2 import ClassSplit
from maskx_d2.data import class_split_of
from maskx_d2.data.datasets import thing_classes_of
from maskx_d2.splits import coco_nonvoc2voc, coco_voc2nonvoc, random_split

from .photographs import register_parts

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
        oracle: name of the method from above.
        masks_tested_on: data set that detectors are tested on which learn A's masks, so that each
            split has its own and its features are made for masks. None: they learn boxes alone.
    """

    folder: str
    train: str
    parts: tuple[str, ...]
    splits: Mapping[str, Split]
    iterations: int
    detectors: int
    oracle: str = "oracle"
    masks_tested_on: str | None = None

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


def _of_coco(make: Callable[[list[str]], ClassSplit]) -> Split:
    return lambda _seed: make(thing_classes_of("coco_2017_train"))


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
    # A third of the photographs to choose on, the others to report.
    "photographs": Scenes(
        folder="photographs",
        train="coco_2017_train",
        parts=register_parts("coco_2017_val"),
        splits={"voc2nonvoc": _of_coco(coco_voc2nonvoc), "nonvoc2voc": _of_coco(coco_nonvoc2voc)},
        iterations=1500,
        detectors=2,
        oracle="oracle, as many masks",
        masks_tested_on="coco_2017_val",
    ),
}
