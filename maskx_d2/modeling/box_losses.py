"""
What a box says about the mask in it: losses for instances that have a box and no mask.

The two losses of BoxInst (Tian et al., CVPR 2021, sections 3.1 and 3.2), which predicts masks of
whole images, here for the mask of one RoI: its projection on each axis must be the box's, and
neighbouring pixels of one colour belong to one side of the contour. And one of ours: what lies
outside the box, or on another object whose mask is known, is not the object.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "box_projections",
    "color_affinity",
    "color_affinity_loss",
    "known_background",
    "known_background_loss",
    "projection_loss",
]

_DILATION = 2  # pixels between neighbours, as in BoxInst
#: The part of an object's box up to which other objects' masks are taken for background. In COCO's
#: photographs, of what others cover of a box by less than 0.4, 0.8 is not the object; by more than
#: 0.9, half of it is: a tie lies on its person's mask (docs/BEYOND.md).
MAX_COVERED = 0.5
#: Half of the eight neighbours (dy, dx): the other four are these, seen from the other end.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


def box_projections(rois: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """
    Which columns and rows of a RoI's mask the object's box covers.

    Args:
        rois: (R, 4) XYXY, the boxes that the masks are predicted in.
        boxes: (R, 4) XYXY, the objects' boxes.
        size: M, the side of the mask in pixels.

    Returns:
        Columns and rows, each (R, M) float: 1 where the pixel's centre is in the box. An object
        thinner than a pixel keeps the nearest one.
    """
    centers = (torch.arange(size, device=rois.device, dtype=rois.dtype) + 0.5) / size
    covered = []
    for axis in (0, 1):
        start, length = rois[:, axis], (rois[:, axis + 2] - rois[:, axis]).clamp(min=1e-6)
        at = start[:, None] + centers * length[:, None]
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        inside = (at >= low) & (at <= high)
        nearest = (at - (low + high) / 2).abs().argmin(dim=1)
        inside[torch.arange(len(rois), device=rois.device), nearest] = True
        covered.append(inside.to(torch.float32))
    return covered[0], covered[1]


def projection_loss(logits: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """
    How far a mask's extents are from its box's (BoxInst, equation 3).

    Args:
        logits: (R, M, M).
        columns, rows: (R, M), see :func:`box_projections`.

    Returns:
        A scalar, the mean over the RoIs of both axes' dice losses, in [0, 2]; 0 with a gradient
        where there is no RoI.
    """
    if not len(logits):
        return logits.sum() * 0
    probabilities = logits.float().sigmoid()
    losses = _dice(probabilities.amax(1), columns) + _dice(probabilities.amax(2), rows)
    return losses.mean()


def _dice(predicted: Tensor, target: Tensor) -> Tensor:
    """(R, M) each → (R,)."""
    overlap = (predicted * target).sum(1)
    total = (predicted**2).sum(1) + (target**2).sum(1)
    return 1 - 2 * overlap / total.clamp(min=1e-5)


def known_background(inside: Tensor, others: Tensor) -> Tensor:
    """
    Which pixels of a RoI are known not to be its object's.

    Args:
        inside: (R, M, M) float, 1 in the object's box.
        others: bool (R, M, M), the masks of other objects.

    Returns:
        bool (R, M, M): pixels outside the object's box, and others' pixels, unless they cover more
        than ``MAX_COVERED`` of the box: then the object is rather on top of them.
    """
    covered = (others * inside).sum((1, 2)) / inside.sum((1, 2))
    return (inside == 0) | (others & (covered <= MAX_COVERED)[:, None, None])


def known_background_loss(logits: Tensor, background: Tensor) -> Tensor:
    """
    Which part of a mask is where its object is known not to be.

    A part and not an amount: there are no pixels that are known to be the object, so a loss that
    is smallest for an empty mask ends with that. This one is the same for a mask that is fainter
    all over.

    Args:
        logits: (R, M, M).
        background: bool (R, M, M), see :func:`known_background`.

    Returns:
        A scalar in [0, 1], the mean over the RoIs; 0 with a gradient where there is no RoI.
    """
    if not len(logits):
        return logits.sum() * 0
    probabilities = logits.float().sigmoid()
    parts = (probabilities * background).sum((1, 2)) / probabilities.sum((1, 2)).clamp(min=1e-5)
    return parts.mean()


def color_affinity(colors: Tensor, theta: float = 2.0) -> Tensor:
    """
    How alike the colours of neighbouring pixels are (BoxInst, equation 6).

    Args:
        colors: (R, 3, M, M) float, CIE Lab.
        theta: the distance at which the affinity is 1 / e.

    Returns:
        (R, 4, M, M) float in [0, 1]: of each pixel with four of its neighbours, two pixels away:
        the others are pairs that have been counted. 0 where the neighbour lies outside.
    """
    return torch.stack(
        [
            torch.exp(-(colors - neighbour).norm(dim=1) / theta) * inside
            for neighbour, inside in _neighbours(colors)
        ],
        dim=1,
    )


def color_affinity_loss(logits: Tensor, alike: Tensor, inside: Tensor) -> Tensor:
    """
    How often a mask tells pixels of the same colour apart (BoxInst, equation 5).

    Args:
        logits: (R, M, M).
        alike: bool (R, 4, M, M), which pairs of pixels have the same colour: a threshold on
            :func:`color_affinity`.
        inside: (R, M, M), 1 in the object's box. Pairs that lie outside don't count.

    Returns:
        A scalar, the mean of -log P(both are mask, or neither is) over the pairs.
    """
    logits = logits.float()
    mask, background = F.logsigmoid(logits), F.logsigmoid(-logits)
    total, pairs = logits.sum() * 0, logits.new_zeros(())
    neighbours = zip(
        _neighbours(mask[:, None]), _neighbours(background[:, None]), _neighbours(inside[:, None])
    )
    for k, ((mask_there, _), (background_there, _), (inside_there, _)) in enumerate(neighbours):
        same = torch.logaddexp(mask + mask_there[:, 0], background + background_there[:, 0])
        counted = alike[:, k] & ((inside > 0) | (inside_there[:, 0] > 0))
        total = total - (same * counted).sum()
        pairs = pairs + counted.sum()
    return total / pairs.clamp(min=1)


def _neighbours(maps: Tensor) -> list[tuple[Tensor, Tensor]]:
    """
    Each pixel's neighbours of (R, C, M, M) maps: their values, and (M, M) whether they exist.
    """
    d = _DILATION
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (d, d, d, d))
    exists = F.pad(maps.new_ones(height, width), (d, d, d, d))
    cut = []
    for dy, dx in _NEIGHBOURS:
        y, x = d * (1 + dy), d * (1 + dx)
        window = (..., slice(y, y + height), slice(x, x + width))
        cut.append((padded[window], exists[window]))
    return cut


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """
    sRGB to CIE Lab (D65), as OpenCV's ``COLOR_RGB2LAB`` for floats.

    Args:
        rgb: (..., 3, H, W) float in [0, 1].
    """
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = linear.new_tensor(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    white = linear.new_tensor([0.950456, 1.0, 1.088754])
    xyz = torch.einsum("ij,...jhw->...ihw", to_xyz, linear) / white[:, None, None]
    cubic = xyz.clamp(min=0) ** (1 / 3)
    f = torch.where(xyz > 0.008856, cubic, 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)
