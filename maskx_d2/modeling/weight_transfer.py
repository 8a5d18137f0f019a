"""The weight transfer function T of "Learning to Segment Every Thing" (section 3.2, Table 1b)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

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
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        hidden_dims: Sequence[int] = (256,),
        negative_slope: float = 0.1,
    ) -> None:
        """
        Args:
            in_dim: D, the length of a category's vector.
            out_dim: C, the number of weights of a category's 1×1 mask predictor.
            hidden_dims: widths of the hidden layers. ``()`` is one layer in all, ``(256,)`` the
                paper's best, two.
            negative_slope: slope of the LeakyReLU after each hidden layer; 0.0 is ReLU.

        Raises:
            ValueError: if a dimension is not positive.
        """
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
