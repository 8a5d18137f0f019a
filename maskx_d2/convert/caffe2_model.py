"""
What a checkpoint of the authors' Caffe2 code is, read off its blobs' names and shapes.

The names are those of https://github.com/ronghanghu/seg_every_thing (lib/modeling). Everything is
inferred from the arrays, so that a config that says otherwise can't lead astray; only the slope of
T's activation leaves no trace in them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .restricted_pickle import load_restricted

__all__ = ["Caffe2Model", "read_caffe2_model"]

Blobs = dict[str, NDArray[Any]]

_DEPTHS = {6: 50, 23: 101, 36: 152}  # by the number of blocks of res4
#: Of Detectron's ImageNet models, kept in its checkpoints and used by none of its detectors.
_UNUSED = ("fc1000_w", "fc1000_b", "pred_w", "pred_b", "conv1_b")
#: Layers of the weight transfer function and of the MLP branch, of which the middle ones may lack.
TRANSFER = ("bbox2mask_mlp_l1", "bbox2mask_mlp_l2", "mask_fcn_logits_w_flat")
MLP = ("fc_mask_head_mlp_l1", "fc_mask_head_mlp_l2", "mask_mlp_logits_raw")
PREDICTOR = "mask_fcn_logits"
_BACKUP = "_jcvbackup"


@dataclass(frozen=True)
class Caffe2Model:
    """
    A model of the authors' code.

    Attributes:
        blobs: the arrays of the model, by their Caffe2 names. The rows of categories start with
            the background.
        dropped: names of blobs that are no part of the model: momenta, ImageNet's classifier.
        num_classes: K, without the background.
        class_agnostic_boxes: whether the box regression is class-agnostic.
        mask: "transfer", "class-specific", "class-agnostic", or None for a detector of boxes.
        transfer_input: with "transfer": "cls", "box", "cls+box" or "embedding".
        embedding: the name of the blob with the categories' vectors.
        negative_slope: of T's activation, as the checkpoint's config says; None if it doesn't.
        mask_size: M, the side of a mask.
    """

    blobs: Blobs
    dropped: tuple[str, ...]
    num_classes: int
    class_agnostic_boxes: bool
    mask: str | None
    transfer_input: str | None
    embedding: str | None
    negative_slope: float | None
    mask_size: int

    def width(self, layer: str) -> int:
        """Number of outputs of a layer."""
        return int(self.blobs[f"{layer}_w"].shape[0])

    def layers(self, names: tuple[str, ...]) -> list[str]:
        """Those of the layers that there are."""
        return [name for name in names if f"{name}_w" in self.blobs]

    @property
    def depth(self) -> int:
        """Of the ResNet."""
        return _DEPTHS[_count(self.blobs, r"res4_(\d+)_branch2a_w", start=0)]

    @property
    def num_mask_convs(self) -> int:
        """Of the mask head, before the transposed convolution."""
        return _count(self.blobs, r"_\[mask\]_fcn(\d+)_w", start=1)


def read_caffe2_model(path: str | os.PathLike[str]) -> Caffe2Model:
    """
    Read a ``.pkl`` file of Caffe2 Detectron, without running anything that it holds.

    Args:
        path: of a Mask R-CNN or Faster R-CNN with a ResNet and FPN, as the authors trained them.

    Raises:
        FileNotFoundError, ValueError: see :func:`load_restricted`; also if it is another model.
    """
    content = load_restricted(path)
    try:
        return _read(content)
    except ValueError as e:
        raise ValueError(f"file '{path}': {e}") from None


def _read(content: Any) -> Caffe2Model:
    found = content.get("blobs", content) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, np.ndarray) for k, v in found.items()
    ):
        raise ValueError("it is no dict of named arrays, as Detectron's checkpoints are.")
    if others := [k for k, v in found.items() if v.dtype.kind not in "fiub"]:
        raise ValueError(f"blob '{others[0]}' has no numbers.")
    if not_finite := [k for k, v in found.items() if not np.isfinite(v).all()]:
        raise ValueError(f"blob '{not_finite[0]}' has values that are not finite.")
    dropped = tuple(sorted(k for k in found if k.endswith("_momentum") or k in _UNUSED))
    blobs = {k: v for k, v in found.items() if k not in dropped}
    blobs, backups = _restore_backups(blobs)
    _check_architecture(blobs)
    num_classes = len(blobs["cls_score_w"]) - 1
    kind, source, embedding = _mask_predictor(blobs, num_classes)
    mlp_pixels = blobs.get(f"{MLP[-1]}_b")
    return Caffe2Model(
        blobs,
        tuple(sorted((*dropped, *backups))),
        num_classes,
        class_agnostic_boxes=num_classes > 1 and len(blobs["bbox_pred_w"]) == 8,
        mask=kind,
        transfer_input=source,
        embedding=embedding,
        negative_slope=_negative_slope(content.get("cfg")),
        mask_size=28 if mlp_pixels is None else math.isqrt(len(mlp_pixels)),
    )


def _restore_backups(blobs: Blobs) -> tuple[Blobs, list[str]]:
    """
    The box head of all categories of Visual Genome, where it was put aside for COCO's.

    The authors' second stage trained on a detector of COCO's 80 categories, cut out of that of
    3,001; it was frozen, so its rows must be the first of the backup.
    """
    backups = {k: k.removesuffix(_BACKUP) for k in blobs if k.endswith(_BACKUP)}
    blobs = dict(blobs)
    for backup, name in backups.items():
        rows, all_rows = blobs.get(name), blobs.pop(backup)
        if rows is not None and not np.array_equal(rows, all_rows[: len(rows)]):
            raise ValueError(
                f"blob '{name}' is not the beginning of '{backup}', so it was trained after the "
                "backup was made, and which of the two is the model can't be known; delete one."
            )
        blobs[name] = all_rows
    return blobs, list(backups)


def _check_architecture(blobs: Blobs) -> None:
    needed = ("conv1_w", "res2_0_branch2a_w", "cls_score_w", "bbox_pred_w", "fc6_w", "fc7_w")
    missing = [name for name in needed if name not in blobs]
    if missing:
        raise ValueError(f"it is no Fast R-CNN model with a ResNet: it has no '{missing[0]}'.")
    if "conv_rpn_fpn2_w" not in blobs or "fpn_res2_2_sum_w" not in blobs:
        raise ValueError("it has no FPN with an RPN, which all models of the authors have.")
    blocks = _count(blobs, r"res4_(\d+)_branch2a_w", start=0)
    if blocks not in _DEPTHS:
        raise ValueError(f"its res4 has {blocks} blocks; ResNet-50, 101 and 152 can be converted.")
    if blobs["res2_0_branch2b_w"].shape[1] != len(blobs["res2_0_branch2a_w"]):
        raise ValueError("it is a ResNeXt, of which the authors published none.")
    rows, boxes = len(blobs["cls_score_w"]), len(blobs["bbox_pred_w"])
    if boxes not in (4 * rows, 8):
        raise ValueError(
            f"'cls_score_w' has {rows} rows with the background's, so 'bbox_pred_w' should have "
            f"{4 * rows}, or 8, but it has {boxes}."
        )


def _mask_predictor(blobs: Blobs, num_classes: int) -> tuple[str | None, str | None, str | None]:
    """What the last layer of the mask head is, and where T's input comes from."""
    predictor = blobs.get(f"{PREDICTOR}_w")
    if f"{TRANSFER[-1]}_w" in blobs:
        first = next(blobs[f"{layer}_w"] for layer in TRANSFER if f"{layer}_w" in blobs)
        return "transfer", *_transfer_input(blobs, num_classes, first.shape[1])
    if predictor is None:
        if any(name.startswith("_[mask]_") for name in blobs):
            raise ValueError(f"it has a mask head, but neither '{PREDICTOR}_w' nor a T.")
        return None, None, None
    if len(predictor) == 1:
        return "class-agnostic", None, None
    if len(predictor) != num_classes + 1:
        raise ValueError(
            f"'{PREDICTOR}_w' has {len(predictor)} rows, where {num_classes} categories and a "
            "background, or 1, were expected."
        )
    return "class-specific", None, None


def _transfer_input(blobs: Blobs, num_classes: int, dim: int) -> tuple[str, str | None]:
    embeddings = [name for name in blobs if name.startswith("v_")]
    if len(embeddings) > 1:
        raise ValueError(f"it has several embeddings: {', '.join(sorted(embeddings))}.")
    if embeddings:
        shape, expected = blobs[embeddings[0]].shape, (num_classes + 1, dim)
        if shape != expected:
            raise ValueError(f"'{embeddings[0]}' is {shape}, where T takes {expected}.")
        return "embedding", embeddings[0]
    width = blobs["cls_score_w"].shape[1]
    inputs = {width: "cls", 4 * width: "box", 5 * width: "cls+box"}
    if dim not in inputs:
        raise ValueError(
            f"T takes vectors of {dim} numbers; the box head's are {', '.join(map(str, inputs))} "
            "long, and there is no embedding (a blob whose name begins with 'v_')."
        )
    return inputs[dim], None


def _negative_slope(cfg: Any) -> float | None:
    # The config is yaml with Python objects in it; nothing but this word of it is of use.
    said = re.search(r"\bUSE_LEAKYRELU['\"]?: *(true|false)\b", str(cfg), re.IGNORECASE)
    return None if said is None else 0.1 if said[1].lower() == "true" else 0.0


def _count(blobs: Blobs, pattern: str, *, start: int) -> int:
    """How many blobs are called so, which are numbered from ``start`` on."""
    numbers = sorted(int(m[1]) for name in blobs if (m := re.fullmatch(pattern, name)))
    if numbers != list(range(start, start + len(numbers))):
        raise ValueError(f"some of its blobs '{pattern}' are missing: {numbers} are there.")
    return len(numbers)
