"""The two branches of DeepMask, as convolutions: on one patch, and at all places of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MaskBranch", "ScoreBranch", "interleaved"]

_WINDOWS = 64  # copied at once: 26 MB in the paper's sizes


class MaskBranch(nn.Module):
    """
    A mask for the object in the middle of a patch (Pinheiro et al., NIPS 2015, section 3.1).

    A 1×1 convolution and a ReLU, and then each pixel of the mask is classified from all features
    of the patch. These M² classifiers are a matrix of (M², C·F²), which is the product of two
    without a nonlinearity between: the first a convolution of the whole patch, F×F, and the second
    one of 1×1. So both can be used wherever a patch fits into a scene.
    """

    def __init__(
        self, in_channels: int, *, patch: int, size: int, conv_dim: int = 512, rank: int = 512
    ) -> None:
        """
        Args:
            in_channels: C of the trunk.
            patch: F, the side of a patch in features; 14 in the paper.
            size: M, the side of the mask; 56 in the paper.
            conv_dim: channels of the first convolution.
            rank: the width between the two matrices.
        """
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(in_channels, conv_dim, kernel_size=1)
        self.down = nn.Conv2d(conv_dim, rank, kernel_size=patch, bias=False)
        self.up = nn.Conv2d(rank, size**2, kernel_size=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        # The product keeps the variance of what it is given, small at the end: masks start grey.
        nn.init.normal_(self.down.weight, std=(conv_dim * patch**2) ** -0.5)
        nn.init.normal_(self.up.weight, std=0.1 * rank**-0.5)
        for layer in (self.conv, self.up):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def hidden(self, features: Tensor) -> Tensor:
        """
        What is between the two matrices, at all places of a patch.

        Args:
            features: (N, C, H, W) of the trunk, H and W at least F.

        Returns:
            (N, rank, H - F + 1, W - F + 1).
        """
        hidden: Tensor = self.down(F.relu(self.conv(features)))
        return hidden

    def hidden_at(self, features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """
        The same, at R places of a scene only.

        A place costs what it costs in :meth:`hidden`, where they are many and most of them are
        not wanted.

        Args:
            features: (1, C, H, W) of the trunk, H and W at least F.
            rows, columns: (R,) integers, up to H - F and W - F.

        Returns:
            (R, rank).
        """
        side = self.down.kernel_size[0]
        windows = F.relu(self.conv(features))[0].unfold(1, side, 1).unfold(2, side, 1)
        hidden = [
            self.down(windows[:, r, c].transpose(0, 1))[:, :, 0, 0]
            for r, c in zip(torch.split(rows, _WINDOWS), torch.split(columns, _WINDOWS))
        ]
        return torch.cat(hidden)

    def masks(self, hidden: Tensor) -> Tensor:
        """Logits (R, M, M) of (R, rank), see :meth:`hidden`."""
        logits: Tensor = self.up(hidden[:, :, None, None])
        return logits.reshape(-1, self.size, self.size)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (R, M, M) of R patches' features (R, C, F, F)."""
        return self.masks(self.hidden(features)[:, :, 0, 0])


class ScoreBranch(nn.Module):
    """
    Whether a patch has an object in its middle that fills it (Pinheiro et al., section 3.1).

    A 2×2 max pooling and three fully connected layers, with a ReLU and dropout after the first
    two. They are convolutions of F/2×F/2 and 1×1 here, so that they score a scene.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        patch: int,
        dims: Sequence[int] = (512, 1024),
        dropout: float = 0.5,
    ) -> None:
        """
        Args:
            in_channels: C of the trunk.
            patch: F, the side of a patch in features, an even number.
            dims: widths of the layers before the last.
            dropout: the part of their outputs that is zero in a training step.
        """
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = []
        kernel_size = patch // 2
        for dim in dims:
            layers += [nn.Conv2d(in_channels, dim, kernel_size), nn.ReLU(), nn.Dropout(dropout)]
            in_channels, kernel_size = dim, 1
        layers.append(nn.Conv2d(in_channels, 1, kernel_size))
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.normal_(layers[-1].weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """
        Scores at all places of a patch.

        Args:
            features: (N, C, H, W) of the trunk, H and W at least F.

        Returns:
            Logits (N, H - F + 1, W - F + 1), as if each patch's features had been pooled alone.
        """
        return interleaved(features, self.layers, self.patch)[:, 0]


def interleaved(features: Tensor, layers: nn.Module, patch: int) -> Tensor:
    """
    Layers behind a 2×2 max pooling, at every place of a patch instead of every other.

    A patch at an odd row or column has its pooling windows between those that start at 0. So
    features are pooled from four corners, and the results put where they belong (Giusti et al.,
    ICIP 2013).

    Args:
        features: (N, C, H, W).
        layers: which turn (N, C, F/2, F/2) into (N, D, 1, 1), by convolutions.
        patch: F, an even number, at most H and W.

    Returns:
        (N, D, H - F + 1, W - F + 1).
    """
    height, width = (side - patch + 1 for side in features.shape[2:])
    result: Tensor | None = None
    for y, x in product(range(min(2, height)), range(min(2, width))):
        part = layers(F.max_pool2d(features[:, :, y:, x:], kernel_size=2))
        if result is None:
            result = part.new_empty(*part.shape[:2], height, width)
        result[:, :, y::2, x::2] = part
    assert result is not None, "features smaller than a patch"
    return result
