"""VGG-A as a trunk of stride 16."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor
from torchvision.models.vgg import cfgs, make_layers

__all__ = ["VGGBackbone", "build_vgg_a_backbone"]


class VGGBackbone(Backbone):
    """
    The 8 convolutions of VGG-A without the last pooling, as DeepMask has it (section 3.1).

    The layers are torchvision's, under its names: ``features.*`` of a ``vgg11`` checkpoint fills
    them, for which ``INPUT.FORMAT`` is RGB, ``MODEL.PIXEL_MEAN`` [123.675, 116.28, 103.53] and
    ``MODEL.PIXEL_STD`` [58.395, 57.12, 57.375].
    """

    #: x and y that the first feature is centred on, in pixels: its poolings don't pad.
    first_center = 8.0

    def __init__(self, in_channels: int = 3, *, freeze_at: int = 0) -> None:
        """
        Args:
            in_channels: of images; 3, as torchvision has it.
            freeze_at: how many of the 5 groups of convolutions, from the first, don't learn.

        Raises:
            ValueError: if images have other than 3 channels.
        """
        super().__init__()
        if in_channels != 3:
            raise ValueError(
                f"VGG-A is made for images of 3 channels, not of {in_channels}; see "
                "MODEL.PIXEL_MEAN."
            )
        self.features = make_layers(cfgs["A"])[:-1]
        group = 1
        for layer in self.features:
            group += type(layer).__name__ == "MaxPool2d"
            if group <= freeze_at:
                layer.requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) images to ``features``: (N, 512, H // 16, W // 16)."""
        return {"features": self.features(x)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """See :meth:`Backbone.output_shape`."""
        return {"features": ShapeSpec(channels=512, stride=16)}


@BACKBONE_REGISTRY.register()
def build_vgg_a_backbone(cfg: Any, input_shape: ShapeSpec) -> VGGBackbone:
    """``MODEL.BACKBONE.NAME: build_vgg_a_backbone``; ``FREEZE_AT`` counts its poolings + 1."""
    return VGGBackbone(input_shape.channels, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
