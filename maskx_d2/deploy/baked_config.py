"""
The config of a baked model: what a Mask^X config says, in words that detectron2 knows.

One function for yaml configs and one for LazyConfigs. Neither changes what it is given.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead, ROIHeads
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..config import add_maskx_config
from ..modeling import PerRoIConvUpsampleHead, SupervisedMasksOnly

__all__ = ["BakedModel", "baked_cfg", "baked_lazy", "plain_roi_heads"]


# Arguments of this package's ROI heads that have no place in detectron2's.
_TRAINING_OF_HEADS = (
    "class_embedding",
    "stop_grad",
    "mask_rois",
    "mask_roi_jitter",
    "box_supervision",
)


@dataclass(frozen=True)
class BakedModel:
    """
    What a model is to become.

    Attributes:
        roi_heads: the ROI heads' class, without this package's mixins.
        num_classes: K.
        keep_selection: whether the mask head is :class:`PerRoIConvUpsampleHead`, or detectron2's.
        mlp_options: of the MLP branch, :attr:`MLPBranch.options`; None if the model has none. It
            takes ``keep_selection``.
        trunk_options: of a deeper mask head, :attr:`DeepConvUpsampleHead.trunk_options`; empty if
            it is none. It takes this package.
    """

    roi_heads: type[ROIHeads]
    num_classes: int
    keep_selection: bool
    mlp_options: dict[str, Any] | None = None
    trunk_options: dict[str, Any] = field(default_factory=dict)

    @property
    def mask_head(self) -> type[MaskRCNNConvUpsampleHead]:
        """The mask head's class."""
        return PerRoIConvUpsampleHead if self.keep_selection else MaskRCNNConvUpsampleHead


def plain_roi_heads(maskx_roi_heads: type) -> type[ROIHeads]:
    """The ROI heads that this package's were mixed into."""
    return next(
        c
        for c in maskx_roi_heads.__mro__
        if issubclass(c, ROIHeads) and not issubclass(c, SupervisedMasksOnly)
    )


def baked_cfg(cfg: CfgNode, model: BakedModel, weights: str, output_dir: str) -> CfgNode:
    """
    The yaml config of a baked model.

    Args:
        cfg: of the model as it was trained.
        model: what it becomes.
        weights: the baked checkpoint, for ``MODEL.WEIGHTS``.
        output_dir: for ``OUTPUT_DIR``.

    Returns:
        A config without this package's keys, but for the mask head's where it has more than
        detectron2's.

    Raises:
        ValueError: if the ROI heads are not in detectron2's registry, where a config finds them.
    """
    name = model.roi_heads.__name__
    if name not in ROI_HEADS_REGISTRY or ROI_HEADS_REGISTRY.get(name) is not model.roi_heads:
        raise ValueError(
            f"ROI heads {name}, to which the weight transfer was added, are not in detectron2's "
            "registry, so no config can name them; add @ROI_HEADS_REGISTRY.register() to them."
        )
    baked = cfg.clone()
    baked.defrost()
    _drop_maskx_keys(baked)
    baked.MODEL.ROI_HEADS.NAME = name
    baked.MODEL.ROI_MASK_HEAD.NAME = model.mask_head.__name__
    baked.MODEL.WEIGHTS = weights
    baked.OUTPUT_DIR = output_dir
    ours = {f"MASK_{key.upper()}": value for key, value in model.trunk_options.items()}
    if model.mlp_options is not None:
        options = {key.upper(): value for key, value in model.mlp_options.items()}
        ours.update({"MLP_BRANCH": True, **options})
    if ours:
        baked.MODEL.MASKX = CfgNode(ours)
    if not model.keep_selection:
        for part in ("TRAIN", "TEST"):
            baked.DATASETS[part] = tuple(_base_data_set(n) for n in cfg.DATASETS[part])
    return baked


def baked_lazy(cfg: DictConfig, model: BakedModel, weights: str, output_dir: str) -> DictConfig:
    """
    The LazyConfig of a baked model; the arguments are as for :func:`baked_cfg`.

    Returns:
        ``model``, ``train`` and of ``dataloader`` what tests, by detectron2's own parts unless
        ``keep_selection`` asks for this package anyway; what has no such part is left out.
    """
    parts = ("model", "train", "dataloader.test", "dataloader.evaluator")
    old = {part: _resolved(cfg, part) for part in parts}
    baked = OmegaConf.create({"model": old["model"]}, flags={"allow_objects": True})
    heads = baked.model.roi_heads
    for key in list(heads):
        if key in _TRAINING_OF_HEADS or str(key).startswith("transfer_"):
            heads.pop(key)
    heads._target_ = model.roi_heads
    for key in ("mlp_branch", "mlp_rank", "mlp_hidden_dims", "trunk", "trunk_depth"):
        heads.mask_head.pop(key, None)
    heads.mask_head._target_ = model.mask_head
    heads.mask_head.num_classes = model.num_classes
    if model.mlp_options is not None:
        heads.mask_head.update(mlp_branch=True, **model.mlp_options)
    heads.mask_head.update(model.trunk_options)

    baked.dataloader = {}
    for key in ("test", "evaluator"):
        part = old[f"dataloader.{key}"]
        if part is not None and not model.keep_selection:
            _use_detectron2s(part)
        if part is not None and (model.keep_selection or not _needs_this_package(part)):
            baked.dataloader[key] = part
    names = OmegaConf.select(baked, "dataloader.test.dataset.names")
    if names and not model.keep_selection:
        baked.dataloader.test.dataset.names = (
            _base_data_set(names) if isinstance(names, str) else [_base_data_set(n) for n in names]
        )
        evaluated = OmegaConf.select(baked, "dataloader.evaluator.dataset_name")
        if isinstance(evaluated, str):
            baked.dataloader.evaluator.dataset_name = _base_data_set(evaluated)
    baked.train = old["train"] or {}
    for key in ("freeze_detector", "trained_modules", "roi_cache", "mask_probe", "best_checkpoint"):
        baked.train.pop(key, None)
    baked.train.init_checkpoint = weights
    baked.train.output_dir = output_dir
    return baked


def _resolved(cfg: DictConfig, part: str) -> Any:
    """A copy of a part of a config that refers to no other part; None if there is none."""
    part = OmegaConf.select(copy.deepcopy(cfg), part)
    if part is not None:
        OmegaConf.resolve(part)
    return part


def _drop_maskx_keys(cfg: CfgNode) -> None:
    """Delete what :func:`add_maskx_config` adds to detectron2's keys."""
    stock = get_cfg()
    ours = stock.clone()
    add_maskx_config(ours)

    def drop(node: CfgNode, stock: CfgNode, ours: CfgNode) -> None:
        for key, value in ours.items():
            if key not in stock:
                node.pop(key, None)
            elif isinstance(value, CfgNode):
                drop(node[key], stock[key], value)

    drop(cfg, stock, ours)


def _base_data_set(name: str) -> str:
    """The data set that one of this package's was made from, which detectron2 may know."""
    while name in MetadataCatalog.list() and (
        base := MetadataCatalog.get(name).get("base_dataset")
    ):
        name = base
    return name


def _use_detectron2s(config: DictConfig) -> None:
    """Replace this package's mapper and evaluator, in place, by what they are derived from."""
    for value in config.values():
        if isinstance(value, DictConfig):
            _use_detectron2s(value)
    target = config.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    if isinstance(target, type) and _needs_this_package(target):
        config._target_ = next(c for c in target.__mro__ if not _needs_this_package(c))
        config.pop("class_split", None)  # of the evaluator; detectron2's has no A and B


def _needs_this_package(config: Any) -> bool:
    package = __name__.split(".")[0]
    if isinstance(config, (DictConfig, ListConfig)):
        config = OmegaConf.to_container(config, resolve=False)
    if isinstance(config, dict):
        return any(_needs_this_package(v) for v in config.values())
    if isinstance(config, Sequence) and not isinstance(config, str):
        return any(_needs_this_package(v) for v in config)
    where = config if isinstance(config, str) else getattr(config, "__module__", None) or ""
    return where == package or where.startswith(f"{package}.")
