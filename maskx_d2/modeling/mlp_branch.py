"""The class-agnostic mask of a fully connected layer, which is added to the logits."""

# No `from __future__ import annotations`: TorchScript can't read string annotations.
from collections.abc import Sequence
from itertools import pairwise
from typing import List

from torch import Tensor, nn

__all__ = ["MLPBranch"]


class MLPBranch(nn.Sequential):
    """
    A mask predictor that sees all of a RoI at once (paper, section 3.4 and Table 1c).

    One linear layer from all C·M² features to all M² pixels, as the authors' code has it: 157 M
    parameters for C = 256 and M = 28. With a ``rank`` r, the layer is the product of two without a
    nonlinearity between, as DeepMask decomposes its own (Pinheiro et al., NIPS 2015, section
    3.1): r·(C + 1)·M² parameters, 3.2 M for r = 16. With ``hidden_dims`` it is an MLP indeed, with
    ReLUs between: what the authors' code has for two and three layers, of width 1,024.

    Called with (R, C, M, M) float features, it returns (R, 1, M, M) logits.
    """

    def __init__(
        self, channels: int, size: int, *, rank: int = 0, hidden_dims: Sequence[int] = ()
    ) -> None:
        """
        Args:
            channels: C.
            size: M, the side of the mask in pixels.
            rank: r, the width between the two layers; 0 is one layer of full rank.
            hidden_dims: widths of hidden layers, each with a ReLU; for a ``rank`` of 0.

        Raises:
            ValueError: if ``rank`` is negative, or both are given.
        """
        if rank < 0:
            raise ValueError(
                f"the rank of the MLP branch is {rank} (MODEL.MASKX.MLP_RANK); give a positive "
                "number, or 0 for full rank."
            )
        if rank and hidden_dims:
            raise ValueError(
                "the MLP branch has a rank or hidden layers, not both: set MODEL.MASKX.MLP_RANK "
                "to 0 or MODEL.MASKX.MLP_HIDDEN_DIMS to []."
            )
        num_features, num_pixels = channels * size**2, size**2
        if rank:
            down = nn.Linear(num_features, rank, bias=False)
            up = nn.Linear(rank, num_pixels)
            # The product of the two starts with the deviation that the one layer has.
            nn.init.normal_(down.weight, std=num_features**-0.5)
            nn.init.normal_(up.weight, std=0.001 * (num_features / rank) ** 0.5)
            super().__init__(down, up)
        else:
            dims = (num_features, *hidden_dims)
            up = nn.Linear(dims[-1], num_pixels)
            nn.init.normal_(up.weight, std=0.001)
            hidden: List[nn.Module] = []
            for d_in, d_out in pairwise(dims):
                hidden += [_hidden_layer(d_in, d_out), nn.ReLU()]
            super().__init__(*hidden, up)
        nn.init.zeros_(up.bias)
        #: What it takes to make another like it, as arguments of the mask heads.
        self.options = {"mlp_rank": rank, "mlp_hidden_dims": list(hidden_dims)}

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        num_rois, _, height, width = features.shape
        logits = features.flatten(1)
        for layer in self:
            logits = layer(logits)
        return logits.reshape(num_rois, 1, height, width)


def _hidden_layer(d_in: int, d_out: int) -> nn.Linear:
    layer = nn.Linear(d_in, d_out)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
