"""Surgery from a checkpoint file to another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from .._files import written_whole
from ..convert import load_restricted
from ..engine.model_card import CARD
from ..modeling import load_class_embedding
from .surgery import Surgery, change_vocabulary

__all__ = ["categories_of", "operate", "read_checkpoint"]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    A checkpoint of detectron2, its model zoo's ``.pkl`` files included, without running anything.

    Returns:
        ``model``, a dict of tensors, and what else the file says.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is no checkpoint of detectron2.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint '{path}' does not exist.")
    if path.suffix == ".pkl":
        content = load_restricted(path)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as e:  # which of many depends on what is damaged
            raise ValueError(f"'{path}' can't be read as a checkpoint: {e}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model", content), dict):
        raise ValueError(f"'{path}' is no checkpoint: it holds no dict of parameters.")
    checkpoint: dict[str, Any] = content if "model" in content else {"model": content}
    state = checkpoint["model"]
    checkpoint["model"] = {k: torch.as_tensor(v) for k, v in state.items()}
    return checkpoint


def categories_of(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """The category names that a checkpoint of this package says it has."""
    names = (checkpoint.get(CARD) or {}).get("thing_classes")
    return None if names is None else list(names)


def operate(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str],
    new: Sequence[str],
    *,
    old: Sequence[str] | None = None,
    renamed: Mapping[str, str] | None = None,
    embedding_file: str | None = None,
    seed: int = 0,
) -> Surgery:
    """
    Write a checkpoint for other categories; see :func:`change_vocabulary`.

    The optimizer's state and the iteration are left out: they are of a training that is over.

    Args:
        weights: the checkpoint, ``.pth`` or ``.pkl`` of detectron2's model zoo.
        output: the file to write, ``.pth``.
        new: category names, in their order.
        old: those of the checkpoint; by default what it says itself.
        renamed, seed: see :func:`change_vocabulary`.
        embedding_file: with the vectors of the new categories, see
            :func:`~maskx_d2.modeling.load_class_embedding`.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: see :func:`change_vocabulary` and :func:`read_checkpoint`; also if the
            checkpoint doesn't say its categories and nobody else does.
    """
    checkpoint = read_checkpoint(weights)
    old = list(old) if old is not None else categories_of(checkpoint)
    if old is None:
        raise ValueError(
            f"checkpoint '{weights}' doesn't say which categories it has; say it by --from, the "
            "name of the data set that it was trained on or a file of names."
        )
    vectors: Tensor | None = None
    if embedding_file is not None:
        vectors = load_class_embedding(embedding_file, list(new))
    try:
        state, surgery = change_vocabulary(
            checkpoint["model"],
            old,
            new,
            renamed=renamed,
            vectors=vectors,
            class_agnostic=_class_agnostic(checkpoint.get(CARD) or {}),
            seed=seed,
        )
    except ValueError as e:
        raise ValueError(f"checkpoint '{weights}': {e}") from None
    written: dict[str, Any] = {"model": state}
    if "__author__" in checkpoint:  # of the model zoo, whose names detectron2 matches by suffix
        written["matching_heuristics"] = checkpoint.get("matching_heuristics", False)
    if checkpoint.get(CARD):
        # Its config and split are of the old categories.
        written[CARD] = checkpoint[CARD] | {"thing_classes": list(new), "split": None, "config": ""}
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(output) as path:
        torch.save(written, path)
    return surgery


def _class_agnostic(card: Mapping[str, Any]) -> list[str]:
    """What is one for all categories, as the config of the checkpoint's training says."""
    keys = {"bbox_pred": "cls_agnostic_bbox_reg", "predictor": "cls_agnostic_mask"}
    config = str(card.get("config", ""))
    found = [part for part, key in keys.items() if f"{key}: true" in config.lower()]
    if _masks_of_a_lazy_config(config) == 1:  # written out; else it is that of the ROI heads
        found.append("predictor")
    return found


class _WithoutObjects(yaml.SafeLoader):
    """Reads the yaml of LazyConfigs, Python's objects in it as None."""


_WithoutObjects.add_multi_constructor("", lambda *_: None)


def _masks_of_a_lazy_config(config: str) -> Any:
    try:
        said = yaml.load(config, _WithoutObjects)
        return said["model"]["roi_heads"]["mask_head"]["num_classes"]
    except (yaml.YAMLError, KeyError, TypeError):  # another kind of config, or none
        return None
