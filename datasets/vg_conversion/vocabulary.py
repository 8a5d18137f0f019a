"""
The categories: COCO's 80 first, then the other synsets of Visual Genome.

Visual Genome names things by WordNet synsets, ``lemma.part_of_speech.number``. Which of them is
which category of COCO follows the authors' code for "Learning to Segment Every Thing"
(github.com/ronghanghu/seg_every_thing): the most frequent synset of COCO's name, except where
Visual Genome's annotators call the thing otherwise.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

#: The number of categories of the paper's experiment, COCO's 80 included.
NUM_CATEGORIES = 3001
#: Ids of the categories that COCO does not have. COCO's own, of things and of stuff, are below.
FIRST_ID = 1001

#: COCO's names that are not the lemma of the right synset.
COCO_SYNSETS: Mapping[str, str] = MappingProxyType(
    {
        "cell phone": "cellular_telephone.n.01",
        "couch": "sofa.n.01",
        "dining table": "dinner_table.n.01",
        "donut": "doughnut.n.02",
        "fire hydrant": "water_faucet.n.01",  # the name that hydrants go by there
        "hair drier": "hand_blower.n.01",
        "handbag": "bag.n.04",
        "hot dog": "hotdog.n.01",
        "orange": "orange.n.01",  # the fruit
        "potted plant": "plant.n.01",
        "remote": "remote_control.n.01",
        "skis": "ski.n.01",
        "sports ball": "ball.n.01",
        "stop sign": "sign.n.02",  # any sign, but there is no better synset
        "suitcase": "bag.n.06",
        "teddy bear": "teddy.n.01",
        "tv": "television.n.01",
        "wine glass": "wineglass.n.01",
    }
)


@dataclass(frozen=True)
class Category:
    """
    A category of the data set.

    Attributes:
        id: COCO's id for COCO's categories, ``FIRST_ID`` and up for the others.
        name: unique. COCO's, else the synset's lemma with spaces, or the whole synset where
            that would not be unique.
        synset: the one synset whose boxes it has; empty if Visual Genome has none.
    """

    id: int
    name: str
    synset: str


def choose_categories(
    counts: Counter[str], coco: Mapping[int, str], size: int = NUM_CATEGORIES
) -> list[Category]:
    """
    COCO's categories, and the most frequent other synsets in alphabetical order.

    Args:
        counts: how often each synset occurs.
        coco: COCO's category names by id.
        size: number of categories. Of synsets that are equally frequent at the end, the
            alphabetically first are taken.

    Raises:
        ValueError: if there are not as many synsets.
    """
    first = _coco_synsets(counts, coco)
    others = _by_frequency(set(counts) - set(first.values()), counts)
    if not len(coco) < size <= len(coco) + len(others):
        raise ValueError(
            f"{size} categories were asked for, but there can be from {len(coco) + 1} to "
            f"{len(coco) + len(others)}: {len(coco)} of COCO and {len(others)} other synsets."
        )
    return _categories(coco, first, sorted(others[: size - len(coco)]))


def categories_of_names(
    names: Sequence[str], counts: Counter[str], coco: Mapping[int, str]
) -> list[Category]:
    """
    The categories that a list names, in its order.

    Args:
        names: COCO's first; each a synset, or its lemma (``traffic_light``), or COCO's name. A
            ``__background__`` before them is no category. A lemma that occurs k times after
            COCO's stands for the k most frequent synsets of that lemma that are not COCO's, in
            alphabetical order.
        counts: how often each synset occurs.
        coco: COCO's category names by id.

    Raises:
        ValueError: if the first names are not COCO's categories in the order of their ids, or a
            synset occurs twice.
    """
    if names[:1] == ["__background__"]:
        names = names[1:]
    names = [name.replace(" ", "_") for name in names]
    first = _coco_synsets(counts, coco)
    if len(names) < len(coco):
        raise ValueError(
            f"the list of categories has {len(names)} names, fewer than COCO's {len(coco)}, with "
            "which it must begin."
        )
    for (category_id, coco_name), name in zip(coco.items(), names):
        if _is_synset(name):
            first[category_id] = name
        elif name not in (coco_name.replace(" ", "_"), _lemma(first[category_id])):
            raise ValueError(
                f"the list of categories has '{name}' where COCO's '{coco_name}' (synset "
                f"'{first[category_id]}') is due; it must begin with COCO's {len(coco)} "
                "categories in the order of their ids."
            )
    rest = names[len(coco) :]
    by_lemma: dict[str, list[str]] = defaultdict(list)
    for synset in _by_frequency(set(counts) - set(first.values()) - set(rest), counts):
        by_lemma[_lemma(synset)].append(synset)
    times = Counter(rest)
    queues = {name: iter(sorted(by_lemma[name][:k])) for name, k in times.items()}
    others = [name if _is_synset(name) else next(queues[name], "") for name in rest]
    known = [s for s in [*first.values(), *others] if s]
    twice = [s for s, k in Counter(known).items() if k > 1]
    if twice:
        raise ValueError(f"the list of categories has the synset '{twice[0]}' twice.")
    return _categories(coco, first, others, names=rest)


def read_names(path: Path) -> list[str]:
    """A JSON file with a list of names."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ValueError(f"the list of categories '{path}' can't be read: {e.strerror}.") from e
    except ValueError as e:
        raise ValueError(f"the list of categories '{path}' is not valid JSON: {e}.") from e
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError(f"'{path}' must hold a JSON list of category names.")
    return names


def _coco_synsets(counts: Counter[str], coco: Mapping[int, str]) -> dict[int, str]:
    """The synset of each of COCO's categories, empty where Visual Genome has none."""
    by_lemma: dict[str, str] = {}
    for synset in _by_frequency(counts, counts):
        by_lemma.setdefault(_lemma(synset), synset)
    return {
        category_id: COCO_SYNSETS.get(name) or by_lemma.get(name.replace(" ", "_"), "")
        for category_id, name in coco.items()
    }


def _categories(
    coco: Mapping[int, str],
    first: Mapping[int, str],
    others: Sequence[str],
    names: Sequence[str] | None = None,
) -> list[Category]:
    """COCO's categories and the others; ``names`` for those of the others without a synset."""
    spelled = [
        (_lemma(synset) if synset else (names or others)[i]).replace("_", " ")
        for i, synset in enumerate(others)
    ]
    uses = Counter([*coco.values(), *spelled])
    result = [Category(category_id, name, first[category_id]) for category_id, name in coco.items()]
    taken = set(coco.values())
    for i, (synset, name) in enumerate(zip(others, spelled)):
        if uses[name] > 1:
            name = synset or f"{name} ({FIRST_ID + i})"
        if name in taken:
            raise ValueError(f"two categories would be called '{name}'.")
        taken.add(name)
        result.append(Category(FIRST_ID + i, name, synset))
    return result


def _by_frequency(synsets: Iterable[str], counts: Counter[str]) -> list[str]:
    return sorted(synsets, key=lambda synset: (-counts[synset], synset))


def _lemma(synset: str) -> str:
    """``fire_engine`` of ``fire_engine.n.01``."""
    return synset.rsplit(".", 2)[0]


def _is_synset(name: str) -> bool:
    parts = name.rsplit(".", 2)
    return len(parts) == 3 and parts[2].isdecimal()
