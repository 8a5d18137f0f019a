"""The weight transfer function T of "Learning to Segment Every Thing" (section 3.2, Table 1b)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WeightTransfer"]


class WeightTransfer(nn.Sequential):
    """
    T: from a vector that describes a category to the weights of its mask predictor.

    A small MLP shared by all categories. What it learns on categories with masks holds for
    categories without, because it is a function of their vectors and not a table of rows.

    Called with (K, D) float, the vectors of K categories, it returns (K, C) float: row c holds the
    weights of category c's 1×1 mask predictor, for C channels in the mask head's last feature map.

    Every layer is MSRA-initialised (normal, variance 2 / fan_out) with a bias of zero, as the
    authors' code does. The last layer has no activation.

    There are as many vectors to learn from as there are categories with masks, so few that T may
    learn them by heart. ``dropout`` and ``noise`` show it another form of each in every step; both
    are ours, and off in the paper.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        hidden_dims: Sequence[int] = (256,),
        negative_slope: float = 0.1,
        dropout: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        """
        Args:
            in_dim: D, the length of a category's vector.
            out_dim: C, the number of weights of a category's 1×1 mask predictor.
            hidden_dims: widths of the hidden layers. ``()`` is one layer in all, ``(256,)`` the
                paper's best, two.
            negative_slope: slope of the LeakyReLU after each hidden layer; 0.0 is ReLU.
            dropout: the part of a vector's numbers that are zero in a training step, in [0, 1).
            noise: standard deviation of the noise that is added to a vector in training, relative
                to that of the vector's own numbers.

        Raises:
            ValueError: if a dimension is not positive, or dropout or noise is out of range.
        """
        if not 0 <= dropout < 1 or noise < 0:
            raise ValueError(
                f"the weight transfer's dropout is {dropout} and its noise {noise} "
                "(MODEL.MASKX.TRANSFER_DROPOUT, TRANSFER_NOISE): the first must be in [0, 1), the "
                "second not negative."
            )
        dims = (in_dim, *hidden_dims, out_dim)
        if min(dims) < 1:
            raise ValueError(f"the dimensions of the weight transfer must be positive, got {dims}.")
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise(dims):
            layers += [nn.Linear(d_in, d_out), nn.LeakyReLU(negative_slope)]
        super().__init__(*layers[:-1])
        for layer in self:
            if isinstance(layer, nn.Linear):
                # Caffe2's MSRAFill counts fan_out, and is blind to the activation's slope.
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.dropout = dropout
        self.noise = noise

    def forward(self, vectors: Tensor) -> Tensor:
        """See the class."""
        # Here and not as layers, so that the others' names in a checkpoint don't depend on them.
        if self.training and self.noise:
            spread = vectors.std(dim=1, keepdim=True)
            vectors = vectors + torch.randn_like(vectors) * spread * self.noise
        if self.training and self.dropout:
            vectors = F.dropout(vectors, self.dropout)
        weights: Tensor = super().forward(vectors)  # type: ignore[no-untyped-call]
        return weights
