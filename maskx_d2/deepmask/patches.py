"""
Patches of an image as DeepMask sees them: where their objects belong, and which have none.

A patch is (x, y, s): its centre in pixels of the image, and the scale at which the image is shown
in it, so that P / s pixels of the image are P pixels of the patch. A patch is canonical for an
object that is centred in it and whose longer side has the canonical length there (Pinheiro et
al., NIPS 2015, section 3). Distances are in pixels of the patch and scales in octaves.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "canonical_patches",
    "is_away",
    "jittered",
    "patch_boxes",
    "sample_negatives",
]

_TRIES = 32  # candidates for each negative; in a crowded image most of them are near an object


def canonical_patches(boxes: Tensor, object_size: float) -> Tensor:
    """
    Patches in which objects stand as they should.

    Args:
        boxes: (R, 4) XYXY in pixels of the image, none empty.
        object_size: the longer side of an object in its patch, in pixels; 128 in the paper.

    Returns:
        (R, 3) x, y, s.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    longer_side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    return torch.cat([centers, (object_size / longer_side)[:, None]], dim=1)


def jittered(patches: Tensor, *, shift: float, octaves: float) -> Tensor:
    """
    Move patches and change their scale at random, uniformly.

    Args:
        patches: (R, 3).
        shift: the most by which each coordinate is moved, in pixels of the patch; 16 in the paper.
        octaves: the most by which the scale is changed; 1/4 in the paper.

    Returns:
        (R, 3).
    """
    noise = 2 * torch.rand(patches.shape, device=patches.device) - 1
    scales = patches[:, 2:] * torch.exp2(octaves * noise[:, 2:])
    return torch.cat([patches[:, :2] + shift * noise[:, :2] / scales, scales], dim=1)


def is_away(patches: Tensor, canonical: Tensor, *, shift: float, octaves: float) -> Tensor:
    """
    Whether patches show no object as a canonical patch would.

    Args:
        patches: (R, 3).
        canonical: (G, 3), of all objects.
        shift: how far from an object's patch a patch is to be in x or y, in pixels of the patch;
            32 in the paper.
        octaves: or else how far in scale; 1 in the paper.

    Returns:
        bool (R,): those that are away from all of ``canonical``.
    """
    moved = (patches[:, None, :2] - canonical[None, :, :2]).abs().amax(dim=2) * patches[:, 2:]
    scaled = torch.log2(patches[:, None, 2] / canonical[None, :, 2]).abs()
    return ((moved >= shift) | (scaled >= octaves)).all(dim=1)


def sample_negatives(
    count: int,
    canonical: Tensor,
    image_size: tuple[int, int],
    scales: tuple[float, float],
    *,
    shift: float,
    octaves: float,
) -> Tensor:
    """
    Patches anywhere in an image, of any scale, that are away from its objects.

    Args:
        count: how many at most. There are fewer where the image is full of objects.
        canonical: (G, 3), of all objects, those without a mask among them.
        image_size: height and width in pixels.
        scales: the smallest and the largest; what is between is equally likely in octaves.
        shift, octaves: see :func:`is_away`.

    Returns:
        (R, 3), R ≤ ``count``.
    """
    height, width = image_size
    low, high = (torch.log2(torch.tensor(s)).item() for s in scales)
    extent = torch.tensor([width, height, high - low], device=canonical.device)
    offset = torch.tensor([0.0, 0.0, low], device=canonical.device)
    tried = torch.rand(_TRIES * count, 3, device=canonical.device) * extent + offset
    tried[:, 2] = torch.exp2(tried[:, 2])
    return tried[is_away(tried, canonical, shift=shift, octaves=octaves)][:count]


def patch_boxes(patches: Tensor, size: float) -> Tensor:
    """
    What patches see of the image.

    Args:
        patches: (R, 3).
        size: the side of a patch in its own pixels.

    Returns:
        (R, 4) XYXY in pixels of the image, which may reach beyond it.
    """
    half = size / (2 * patches[:, 2:])
    return torch.cat([patches[:, :2] - half, patches[:, :2] + half], dim=1)
