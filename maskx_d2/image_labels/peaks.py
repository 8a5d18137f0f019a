"""
Peaks of class response maps, and class scores made of them.

Shape shorthand: N images, K categories, maps of h×w features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["find_peaks", "peak_stimulation"]


def find_peaks(responses: Tensor, valid: Tensor | None = None, *, window: int = 3) -> Tensor:
    """
    The local maxima of maps that are not below their map's median.

    Peaks are the largest in the window around them (Zhou et al., CVPR 2018, section 3.2). That
    they stand above half of the map is a rule of the authors' code: a flat map has dozens of
    local maxima in its noise. Of equal neighbours the first is the peak, by rows. Each map has
    at least one.

    Args:
        responses: (N, K, h, w) float.
        valid: (N, 1, h, w) bool, at least one of each image: places that count; None: all do.
            What pads the images of a batch must not.
        window: its side, an odd number of features; 3 in the paper.

    Returns:
        bool (N, K, h, w).
    """
    if valid is not None:
        responses = responses.masked_fill(~valid, -torch.inf)
    places = torch.arange(responses[0, 0].numel(), device=responses.device)
    places = places.view(responses.shape[2:])
    # Pooling says where it found each maximum, and pads with -inf, so no border is a peak's rival.
    _, found = F.max_pool2d(responses, window, stride=1, padding=window // 2, return_indices=True)
    values = responses.flatten(2).float()
    if valid is not None:
        values = values.masked_fill(~valid.flatten(2), torch.nan)
    median = values.nanmedian(dim=2).values[..., None, None]
    return (found == places) & (responses >= median)


def peak_stimulation(responses: Tensor, valid: Tensor | None = None, *, window: int = 3) -> Tensor:
    """
    Class scores: the mean of each map's peaks (Zhou et al., CVPR 2018, section 3.2).

    So only peaks get a gradient, and share it equally.

    Args:
        responses, valid, window: see :func:`find_peaks`.

    Returns:
        (N, K) logits.
    """
    peaks = find_peaks(responses.detach(), valid, window=window)
    # Not times zero, because what is padded may be anything.
    sums = torch.where(peaks, responses, responses.new_zeros(())).sum(dim=(2, 3))
    return sums / peaks.sum(dim=(2, 3))
