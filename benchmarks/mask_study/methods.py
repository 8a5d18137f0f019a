"""The ideas and their combinations: what T is, what B's boxes teach, how the mask head is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from .transfers import Mixed, Normalized, OneForAll, Residual, low_rank, paper


@dataclass(frozen=True)
class Method:
    """
    One way to train a mask branch on a detector that stays as it is.

    Attributes:
        transfer: makes T of the lengths of its input and of its output.
        vectors: T sees the classifier's weights, "cls", or "random" vectors of their length.
        boxes: what B's boxes teach: weights of the losses of
            :class:`~maskx_d2.modeling.BoxSupervision`.
        head: options of the mask head.
        rois: the RoIs that it learns on: "proposals", "ground_truth" (jittered), or "grabcut":
            proposals, with masks of B that GrabCut made of its boxes.
        weight_decay: of T; None for that of all.
        prior: whether the mask head sees where the box head sees the category.
        contrast: weight of a loss that tells objects' pixels from background.
        rounds: the second and later ones learn from the masks that the one before makes for B.
        masks: which are there: those of "A"; or, as an oracle has them, "all", or as many as A has
            of "all categories".
    """

    transfer: Callable[[int, int], nn.Module] = paper
    vectors: str = "cls"
    boxes: Mapping[str, float] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    rois: str = "proposals"
    weight_decay: float | None = None
    prior: bool = False
    contrast: float = 0.0
    rounds: int = 1
    masks: str = "A"


def _dropout(part: float) -> Callable[[int, int], nn.Module]:
    return lambda dim, channels: paper(dim, channels, dropout=part)


_PROJECTION = {"projection_weight": 0.3}
_BACKGROUND = {"background_weight": 0.3}
_COLOURS = {"affinity_weight": 0.3}
_BOTH = {**_PROJECTION, **_BACKGROUND}
_HOURGLASS = {"trunk": "hourglass", "conv_norm": "GN"}
_AGNOSTIC = Method(OneForAll)
_TRANSFER = Method()
_RANDOM = Method(vectors="random")

# Not learnt: the whole box, or A's mean mask fitted to it.
FLOORS = ("whole box", "mean mask of A")

METHODS: dict[str, Method] = {
    "class-agnostic": _AGNOSTIC,
    "random vectors": _RANDOM,
    "transfer": _TRANSFER,
    # T.
    "dropout 0.3": Method(_dropout(0.3)),
    "dropout 0.5": Method(_dropout(0.5)),
    "dropout 0.7": Method(_dropout(0.7)),
    "noise 0.5": Method(lambda d, c: paper(d, c, noise=0.5)),
    "noise 1": Method(lambda d, c: paper(d, c, noise=1.0)),
    "length 1": Method(lambda d, c: Normalized(d, c, True)),
    "mean 0, deviation 1": Method(lambda d, c: Normalized(d, c, False)),
    "weight decay x 10": Method(weight_decay=0.5),
    "16 wide": Method(lambda d, c: paper(d, c, (16,))),
    "256 wide": Method(lambda d, c: paper(d, c, (256,))),
    "1 layer": Method(lambda d, c: paper(d, c, ())),
    "3 layers": Method(lambda d, c: paper(d, c, (64, 64))),
    "linear, rank 8": Method(lambda d, c: low_rank(d, c, 8)),
    "residual": Method(Residual),
    "mixed, up to 0.3": Method(lambda d, c: Mixed(d, c, 0.3)),
    # What B's boxes teach.
    "projection": Method(boxes=_PROJECTION),
    "colours": Method(boxes=_COLOURS),
    "background": Method(boxes=_BACKGROUND),
    "projection, background": Method(boxes=_BOTH),
    "projection, background, colours": Method(boxes={**_BOTH, **_COLOURS}),
    "projection 1": Method(boxes={"projection_weight": 1.0}),
    "projection 1, background 1": Method(
        boxes={"projection_weight": 1.0, "background_weight": 1.0}
    ),
    "projection, background 1": Method(boxes={**_BOTH, "background_weight": 1.0}),
    "class-agnostic, projection": replace(_AGNOSTIC, boxes=_PROJECTION),
    "class-agnostic, colours": replace(_AGNOSTIC, boxes=_COLOURS),
    "class-agnostic, projection, background": replace(_AGNOSTIC, boxes=_BOTH),
    "class-agnostic, projection, colours": replace(_AGNOSTIC, boxes={**_PROJECTION, **_COLOURS}),
    "class-agnostic, projection, background, colours": replace(
        _AGNOSTIC, boxes={**_BOTH, **_COLOURS}
    ),
    "random vectors, projection": replace(_RANDOM, boxes=_PROJECTION),
    "random vectors, projection, background": replace(_RANDOM, boxes=_BOTH),
    "GrabCut": Method(rois="grabcut", masks="all"),
    "class-agnostic, GrabCut": replace(_AGNOSTIC, rois="grabcut", masks="all"),
    # The RoIs, and the mask head.
    "true boxes": Method(rois="ground_truth"),
    "hourglass": Method(head=_HOURGLASS),
    "GN": Method(head={"conv_norm": "GN"}),
    "class-agnostic, hourglass": replace(_AGNOSTIC, head=_HOURGLASS),
    "class-agnostic, true boxes": replace(_AGNOSTIC, rois="ground_truth"),
    "object prior": Method(prior=True),
    "class-agnostic, object prior": replace(_AGNOSTIC, prior=True),
    "self-training": Method(rounds=2),
    "contrast": Method(contrast=0.3),
    "class-agnostic, contrast": replace(_AGNOSTIC, contrast=0.3),
    # Together.
    "dropout, projection, background": Method(_dropout(0.3), boxes=_BOTH),
    "dropout 0.5, projection, background": Method(_dropout(0.5), boxes=_BOTH),
    "dropout 0.5, hourglass": Method(_dropout(0.5), head=_HOURGLASS),
    "dropout 0.5, hourglass, projection, background": Method(
        _dropout(0.5), boxes=_BOTH, head=_HOURGLASS
    ),
    "residual, projection, background": Method(Residual, boxes=_BOTH),
    "object prior, projection, background": Method(prior=True, boxes=_BOTH),
    "contrast, projection, background": Method(boxes=_BOTH, contrast=0.3),
    "hourglass, projection, background": Method(boxes=_BOTH, head=_HOURGLASS),
    "hourglass, projection": Method(boxes=_PROJECTION, head=_HOURGLASS),
    "true boxes, projection": Method(boxes=_PROJECTION, rois="ground_truth"),
    "contrast, projection": Method(boxes=_PROJECTION, contrast=0.3),
    "true boxes, projection, background": Method(boxes=_BOTH, rois="ground_truth"),
    "class-agnostic, true boxes, projection, background": replace(
        _AGNOSTIC, boxes=_BOTH, rois="ground_truth"
    ),
    "class-agnostic, true boxes, projection, background, colours": replace(
        _AGNOSTIC, boxes={**_BOTH, **_COLOURS}, rois="ground_truth"
    ),
    "class-agnostic, self-training": replace(_AGNOSTIC, rounds=2),
    "class-agnostic, self-training, projection, background": replace(
        _AGNOSTIC, boxes=_BOTH, rounds=2
    ),
    "self-training, projection": Method(boxes=_PROJECTION, rounds=2),
    "self-training, projection, background": Method(boxes=_BOTH, rounds=2),
    # From above.
    "oracle": Method(masks="all"),
    "oracle, class-agnostic": replace(_AGNOSTIC, masks="all"),
    "oracle, hourglass": Method(head=_HOURGLASS, masks="all"),
    "oracle, as many masks": replace(_AGNOSTIC, masks="all categories"),
    "oracle, true boxes, as many masks": replace(
        _AGNOSTIC, masks="all categories", rois="ground_truth"
    ),
    "oracle, transfer, as many masks": Method(masks="all categories"),
    "oracle, transfer, true boxes, as many masks": Method(
        masks="all categories", rois="ground_truth"
    ),
    "oracle, as many masks, projection": replace(
        _AGNOSTIC, masks="all categories", boxes=_PROJECTION
    ),
    "oracle, transfer, as many masks, projection": Method(
        masks="all categories", boxes=_PROJECTION
    ),
}
