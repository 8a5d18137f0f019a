"""A mask head with a fixed predictor of which each RoI computes its own category's row only."""

# No `from __future__ import annotations`: TorchScript can't read string annotations.
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
from .mask_head import _gt_classes, _mlp_branch, _mlp_options

__all__ = ["PerRoIConvUpsampleHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class PerRoIConvUpsampleHead(DeepConvUpsampleHead):
    """
    Detectron2's class-specific conv mask head, without the masks that nobody looks at.

    Parameters, their names, losses and predictions are the parent's; but the parent computes K
    masks for each RoI and picks one, this head computes that one. Time and memory do not depend
    on the number of categories.

    ``maskx bake --keep-selection`` writes models with it: the predictor holds what the weight
    transfer function gave, and any ROI heads of detectron2 can use it. So it serves every Mask
    R-CNN with many categories.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: List[int],
        mlp_branch: bool = False,
        mlp_rank: int = 0,
        mlp_hidden_dims: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the pooled RoI features.
            num_classes: K.
            conv_dims: as for :class:`MaskRCNNConvUpsampleHead`; the last is C.
            mlp_branch: whether to add the class-agnostic mask of a fully connected layer.
            mlp_rank, mlp_hidden_dims: its rank, 0 for the paper's full rank, or the widths of its
                hidden layers; see :class:`MLPBranch`.
            **kwargs: further arguments of :class:`DeepConvUpsampleHead` and its parent.
        """
        super().__init__(input_shape, num_classes=num_classes, conv_dims=conv_dims, **kwargs)
        self.num_trunk_layers = len(self) - 1
        self.mlp_branch = (
            _mlp_branch(input_shape, conv_dims, mlp_rank, mlp_hidden_dims) if mlp_branch else None
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> Dict[str, Any]:
        """See :meth:`MaskRCNNConvUpsampleHead.from_config`."""
        if cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError(
                "PerRoIConvUpsampleHead picks each RoI's category, but "
                "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK is True: set it to False, or "
                "MODEL.ROI_MASK_HEAD.NAME to MaskRCNNConvUpsampleHead."
            )
        # A config without add_maskx_config has no such keys, and needs none.
        mlp_branch = cfg.MODEL.get("MASKX", {}).get("MLP_BRANCH", False)
        return {
            **super().from_config(cfg, input_shape),
            "mlp_branch": mlp_branch,
            **_mlp_options(cfg),
        }

    # No return type: TorchScript infers which of the two it is from the mode it is compiled in, and
    # detectron2's ROI heads can't be scripted with anything less exact.
    def forward(self, x: Tensor, instances: List[Instances]):  # type: ignore[no-untyped-def]
        """
        See :meth:`BaseMaskRCNNHead.forward`, whose loss and inference are used as they are.

        Args:
            x: (R, channels, M/2, M/2) pooled features of all R RoIs.
            instances: N images' RoIs, R in all; ``gt_classes`` and ``gt_masks`` in training,
                ``pred_classes`` in inference.

        Returns:
            In training a dict of losses, in inference ``instances`` with ``pred_masks``
            (R_i, 1, M, M) of probabilities.
        """
        if self.training:
            logits = self.layers(x, _gt_classes(instances))
            return {
                "loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight
            }
        mask_rcnn_inference(self.layers(x, cat([i.pred_classes for i in instances])), instances)
        return instances

    def layers(self, x: Tensor, classes: Tensor) -> Tensor:
        """
        Args:
            x: (R, channels, M/2, M/2) pooled features.
            classes: int64 (R,), the category of each RoI, 0 to K - 1.

        Returns:
            (R, 1, M, M) mask logits.
        """
        for i, layer in enumerate(self):
            if i < self.num_trunk_layers:  # predictor and MLP branch both stand on the trunk
                x = layer(x)
        weights = self.predictor.weight.flatten(1)[classes]
        logits = torch.einsum("rchw,rc->rhw", x, weights).unsqueeze(1)
        # The order of the sums is MaskXConvUpsampleHead's, so a baked model agrees to the bit.
        if self.mlp_branch is not None:
            logits = logits + self.mlp_branch(x)
        bias = self.predictor.bias
        assert bias is not None  # which TorchScript can't know
        return logits + bias[classes].reshape(-1, 1, 1, 1)
