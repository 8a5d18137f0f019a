"""Category splits: which categories have masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_text

GROUP_WITH_MASKS = "Animals & Nature"  # set A of the split "by_group"


def write_splits(
    directory: Path,
    categories: Sequence[Mapping[str, Any]],
    random_a: Sequence[int],
    split_seeds: Sequence[int],
) -> None:
    """
    Write ``by_group.json`` and ``random_a<M>_seed<S>.json``, which ``load_split`` reads.

    The random set A of one seed is part of a larger one of the same seed.
    """
    names = [c["name"] for c in categories]
    chosen = {"by_group": {c["name"] for c in categories if c["supercategory"] == GROUP_WITH_MASKS}}
    for seed in split_seeds:
        order = np.random.default_rng((seed, len(names))).permutation(len(names)).tolist()
        for count in random_a:
            chosen[f"random_a{count}_seed{seed}"] = {names[i] for i in order[:count]}
    directory.mkdir(parents=True, exist_ok=True)
    for name, with_masks in chosen.items():
        split = {
            "name": name,
            "with_masks": [n for n in names if n in with_masks],
            "boxes_only": [n for n in names if n not in with_masks],
        }
        write_text(directory / f"{name}.json", json.dumps(split, indent=1) + "\n")
