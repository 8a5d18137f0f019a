"""
Vectors of categories from elsewhere: word embeddings, text embeddings, random control.

They are matched to the categories of a data set by name. A row too few, too many or of another
category would train without complaint and mean nothing, so each is an error.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["load_class_embedding", "random_class_embedding"]


def load_class_embedding(path: str | PathLike[str], thing_classes: Sequence[str]) -> Tensor:
    """
    Read one vector for each category from a file.

    Args:
        path: one of

            - ``.pt``: a dict from category name to vector (D,), or a tensor (rows, D);
            - ``.npy``: an array (rows, D).

            A tensor or an array needs to say whose its rows are, in a JSON file of the same name
            with ``.json`` in place of its ending: ``{"categories": ["person", ...]}`` in the
            order of the rows, or ``{"order": "dataset"}`` if there is one row for each category
            of the data set, in its order.
        thing_classes: the K category names of the data set.

    Returns:
        (K, D) float32, in the order of ``thing_classes``. Further rows of the file are not used.

    Raises:
        FileNotFoundError: if the file, or the one that names its rows, does not exist.
        ValueError: if a category has no vector, or one that is not finite, or the rows and their
            names disagree.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"class embedding file '{path}' does not exist; say where it is in "
            "MODEL.MASKX.EMBEDDING_FILE (embedding_file): a relative path starts from the folder "
            "that the command is run in."
        )
    content: Any
    if path.suffix == ".npy":
        content = torch.from_numpy(np.load(path, allow_pickle=False))
    elif path.suffix in (".pt", ".pth"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    else:
        raise ValueError(f"class embedding file '{path}' must end in .npy or .pt.")
    if isinstance(content, Mapping):
        rows = {str(name): torch.as_tensor(vector) for name, vector in content.items()}
    else:
        rows = _named_rows(path, content, thing_classes)
    missing = [name for name in thing_classes if name not in rows]
    if missing:
        raise ValueError(
            f"class embedding file '{path}' has no vector for {_quoted(missing)}; it has "
            f"{len(rows)} rows, such as {_quoted(list(rows)[:3])}."
        )
    shapes = {tuple(rows[name].shape) for name in thing_classes}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"class embedding file '{path}' needs vectors of one length, but has the shapes "
            f"{', '.join(map(str, sorted(shapes)))}."
        )
    vectors = torch.stack([rows[name].float() for name in thing_classes])
    useless = ~vectors.isfinite().all(dim=1) | (vectors == 0).all(dim=1)
    if useless.any():
        names = [name for name, bad in zip(thing_classes, useless.tolist()) if bad]
        raise ValueError(
            f"class embedding file '{path}' has a vector of zeros, or one that is not finite, for "
            f"{_quoted(names)}."
        )
    return vectors


def random_class_embedding(thing_classes: Sequence[str], dim: int = 300) -> Tensor:
    """
    A random vector for each category: the control of Table 1a.

    It depends on the category's name alone, so it is the same in every run and data set.

    Returns:
        (K, dim) float32, standard normal.
    """
    rows = []
    for name in thing_classes:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode("utf-8")))
        rows.append(torch.randn(dim, generator=generator))
    return torch.stack(rows)


def _named_rows(path: Path, content: Any, thing_classes: Sequence[str]) -> dict[str, Tensor]:
    if not isinstance(content, Tensor) or content.ndim != 2:
        what = f"shape {tuple(content.shape)}" if isinstance(content, Tensor) else type(content)
        raise ValueError(f"class embedding file '{path}' must hold (rows, D) numbers, not {what}.")
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise FileNotFoundError(
            f"whose the {len(content)} rows of class embedding file '{path}' are must be said in "
            f'\'{sidecar}\': {{"categories": ["...", ...]}}, the name of each row, or '
            '{"order": "dataset"} if they are in the order of the data set.'
        )
    said = json.loads(sidecar.read_text(encoding="utf-8"))
    if said == {"order": "dataset"}:
        names = list(thing_classes)
    elif isinstance(said, dict) and isinstance(said.get("categories"), list):
        names = [str(name) for name in said["categories"]]
    else:
        raise ValueError(
            f'\'{sidecar}\' must hold {{"categories": ["...", ...]}} or {{"order": "dataset"}}.'
        )
    if len(names) != len(content):
        raise ValueError(
            f"class embedding file '{path}' has {len(content)} rows, but {len(names)} categories "
            f"are named{' by the data set' if 'order' in said else f' in {sidecar}'}."
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"'{sidecar}' names {_quoted(twice)} more than once.")
    return dict(zip(names, content))


def _quoted(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more
