"""The mask head whose last layer is generated for each category ("w_seg" of the paper)."""

# No `from __future__ import annotations`: TorchScript can't read string annotations.
import logging
from collections.abc import Sequence
from typing import Any, Dict, List

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.mask_head import (
    ROI_MASK_HEAD_REGISTRY,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import Tensor

from .deep_mask_head import DeepConvUpsampleHead
from .mlp_branch import MLPBranch

__all__ = ["MLPConvUpsampleHead", "MaskXConvUpsampleHead"]

logger = logging.getLogger(__name__)


@ROI_MASK_HEAD_REGISTRY.register()
class MaskXConvUpsampleHead(DeepConvUpsampleHead):
    """
    Detectron2's conv mask head with the class-specific predictor's weights given from outside.

    The trunk (``mask_fcn*``, ``deconv``) is the parent's, under the parent's names, so Mask R-CNN
    checkpoints fill it. The parent's ``predictor`` is gone: the 1×1 convolution of category c is
    row c of the ``class_weights`` handed to :meth:`forward`. Only the row of each RoI's own
    category is applied, so time and memory do not depend on the number of categories.

    With the MLP branch, a class-agnostic mask from a fully connected layer on the same features is
    added to the logits (paper, section 3.4 and Table 1c).
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: List[int],
        mlp_branch: bool = False,
        mlp_rank: int = 0,
        mlp_hidden_dims: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the pooled RoI features.
            conv_dims: as for :class:`MaskRCNNConvUpsampleHead`; the last is C.
            mlp_branch: whether to add the class-agnostic mask of a fully connected layer.
            mlp_rank, mlp_hidden_dims: its rank, 0 for the paper's full rank, or the widths of its
                hidden layers; see :class:`MLPBranch`.
            **kwargs: further arguments of :class:`DeepConvUpsampleHead` and its parent.
        """
        super().__init__(input_shape, num_classes=1, conv_dims=conv_dims, **kwargs)
        del self.predictor
        self.num_trunk_layers = len(self)
        self.out_channels: int = conv_dims[-1]
        self.mlp_branch = (
            _mlp_branch(input_shape, conv_dims, mlp_rank, mlp_hidden_dims) if mlp_branch else None
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> Dict[str, Any]:
        """See :meth:`MaskRCNNConvUpsampleHead.from_config`."""
        if cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError(
                "MaskXConvUpsampleHead is class-specific: set "
                "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK to False, or, for the class-agnostic "
                "baseline, MODEL.ROI_HEADS.NAME to SupervisedMasksROIHeads and "
                "MODEL.ROI_MASK_HEAD.NAME to MaskRCNNConvUpsampleHead."
            )
        ret: Dict[str, Any] = super().from_config(cfg, input_shape)
        del ret["num_classes"]
        ret["mlp_branch"] = cfg.MODEL.MASKX.MLP_BRANCH
        ret.update(_mlp_options(cfg))
        return ret

    def forward(
        self,
        x: Tensor,
        instances: List[Instances],
        class_weights: Tensor,
        rows: Tensor | None = None,
    ) -> Any:
        """
        As :meth:`BaseMaskRCNNHead.forward`, whose loss and inference are used as they are.

        Args:
            x: (R, channels, M/2, M/2) pooled features of all R RoIs.
            instances: N images' RoIs, R in all; ``gt_classes`` and ``gt_masks`` in training,
                ``pred_classes`` in inference.
            class_weights: (K, C) float, row c the mask predictor of category c.
            rows: int64 (R,), each RoI's row of ``class_weights``, for when those are of some
                categories only; by default its category.

        Returns:
            In training a dict of losses, in inference ``instances`` with ``pred_masks``
            (R_i, 1, M, M) of probabilities.
        """
        if self.training:
            rows = _gt_classes(instances) if rows is None else rows
            logits = self.layers(x, class_weights[rows])
            return {
                "loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight
            }
        rows = cat([i.pred_classes for i in instances]) if rows is None else rows
        mask_rcnn_inference(self.layers(x, class_weights[rows]), instances)
        return instances

    def layers(self, x: Tensor, roi_weights: Tensor) -> Tensor:
        """
        Args:
            x: (R, channels, M/2, M/2) pooled features.
            roi_weights: (R, C), the mask predictor of each RoI's category.

        Returns:
            (R, 1, M, M) mask logits.
        """
        for i, layer in enumerate(self):
            if i < self.num_trunk_layers:  # the MLP branch is a sibling, not the next layer
                x = layer(x)
        logits = torch.einsum("rchw,rc->rhw", x, roi_weights).unsqueeze(1)
        if self.mlp_branch is not None:
            logits = logits + self.mlp_branch(x)
        return logits

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        dropped = [prefix + key for key in ("predictor.weight", "predictor.bias")]
        dropped = [key for key in dropped if state_dict.pop(key, None) is not None]
        if dropped:
            logger.info(
                f"{' and '.join(dropped)} of the checkpoint not used: "
                "the weight transfer function predicts the mask weights of every category."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


@ROI_MASK_HEAD_REGISTRY.register()
class MLPConvUpsampleHead(DeepConvUpsampleHead):
    """
    Detectron2's conv mask head with the MLP branch's class-agnostic mask added to its logits.

    With ``MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK`` it is the paper's "class-agnostic + MLP"
    (Table 1c). It needs no weight transfer.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: List[int],
        mlp_rank: int = 0,
        mlp_hidden_dims: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the pooled RoI features.
            conv_dims: as for :class:`MaskRCNNConvUpsampleHead`; the last is C.
            mlp_rank, mlp_hidden_dims: see :class:`MLPBranch`.
            **kwargs: further arguments of the parent.
        """
        super().__init__(input_shape, conv_dims=conv_dims, **kwargs)
        self.num_trunk_layers = len(self) - 1
        self.mlp_branch = _mlp_branch(input_shape, conv_dims, mlp_rank, mlp_hidden_dims)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> Dict[str, Any]:
        """See :meth:`MaskRCNNConvUpsampleHead.from_config`."""
        return {**super().from_config(cfg, input_shape), **_mlp_options(cfg)}

    def layers(self, x: Tensor) -> Tensor:
        """(R, channels, M/2, M/2) pooled features → (R, K or 1, M, M) mask logits."""
        for i, layer in enumerate(self):
            if i < self.num_trunk_layers:  # predictor and MLP branch both stand on the trunk
                x = layer(x)
        return self.predictor(x) + self.mlp_branch(x)


def _mlp_options(cfg: Any) -> Dict[str, Any]:
    """The MLP branch's, of a config that may be without ``add_maskx_config``'s keys."""
    ours = cfg.MODEL.get("MASKX", {})
    return {
        "mlp_rank": ours.get("MLP_RANK", 0),
        "mlp_hidden_dims": ours.get("MLP_HIDDEN_DIMS", ()),
    }


def _mlp_branch(
    input_shape: ShapeSpec, conv_dims: List[int], rank: int, hidden_dims: Sequence[int]
) -> MLPBranch:
    if not input_shape.height or input_shape.height != input_shape.width:
        raise ValueError(
            "the MLP branch of the mask head needs RoI features of one known square size, "
            f"got {input_shape.height}×{input_shape.width}; "
            "set MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION, or MODEL.MASKX.MLP_BRANCH to False."
        )
    return MLPBranch(conv_dims[-1], 2 * input_shape.height, rank=rank, hidden_dims=hidden_dims)


@torch.jit.unused
def _gt_classes(instances: List[Instances]) -> Tensor:
    """The ground-truth category of each of the R RoIs, int64 (R,). Not for TorchScript."""
    return cat([i.gt_classes for i in instances])
