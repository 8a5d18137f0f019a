"""From a checkpoint of the authors' Caffe2 code to one of this package, with its config."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor

from ..config import add_maskx_config
from .caffe2_model import MLP, PREDICTOR, TRANSFER, Caffe2Model, read_caffe2_model

__all__ = ["Converted", "convert"]

#: Detectron2's own config for models of Detectron: RoIAlign, and the losses, as they were.
_BASE = "Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x.yaml"
_DATASETS = {
    80: ("coco_2017_train", "coco_2017_val"),
    3001: ("visual_genome_train", "visual_genome_val"),
}


_EMBEDDING = "embedding.npy"


@dataclass(frozen=True)
class Converted:
    """
    What was written.

    Attributes:
        weights: the checkpoint.
        config_file: its config.
        model: what the file was found to be.
    """

    weights: Path
    config_file: Path
    model: Caffe2Model


def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    negative_slope: float | None = None,
    datasets: Sequence[str] | None = None,
) -> Converted:
    """
    Write ``model.pth`` and ``config.yaml`` of a model of "Learning to Segment Every Thing".

    Each blob of the file becomes exactly one parameter of the model, and each parameter is found.
    The background, which comes first there, goes last in ``cls_score`` and away elsewhere.

    Args:
        path: a ``.pkl`` file of the authors' code, see :func:`read_caffe2_model`.
        output: a folder, which is made.
        negative_slope: of T's activation, 0.1 (LeakyReLU) or 0.0 (ReLU), for files that don't say;
            0.1 by default, as in the authors' code.
        datasets: registered data sets for ``DATASETS.TRAIN`` and ``DATASETS.TEST``; COCO's for 80
            categories and Visual Genome's for 3,001 by default.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_caffe2_model`; also if a blob has no place in
            the model, or a parameter has no blob.
    """
    source = read_caffe2_model(path)
    folder = Path(output)
    weights, config_file = folder / "model.pth", folder / "config.yaml"
    cfg = _config(source, folder, weights, negative_slope, datasets)
    on_cpu = cfg.clone()
    on_cpu.MODEL.DEVICE = "cpu"
    with TemporaryDirectory() as scratch:
        if source.embedding:
            if not cfg.DATASETS.TRAIN:
                raise ValueError(
                    f"file '{path}': T sees vectors of {source.num_classes} categories; name the "
                    "data sets that say which these are (--datasets)."
                )
            _write_embedding(source, Path(scratch))
            on_cpu.MODEL.MASKX.EMBEDDING_FILE = str(Path(scratch) / _EMBEDDING)
        model = build_model(on_cpu)
    try:
        state = _state_dict(source, model.state_dict())
    except ValueError as e:
        raise ValueError(f"file '{path}': {e}") from None
    model.load_state_dict(state)
    # Not before all is known to fit: an earlier conversion may lie there.
    folder.mkdir(parents=True, exist_ok=True)
    if source.embedding:
        _write_embedding(source, folder)
    torch.save({"model": model.state_dict()}, weights)
    config_file.write_text(cfg.dump(), encoding="utf-8")
    return Converted(weights, config_file, source)


def _write_embedding(source: Caffe2Model, folder: Path) -> None:
    assert source.embedding is not None
    path = folder / _EMBEDDING
    np.save(path, source.blobs[source.embedding][1:])
    path.with_suffix(".json").write_text(json.dumps({"order": "dataset"}), encoding="utf-8")


def _config(
    source: Caffe2Model,
    folder: Path,
    weights: Path,
    negative_slope: float | None,
    datasets: Sequence[str] | None,
) -> CfgNode:
    blobs = source.blobs
    cfg = get_cfg()
    add_maskx_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(_BASE))
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.OUTPUT_DIR = str(folder)
    train, test = datasets or _DATASETS.get(source.num_classes, ("", ""))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,) if train else (), (test,) if test else ()

    cfg.MODEL.RESNETS.DEPTH = source.depth
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = source.width("conv1")
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = source.width("res2_0_branch2a")
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = source.width("res2_0_branch2c")
    cfg.MODEL.FPN.OUT_CHANNELS = source.width("fpn_res2_2_sum")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = source.num_classes
    box_head = cfg.MODEL.ROI_BOX_HEAD
    box_head.CLS_AGNOSTIC_BBOX_REG = source.class_agnostic_boxes
    box_head.FC_DIM = source.width("fc6")
    box_head.POOLER_RESOLUTION = round(
        (blobs["fc6_w"].shape[1] / cfg.MODEL.FPN.OUT_CHANNELS) ** 0.5
    )
    cfg.MODEL.MASK_ON = source.mask is not None
    if source.mask is None:
        return cfg
    mask_head, maskx = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.MASKX
    mask_head.NUM_CONV = source.num_mask_convs
    mask_head.CONV_DIM = int(blobs["conv5_mask_w"].shape[1])
    mask_head.POOLER_RESOLUTION = source.mask_size // 2
    mask_head.CLS_AGNOSTIC_MASK = source.mask == "class-agnostic"
    mlp = source.layers(MLP)
    maskx.MLP_BRANCH = bool(mlp) and source.mask == "transfer"
    maskx.MLP_HIDDEN_DIMS = [source.width(layer) for layer in mlp[:-1]]
    if source.mask == "transfer":
        cfg.MODEL.ROI_HEADS.NAME = "MaskXROIHeads"
        mask_head.NAME = "MaskXConvUpsampleHead"
        maskx.TRANSFER_INPUT = source.transfer_input
        maskx.EMBEDDING_FILE = str(folder / _EMBEDDING) if source.embedding else ""
        maskx.TRANSFER_HIDDEN_DIMS = [source.width(la) for la in source.layers(TRANSFER)[:-1]]
        slopes = (source.negative_slope, negative_slope, 0.1)
        maskx.TRANSFER_NEGATIVE_SLOPE = next(s for s in slopes if s is not None)
    else:
        cfg.MODEL.ROI_HEADS.NAME = "SupervisedMasksROIHeads"
        mask_head.NAME = "MLPConvUpsampleHead" if mlp else "MaskRCNNConvUpsampleHead"
    return cfg


def _state_dict(source: Caffe2Model, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """
    Every parameter of the model from the blob that it is.

    Detectron2 converts the names of the detector and of the mask head's trunk. It would take T's
    last layer and a class-agnostic predictor for class-specific ones and cut off a row, so what is
    new in the authors' code is placed here.
    """
    blobs = {name: torch.from_numpy(np.array(blob)) for name, blob in source.blobs.items()}
    placed: dict[str, tuple[str, Tensor]] = {}
    for module, names in (("weight_transfer", TRANSFER), ("mask_head.mlp_branch", MLP)):
        for i, layer in enumerate(source.layers(names)):
            for short, long in (("w", "weight"), ("b", "bias")):
                # Every second module is an activation.
                key = f"roi_heads.{module}.{2 * i}.{long}"
                placed[key] = (name := f"{layer}_{short}", _taken(blobs, name))
    if source.mask in ("class-specific", "class-agnostic"):
        background = 1 if source.mask == "class-specific" else 0
        for short, long in (("w", "weight"), ("b", "bias")):
            name = f"{PREDICTOR}_{short}"
            rows = _taken(blobs, name)[background:]
            placed[f"roi_heads.mask_head.predictor.{long}"] = (name, rows)
    if source.embedding:
        rows = _taken(blobs, source.embedding)[1:].float()
        placed["roi_heads.class_embedding"] = (source.embedding, rows)

    converted, original = convert_c2_detectron_names(blobs)
    for name, tensor in converted.items():
        keys = [k for k in expected if k == name or k.endswith(f".{name}")]
        if len(keys) != 1 or keys[0] in placed:
            raise ValueError(
                f"blob '{original[name]}' has no place in the model, which is taken to be a "
                f"ResNet-{source.depth}-FPN with {source.mask or 'no'} masks."
            )
        placed[keys[0]] = (original[name], tensor)
    for key, (name, tensor) in placed.items():
        if key not in expected or tensor.shape != expected[key].shape:
            wanted = tuple(expected[key].shape) if key in expected else "nothing"
            raise ValueError(
                f"blob '{name}' gives {tuple(tensor.shape)} for '{key}', but it is {wanted}."
            )
    missing = [k for k in expected if k not in placed and not _is_constant(k)]
    if missing:
        raise ValueError(f"no blob is '{missing[0]}' ({len(missing)} parameters are missing).")
    return {k: placed[k][1] if k in placed else v for k, v in expected.items()}


def _taken(blobs: dict[str, Tensor], name: str) -> Tensor:
    if name not in blobs:
        raise ValueError(f"it has no blob '{name}'.")
    return blobs.pop(name)


def _is_constant(key: str) -> bool:
    """What a config gives: Caffe2 has merged the statistics into the scale and the offset."""
    return key.endswith((".norm.running_mean", ".norm.running_var", "pixel_mean", "pixel_std"))
