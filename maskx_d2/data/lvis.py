"""
LVIS v1 as data sets of which some categories have boxes only; see docs/LVIS.md.

Its images are COCO's, its 1,203 categories are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from ..splits import ClassSplit
from .datasets import register_partial

__all__ = ["lvis_coco", "lvis_frequent", "register_lvis_presets"]

# The synset of each of COCO's 80 categories, in COCO's order, by LVIS's authors:
# https://github.com/lvis-dataset/lvis-api/blob/master/data/coco_to_synset.json
# LVIS v1 has all but frank.n.02, which is COCO's "hot dog".
_COCO_SYNSETS = """
person.n.01 bicycle.n.01 car.n.01 motorcycle.n.01 airplane.n.01 bus.n.01 train.n.01
truck.n.01 boat.n.01 traffic_light.n.01 fireplug.n.01 stop_sign.n.01 parking_meter.n.01
bench.n.01 bird.n.01 cat.n.01 dog.n.01 horse.n.01 sheep.n.01 beef.n.01 elephant.n.01
bear.n.01 zebra.n.01 giraffe.n.01 backpack.n.01 umbrella.n.01 bag.n.04 necktie.n.01 bag.n.06
frisbee.n.01 ski.n.01 snowboard.n.01 ball.n.06 kite.n.03 baseball_bat.n.01
baseball_glove.n.01 skateboard.n.01 surfboard.n.01 tennis_racket.n.01 bottle.n.01
wineglass.n.01 cup.n.01 fork.n.01 knife.n.01 spoon.n.01 bowl.n.03 banana.n.02 apple.n.01
sandwich.n.01 orange.n.01 broccoli.n.01 carrot.n.01 frank.n.02 pizza.n.01 doughnut.n.02
cake.n.03 chair.n.01 sofa.n.01 pot.n.04 bed.n.01 dining_table.n.01 toilet.n.02
television_receiver.n.01 laptop.n.01 mouse.n.04 remote_control.n.01 computer_keyboard.n.01
cellular_telephone.n.01 microwave.n.02 oven.n.01 toaster.n.02 sink.n.01
electric_refrigerator.n.01 book.n.01 clock.n.01 vase.n.01 scissors.n.01 teddy.n.01
hand_blower.n.01 toothbrush.n.01
"""


def lvis_coco(thing_classes: Sequence[str]) -> ClassSplit:
    """Masks for the 79 categories that LVIS v1 shares with COCO, boxes only for the other 1,124."""
    synsets = _COCO_SYNSETS.split()
    names = _names(c for c in LVIS_CATEGORIES if c["synset"] in synsets)
    return _split("coco", names, thing_classes)


def lvis_frequent(thing_classes: Sequence[str]) -> ClassSplit:
    """
    Masks for LVIS v1's 405 frequent categories, boxes only for the 461 common and 337 rare ones.

    A category is frequent if it is in more than 100 images of the training set.
    """
    names = _names(c for c in LVIS_CATEGORIES if c["frequency"] == "f")
    return _split("frequent", names, thing_classes)


def register_lvis_presets() -> None:
    """
    Register detectron2's ``lvis_v1_train`` and ``lvis_v1_val`` with each of the splits.

    - ``lvis_v1_{train,val}_coco``, see :func:`lvis_coco`
    - ``lvis_v1_{train,val}_frequent``, see :func:`lvis_frequent`
    - ``lvis_v1_{train,val}_all``: no split, all masks; unlike detectron2's own data sets, they
      load without the package ``lvis``

    No data are read.
    """
    splits: dict[str, Callable[[Sequence[str]], ClassSplit] | None] = {
        "coco": lvis_coco,
        "frequent": lvis_frequent,
        "all": None,
    }
    for part in ("train", "val"):
        for name, split in splits.items():
            register_partial(
                f"lvis_v1_{part}_{name}",
                base=f"lvis_v1_{part}",
                split=split,
                keep_masks=split is None or part == "val",
            )


def _names(categories: Iterable[dict[str, Any]]) -> set[str]:
    # Detectron2 calls a category by its first synonym, which is the file's name but for one: what
    # it calls horned_cow is bull in the file.
    return {name for c in categories for name in (c["name"], c["synonyms"][0])}


def _split(name: str, with_masks: set[str], thing_classes: Sequence[str]) -> ClassSplit:
    unknown = set(thing_classes) - _names(LVIS_CATEGORIES)
    if unknown:
        raise ValueError(
            f"split '{name}' is of LVIS v1's categories, which don't have '{min(unknown)}'; use a "
            "split of your own."
        )
    return ClassSplit.from_with_masks(
        name, [c for c in thing_classes if c in with_masks], thing_classes
    )
