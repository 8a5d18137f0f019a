"""
The class rows of a checkpoint, matched by category name.

Detectron2 loads the rows of a classifier by position, or not at all where their number changes.
A model for other categories can keep what it knows of those that it shares. The weight transfer
function has no rows: it takes a category's vector, whichever it is, so nothing is done to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Surgery", "change_vocabulary"]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Surgery:
    """
    What was done to a checkpoint.

    Attributes:
        kept: categories whose rows were taken over, by their new names.
        added: categories whose rows are new.
        dropped: categories of the checkpoint that are gone.
        parameters: the names of the parameters with class rows.
    """

    kept: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    parameters: tuple[str, ...]


def change_vocabulary(
    state: Mapping[str, Tensor],
    old: Sequence[str],
    new: Sequence[str],
    *,
    renamed: Mapping[str, str] | None = None,
    vectors: Tensor | None = None,
    class_agnostic: Collection[str] = (),
    seed: int = 0,
) -> tuple[State, Surgery]:
    """
    Keep, drop, reorder and add the class rows of a detectron2 checkpoint.

    They are those of ``cls_score`` (K+1 rows, the background last), ``bbox_pred`` (4K rows, unless
    it is class-agnostic), a class-specific mask ``predictor`` (K rows) and ``class_embedding`` (K
    rows), by the last parts of their names, in any ROI heads.

    Args:
        state: of a model with ROI heads. It is not changed.
        old: the K category names of the checkpoint, in its order.
        new: the category names that it is to have, in their order.
        renamed: from names of ``old`` to names of ``new`` for the same thing.
        vectors: (len(new), D) float, for ``class_embedding`` where categories are added.
        class_agnostic: ``"bbox_pred"``, ``"predictor"`` or both: those that are one for all
            categories. It matters where K is 1, for else their rows tell; and a cascade's box
            regression always is.
        seed: of the rows of categories that are added, which start as detectron2 starts them:
            normal with a deviation of 0.01 (classes) and 0.001 (boxes), biases of zero. Rows of a
            mask predictor start as the mean of the others.

    Returns:
        The new state and what was done.

    Raises:
        ValueError: if names repeat, a name of ``renamed`` is unknown, no row would be kept, the
            checkpoint has not K categories, or vectors are missing.
    """
    rows = _rows(old, new, renamed or {})
    generator = torch.Generator().manual_seed(seed)
    result, changed = dict(state), []
    for name, value in state.items():
        operate = _operation(name)
        if operate is None or _is_class_agnostic(name, value, len(old), class_agnostic):
            continue
        changed.append(name)
        result[name] = operate(name, value, len(old), rows, generator, vectors)
    if not any(name.endswith("cls_score.weight") for name in changed):
        raise ValueError(
            "the checkpoint has no 'cls_score.weight', so it is no detector with ROI heads."
        )
    kept = [new[i] for i, row in enumerate(rows) if row is not None]
    used = {row for row in rows if row is not None}
    return result, Surgery(
        tuple(kept),
        tuple(new[i] for i, row in enumerate(rows) if row is None),
        tuple(name for i, name in enumerate(old) if i not in used),
        tuple(changed),
    )


Rows = Sequence[int | None]
_Operation = Callable[[str, Tensor, int, Rows, torch.Generator, Tensor | None], Tensor]


def _rows(old: Sequence[str], new: Sequence[str], renamed: Mapping[str, str]) -> Rows:
    """For each new category its row in the checkpoint, None if it has none."""
    for names, where in ((old, "the checkpoint's categories"), (new, "the new categories")):
        repeated = sorted({name for name in names if list(names).count(name) > 1})
        if repeated:
            raise ValueError(f"'{repeated[0]}' is twice among {where}; names must differ.")
    for source, target in renamed.items():
        for name, names, where in ((source, old, "checkpoint's"), (target, new, "new")):
            if name not in names:
                raise ValueError(
                    f"'{name}' is to be renamed, but is none of the {where} categories."
                )
    places = {renamed.get(name, name): i for i, name in enumerate(old)}
    rows = [places.get(name) for name in new]
    if not any(row is not None for row in rows):
        raise ValueError(
            "none of the new categories is one of the checkpoint's, so no row would be kept: "
            f"{_some(new)} against {_some(old)}."
        )
    return rows


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (", …" if len(names) > 3 else "")


def _operation(name: str) -> _Operation | None:
    for pattern, operation in _OPERATIONS.items():
        if re.search(rf"(^|\.){pattern}$", name):
            return operation
    return None


def _is_class_agnostic(name: str, value: Tensor, k: int, known: Collection[str]) -> bool:
    """Whether a box regression or mask predictor is one for all of K categories."""
    part = name.split(".")[-2] if "." in name else name
    rows = {"bbox_pred": 4, "predictor": 1}.get(part)
    if rows is None or len(value) != rows:
        return False
    return k > 1 or part in known or re.search(r"box_predictor\.\d+\.", name) is not None


def _cls_score(
    name: str, value: Tensor, k: int, rows: Rows, generator: torch.Generator, _: Tensor | None
) -> Tensor:
    _check(name, value, k + 1, k, "with the background's")
    found = [value[r] if r is not None else _new(value[0], 0.01, generator) for r in rows]
    return torch.stack([*found, value[k]])


def _bbox_pred(
    name: str, value: Tensor, k: int, rows: Rows, generator: torch.Generator, _: Tensor | None
) -> Tensor:
    _check(name, value, 4 * k, k, "four for each")
    by_class = value.reshape(k, 4, *value.shape[1:])
    found = [by_class[r] if r is not None else _new(by_class[0], 0.001, generator) for r in rows]
    return torch.cat(found)


def _mask_predictor(
    name: str, value: Tensor, k: int, rows: Rows, _: torch.Generator, __: Tensor | None
) -> Tensor:
    _check(name, value, k, k, "one for each")
    return torch.stack([value[r] if r is not None else value.mean(dim=0) for r in rows])


def _embedding(
    name: str, value: Tensor, k: int, rows: Rows, _: torch.Generator, vectors: Tensor | None
) -> Tensor:
    _check(name, value, k, k, "one for each")
    if vectors is None:
        if any(row is None for row in rows):
            raise ValueError(
                f"the weight transfer function sees fixed vectors ('{name}'), and there are none "
                "of the categories that are added; give --embedding-file."
            )
        return torch.stack([value[row] for row in rows if row is not None])
    if vectors.shape != (len(rows), value.shape[1]):
        raise ValueError(
            f"the vectors of the new categories are {tuple(vectors.shape)}, but '{name}' has "
            f"vectors of {value.shape[1]} numbers."
        )
    old_rows = [value[r].float() if r is not None else vectors[i] for i, r in enumerate(rows)]
    return torch.stack([row.to(value) for row in old_rows])


def _check(name: str, value: Tensor, expected: int, k: int, words: str) -> None:
    if len(value) != expected:
        raise ValueError(
            f"'{name}' of the checkpoint has {len(value)} rows, but of {k} categories it should "
            f"have {expected} ({words}); the names given are not of this checkpoint."
        )


def _new(like: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Weights as detectron2 starts them; a bias is zero."""
    if like.ndim < 1 or like.shape == (4,):
        return torch.zeros_like(like)
    return (deviation * torch.randn(like.shape, generator=generator)).to(like)


_OPERATIONS: dict[str, _Operation] = {
    r"cls_score\.(weight|bias)": _cls_score,
    r"bbox_pred\.(weight|bias)": _bbox_pred,
    r"mask_head\.predictor\.(weight|bias)": _mask_predictor,
    r"class_embedding": _embedding,
}
