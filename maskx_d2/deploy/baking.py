"""
The weight transfer function evaluated once and for all.

In a trained model, T's output is a constant: a row of mask weights for each category. Written into
the place that detectron2's own mask head has for it, it makes a plain Mask R-CNN of a Mask^X R-CNN.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from .._files import written_whole
from ..engine.exact_loading import load_exactly
from ..engine.lazy_main import is_lazy, load_lazy
from ..engine.yaml_main import load_config
from ..modeling import MaskXConvUpsampleHead, MaskXMixin, OpenVocabularyMaskXROIHeads
from .baked_config import BakedModel, baked_cfg, baked_lazy, plain_roi_heads

__all__ = ["Baked", "bake", "baked_state_dict"]

#: Probabilities of masks that differ by more than this are not the same model's.
_TOLERANCE = 1e-4

_PREDICTOR = "roi_heads.mask_head.predictor"


@dataclass(frozen=True)
class Baked:
    """
    What was written.

    Attributes:
        weights: the checkpoint.
        config_file: its config.
        num_classes: K.
        predictor_parameters: of the 1×1 convolution that the mask weights are now, K·C + K.
        transfer_parameters: of T, which is gone.
        mask_bytes: what the K masks of 100 RoIs take in the mask head, in full precision; with
            the selection, their one mask each.
        dropped_mlp_branch: whether the MLP branch was left out, so that masks are others.
        largest_difference: of mask probabilities on noise, between the model before and after.
    """

    weights: Path
    config_file: Path
    num_classes: int
    predictor_parameters: int
    transfer_parameters: int
    mask_bytes: int
    dropped_mlp_branch: bool
    largest_difference: float


def bake(
    config_file: str,
    weights: str,
    output: str | os.PathLike[str],
    *,
    opts: Sequence[str] = (),
    keep_selection: bool = False,
    drop_mlp: bool = False,
) -> Baked:
    """
    Write ``model.pth`` and ``config.yaml`` of a Mask^X model whose mask weights are constants.

    Both are built and loaded again, and must predict the masks that the model predicts, before
    the files are written.

    Args:
        config_file: of the trained model, ``.yaml`` or ``.py``.
        weights: its checkpoint.
        output: the folder to write to, made if need be.
        opts: overrides of the config, as on the command line of ``train_net.py``.
        keep_selection: whether each RoI goes on to compute its own category's mask only, by
            :class:`~maskx_d2.modeling.PerRoIConvUpsampleHead` of this package. Else the model is
            detectron2's, which does not need this package, and computes K masks for each RoI.
        drop_mlp: leave the MLP branch out, for which detectron2's mask head has no place. The
            masks are others then.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: if the config file or the checkpoint does not exist.
        TypeError: if the model is not a Mask^X model that can be baked.
        ValueError: if config and checkpoint do not belong together, or there is an MLP branch
            and neither ``keep_selection`` nor ``drop_mlp``, or a deeper mask head without
            ``keep_selection``.
        RuntimeError: if the baked model's masks are others, because ROI heads of your own do
            more than mix in :class:`~maskx_d2.modeling.MaskXMixin`.
    """
    for path in (config_file, weights):
        if "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(f"file '{path}' does not exist.")
    cfg = _read(config_file, opts)
    model = _build(cfg)
    heads = _maskx_roi_heads(model)
    load_exactly(model, weights)
    mlp_branch = heads.mask_head.mlp_branch
    if mlp_branch is not None and drop_mlp:
        heads.mask_head.mlp_branch = mlp_branch = None
        dropped = True
    elif mlp_branch is not None and not keep_selection:
        raise ValueError(
            "the model has an MLP branch, for which detectron2's mask head has no place: give "
            "--keep-selection to keep it in a model that needs maskx_d2, or --drop-mlp to leave "
            "it out, which changes the masks."
        )
    else:
        dropped = False
    trunk = heads.mask_head.trunk_options if heads.mask_head.trunk_options["trunk"] else {}
    if trunk and not keep_selection:
        raise ValueError(
            f"the mask head has a trunk of {trunk['trunk']} blocks, for which detectron2's has no "
            "place: give --keep-selection, which makes a model that needs maskx_d2."
        )
    state = baked_state_dict(model)
    becomes = BakedModel(
        plain_roi_heads(type(heads)),
        heads.num_classes,
        keep_selection,
        None if mlp_branch is None else mlp_branch.options,
        trunk,
    )
    output = Path(output)
    weights_file, new_config = output / "model.pth", output / "config.yaml"
    for written, read in ((weights_file, weights), (new_config, config_file)):
        if written.exists() and written.samefile(read):
            raise ValueError(
                f"'{written}' is the model that is to be baked and would be overwritten; choose "
                "another output folder."
            )
    to_baked: Any = baked_lazy if isinstance(cfg, DictConfig) else baked_cfg
    new_cfg = to_baked(cfg, becomes, str(weights_file), str(output))
    difference, mask_side = _compare(model, state, new_cfg)
    output.mkdir(parents=True, exist_ok=True)
    with written_whole(weights_file) as path:
        torch.save({"model": state}, path)
    with written_whole(new_config) as path:
        _save_config(new_cfg, path)
    channels = heads.mask_head.out_channels
    masks = 1 if keep_selection else heads.num_classes
    return Baked(
        weights=weights_file,
        config_file=new_config,
        num_classes=heads.num_classes,
        predictor_parameters=heads.num_classes * (channels + 1),
        transfer_parameters=sum(p.numel() for p in heads.weight_transfer.parameters()),
        mask_bytes=4 * 100 * masks * mask_side**2,
        dropped_mlp_branch=dropped,
        largest_difference=difference,
    )


@torch.no_grad()
def baked_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """
    The parameters and buffers of a Mask^X model, with T's output in the place of T.

    Args:
        model: a model with :class:`~maskx_d2.modeling.MaskXMixin`.

    Returns:
        ``model``'s state without ``roi_heads.weight_transfer`` and the class embedding, with
        ``roi_heads.mask_head.predictor.weight`` (K, C, 1, 1) and its bias (K,), which is zero:
        the paper's predictor has none.
    """
    class_weights = model.eval().roi_heads.class_weights()
    gone = ("roi_heads.weight_transfer.", "roi_heads.class_embedding")
    # Copies: files of tensors that share memory would hold all of it.
    state = {k: v.cpu().clone() for k, v in model.state_dict().items() if not k.startswith(gone)}
    state[f"{_PREDICTOR}.weight"] = class_weights[:, :, None, None].cpu().clone()
    state[f"{_PREDICTOR}.bias"] = torch.zeros(len(class_weights))
    return state


def _read(config_file: str, opts: Sequence[str]) -> CfgNode | DictConfig:
    if is_lazy(config_file):
        return load_lazy(config_file, opts)
    return load_config(config_file, opts)


def _build(cfg: CfgNode | DictConfig) -> nn.Module:
    """The model, on the CPU whatever the config says."""
    if isinstance(cfg, DictConfig):
        model: nn.Module = instantiate(cfg.model)
    else:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg)
    return model.eval()


def _maskx_roi_heads(model: nn.Module) -> Any:
    heads: Any = getattr(model, "roi_heads", None)
    if not isinstance(heads, MaskXMixin):
        raise TypeError(
            f"the config's model has no weight transfer function to bake (its ROI heads are "
            f"{type(heads).__name__}); it can be used as it is."
        )
    if isinstance(heads, OpenVocabularyMaskXROIHeads):
        raise TypeError(
            "a model with an open vocabulary can't be baked: its classifier compares with vectors, "
            "for which detectron2's box predictor has no place."
        )
    if type(heads.mask_head) is not MaskXConvUpsampleHead:
        raise TypeError(
            f"mask head {type(heads.mask_head).__name__} can't be baked: what it does beyond "
            "MaskXConvUpsampleHead has no place in detectron2's."
        )
    return heads


def _compare(model: nn.Module, state: dict[str, Tensor], new_cfg: Any) -> tuple[float, int]:
    """Build the baked model; the largest difference of its masks, and their side M in pixels."""
    baked = _build(new_cfg)
    baked.load_state_dict(state)
    before, after = _masks_on_noise(model), _masks_on_noise(baked)
    difference = float((before - after).abs().max())
    if not difference <= _TOLERANCE:  # which a NaN isn't either
        raise RuntimeError(
            f"the baked model's mask probabilities differ by {difference:.2g} from those of "
            f"{type(model.roi_heads).__name__}: the class does more than {MaskXMixin.__name__} and "
            f"{type(baked.roi_heads).__name__} together, so its models can't be baked."
        )
    return difference, before.shape[-1]


@torch.no_grad()
def _masks_on_noise(model: Any) -> Tensor:
    """Mask probabilities (R, 1, M, M) of up to 20 categories, each on a box of its own."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 128, 128), generator=generator, dtype=torch.uint8)
    images = model.preprocess_image([{"image": image}])
    num_classes = model.roi_heads.num_classes
    classes = torch.linspace(0, num_classes - 1, min(20, num_classes)).round().long()
    corners = 64 * torch.rand(len(classes), 2, generator=generator)
    rois = Instances(images.image_sizes[0])
    rois.pred_boxes = Boxes(torch.cat([corners, corners + 48], dim=1))
    rois.pred_classes = classes
    features = model.backbone(images.tensor)
    masks: Tensor = model.roi_heads.forward_with_given_boxes(features, [rois])[0].pred_masks
    return masks


def _save_config(cfg: CfgNode | DictConfig, path: Path) -> None:
    if isinstance(cfg, DictConfig):
        LazyConfig.save(cfg, str(path))
    else:
        path.write_text(cfg.dump(), encoding="utf-8")
