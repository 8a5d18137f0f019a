"""Detectron2's conv mask head with a deeper trunk."""

# No `from __future__ import annotations`: TorchScript can't read string annotations.
from typing import Any, Dict

import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.roi_heads.mask_head import (
    ROI_MASK_HEAD_REGISTRY,
    MaskRCNNConvUpsampleHead,
)
from torch import Tensor, nn

__all__ = ["MASK_TRUNKS", "DeepConvUpsampleHead", "Hourglass"]

_HOURGLASS_LEVELS = 2


class Hourglass(nn.Module):
    """
    A block that sees all of a RoI: features are pooled, and added again as they widen.

    The hourglass of Newell et al. (ECCV 2016), of detectron2's residual blocks. With deep ones,
    class-agnostic masks carry over to categories without masks much better (Birodkar et al., ICCV
    2021, section 5). Called with (R, C, H, W) float, it returns the same shape.
    """

    def __init__(self, channels: int, *, levels: int = _HOURGLASS_LEVELS, norm: str = "GN") -> None:
        """
        Args:
            channels: C.
            levels: how often the resolution is halved.
            norm: of detectron2's :func:`get_norm`.
        """
        super().__init__()
        self.skip = BasicBlock(channels, channels, norm=norm)
        self.before = BasicBlock(channels, channels, norm=norm)
        self.inner = (
            Hourglass(channels, levels=levels - 1, norm=norm)
            if levels > 1
            else BasicBlock(channels, channels, norm=norm)
        )
        self.after = BasicBlock(channels, channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        pooled = F.max_pool2d(x, kernel_size=2)
        pooled = self.after(self.inner(self.before(pooled)))
        widened = F.interpolate(pooled, size=(x.shape[2], x.shape[3]), mode="nearest")
        result: Tensor = self.skip(x) + widened
        return result


def _bottleneck(channels: int, norm: str) -> nn.Module:
    block: nn.Module = BottleneckBlock(
        channels, channels, bottleneck_channels=channels // 4, norm=norm
    )
    return block


#: Blocks that a trunk can be made of, (channels, norm) → block.
MASK_TRUNKS = {
    "bottleneck": _bottleneck,
    "hourglass": lambda channels, norm: Hourglass(channels, norm=norm),
}


@ROI_MASK_HEAD_REGISTRY.register()
class DeepConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """
    Detectron2's conv mask head, behind residual blocks where they are asked for.

    Without a ``trunk`` it is the parent, so its checkpoints fill it. A trunk commonly replaces the
    parent's convolutions: ``MODEL.ROI_MASK_HEAD.NUM_CONV 0``. All mask heads of this package derive
    from it.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        trunk: str = "",
        trunk_depth: int = 1,
        conv_norm: str = "",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the pooled RoI features.
            trunk: one of :data:`MASK_TRUNKS`; "" for none.
            trunk_depth: how many of its blocks.
            conv_norm: of all convolutions, also of the parent's.
            **kwargs: further arguments of the parent.

        Raises:
            ValueError: if the trunk is unknown or empty, or has no normalization.
        """
        super().__init__(input_shape, conv_norm=conv_norm, **kwargs)
        self.trunk_options: Dict[str, Any] = {"trunk": trunk, "trunk_depth": trunk_depth}
        if not trunk:
            return
        if trunk not in MASK_TRUNKS or trunk_depth < 1:
            raise ValueError(
                f"the mask head's trunk is {trunk_depth} times '{trunk}' (MODEL.MASKX.MASK_TRUNK, "
                f"MASK_TRUNK_DEPTH); choose {' or '.join(MASK_TRUNKS)}, at least once."
            )
        if not conv_norm:
            raise ValueError(
                f"a trunk of {trunk} blocks needs normalization: set MODEL.ROI_MASK_HEAD.NORM "
                "(conv_norm) to GN."
            )
        channels = input_shape.channels
        blocks = [MASK_TRUNKS[trunk](channels, conv_norm) for _ in range(trunk_depth)]
        # In front of what the parent has made; nn.Sequential has no way to say so.
        following = dict(self._modules)
        self._modules.clear()
        self.add_module("trunk", nn.Sequential(*blocks))
        self._modules.update(following)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> Dict[str, Any]:
        """See :meth:`MaskRCNNConvUpsampleHead.from_config`."""
        # A config without add_maskx_config has no such keys, and needs none.
        ours = cfg.MODEL.get("MASKX", {})
        return {
            **super().from_config(cfg, input_shape),
            "trunk": ours.get("MASK_TRUNK", ""),
            "trunk_depth": ours.get("MASK_TRUNK_DEPTH", 1),
        }
