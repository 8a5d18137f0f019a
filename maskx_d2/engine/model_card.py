"""What a checkpoint says of itself, so that it can be used, and is not used for something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from torch import nn

from ..modeling import MaskXMixin, OpenVocabularyMaskXROIHeads, WeightTransfer
from ..splits import ClassSplit

__all__ = ["CARD", "card_split", "differences", "model_card"]

#: The card's key in a checkpoint.
CARD = "maskx_d2"


def model_card(model: nn.Module, datasets: Iterable[str], config: str = "") -> dict[str, Any]:
    """
    Describe a model in plain dicts, lists and strings, which any ``torch.load`` reads.

    Args:
        model: in DistributedDataParallel or not.
        datasets: names of registered data sets. What the first of them that says so says of its
            categories and of A and B is what the model is about; none is loaded for it.
        config: the whole config, as yaml.

    Returns:
        ``version`` of this package; ``thing_classes``, a list of names, and ``split``, a dict of
        ``name``, ``with_masks`` and ``boxes_only`` (and ``labels_only``, where there are any),
        None where unknown; ``transfer``, None without a weight transfer function, else a dict of
        its ``input`` and ``layers``, the widths from its input to its output;
        ``open_vocabulary``, whether the categories are vectors that anyone may change;
        ``config``.
    """
    from .. import __version__

    known = [MetadataCatalog.get(name) for name in datasets if name in MetadataCatalog.list()]
    names = next((m.thing_classes for m in known if m.get("thing_classes")), None)
    split = next((m.class_split for m in known if m.get("class_split")), None)
    return {
        "version": __version__,
        "thing_classes": None if names is None else list(names),
        "split": None if split is None else _plain_split(split),
        "transfer": _transfer(getattr(model, "module", model)),
        "open_vocabulary": _has_open_vocabulary(getattr(model, "module", model)),
        "config": config,
    }


def differences(card: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """
    In which ways two cards are of different models, each a sentence without a full stop.

    Args:
        card: of a checkpoint.
        here: of the model that it is loaded into. What either doesn't know is not compared.
    """
    found = []
    theirs, ours = card.get("thing_classes"), here.get("thing_classes")
    if theirs and ours and theirs != ours and not here.get("open_vocabulary"):
        found.append(_different_names(theirs, ours))
    theirs, ours = card.get("transfer"), here.get("transfer")
    if theirs and ours and theirs["input"] != ours["input"]:
        found.append(
            f"its weight transfer function sees '{theirs['input']}' of each category, here "
            f"it sees '{ours['input']}'"
        )
    elif theirs and ours and theirs["layers"] != ours["layers"]:
        found.append(
            f"its weight transfer function has the widths {theirs['layers']}, here "
            f"it has {ours['layers']}"
        )
    return found


def card_split(card: Mapping[str, Any]) -> ClassSplit | None:
    """The split that a card names."""
    split = card.get("split")
    if not split:
        return None
    return ClassSplit(
        split["name"],
        frozenset(split["with_masks"]),
        frozenset(split["boxes_only"]),
        frozenset(split.get("labels_only", ())),  # which cards without such categories lack
    )


def _plain_split(split: ClassSplit) -> dict[str, Any]:
    plain = {
        "name": split.name,
        "with_masks": sorted(split.with_masks),
        "boxes_only": sorted(split.boxes_only),
    }
    return {**plain, "labels_only": sorted(split.labels_only)} if split.labels_only else plain


def _has_open_vocabulary(model: nn.Module) -> bool:
    return isinstance(getattr(model, "roi_heads", None), OpenVocabularyMaskXROIHeads)


def _transfer(model: nn.Module) -> dict[str, Any] | None:
    roi_heads = getattr(model, "roi_heads", None)
    if not isinstance(roi_heads, MaskXMixin):
        return None
    transfer: WeightTransfer = roi_heads.weight_transfer
    linear = [layer for layer in transfer if isinstance(layer, nn.Linear)]
    return {
        "input": roi_heads.transfer_input,
        "layers": [linear[0].in_features, *(layer.out_features for layer in linear)],
    }


def _different_names(theirs: Sequence[str], ours: Sequence[str]) -> str:
    if sorted(theirs) == sorted(ours):
        first = next(i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b)
        return (
            "its categories are in another order: category "
            f"{first} is '{theirs[first]}' in the checkpoint and '{ours[first]}' here"
        )
    parts = []
    for one, other, where in ((theirs, ours, "the checkpoint"), (ours, theirs, "the data set")):
        only = [name for name in one if name not in set(other)]
        if only:
            shown = ", ".join(f"'{name}'" for name in only[:5])
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            parts.append(f"{shown}{more} only in {where}")
    counts = (
        f"{len(theirs)} categories"
        if len(theirs) == len(ours)
        else (f"{len(theirs)} categories, {len(ours)} here")
    )
    return f"it is of other categories ({counts}): {'; '.join(parts)}"
