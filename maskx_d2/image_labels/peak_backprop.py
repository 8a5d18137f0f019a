"""
Peak back-propagation: which pixels a response is made of (Zhou et al., CVPR 2018, section 3.3).

It is back-propagation in which convolutions hand on shares in place of gradients: from an output,
each input gets the share that it has, through positive weights, in all that the output gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

__all__ = ["peak_backprop", "response_map"]

_TINY = 1e-10


@contextmanager
def peak_backprop() -> Iterator[None]:
    """
    What is computed inside has peak back-propagation as its gradient with respect to inputs.

    Values stay as they are. All two-dimensional convolutions are meant, whatever module or
    function calls them, so any backbone will do; weights get no gradient. What is no convolution
    (batch normalization in evaluation mode, ReLU, pooling, sums) has its own gradient, as in the
    authors' code. A network that is a TorchScript is not seen.
    """
    with _SharingConvolutions():
        yield


def response_map(response: Tensor, image: Tensor, *, keep_graph: bool = True) -> Tensor:
    """
    The peak response map of one response.

    Args:
        response: a scalar that was computed of ``image`` within :func:`peak_backprop`.
        image: (1, C, H, W), which requires a gradient.
        keep_graph: whether other responses of this image follow.

    Returns:
        (H, W), not negative, of sum 1; all 0 if no pixel adds to the response.
    """
    (gradient,) = torch.autograd.grad(response, image, retain_graph=keep_graph)
    shares = gradient[0].float().sum(dim=0).clamp(min=0)
    return shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)


class _SharingConvolutions(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not torch.conv2d:
            return func(*args, **(kwargs or {}))
        return _sharing_conv2d(*args, **(kwargs or {}))


def _sharing_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Named as the arguments of :func:`torch.conv2d`, by which it may be called."""
    return _SharingConv2d.apply(input, weight, bias, (stride, padding, dilation, groups))


class _SharingConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, shape: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = shape
        return F.conv2d(x, weight, bias, *shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        # Shares are of something positive, as it is behind a ReLU; an image, say, is not.
        activation = x - x.min()
        positive = weight.clamp(min=0)
        total = F.conv2d(activation, positive, None, *ctx.shape)
        share = torch.where(total > _TINY, gradients[0] / total.clamp(min=_TINY), 0.0)
        spread = conv2d_input(x.shape, positive, share, *ctx.shape)  # type: ignore[no-untyped-call]
        return activation * spread, None, None, None
