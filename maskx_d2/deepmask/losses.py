"""DeepMask's joint loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["deepmask_losses"]


def deepmask_losses(
    mask_logits: Tensor, masks: Tensor, score_logits: Tensor, labels: Tensor, *, score_weight: float
) -> dict[str, Tensor]:
    """
    The two terms of the joint loss (Pinheiro et al., NIPS 2015, equation 1).

    For a patch of label y = ±1, mask m_ij = ±1 of M×M pixels, predicted mask f_ij and score s::

        (1 + y) / (2 M²) · Σ_ij log(1 + exp(-m_ij f_ij))  +  λ log(1 + exp(-y s))

    and the mean of that over all R patches. The sum of the two returned losses is this mean, so
    λ is in ``loss_score`` already; and as patches without an object have no mask loss but count,
    ``loss_mask`` is at the start log 2 times their share of patches with one.

    Args:
        mask_logits: (P, M, M), of the P patches that have an object, in the order of ``labels``.
        masks: (P, M, M) bool, their objects.
        score_logits: (R,), of all patches.
        labels: (R,) bool: which have an object; P of them.
        score_weight: λ, 1/32 in the paper.

    Returns:
        ``loss_mask`` and ``loss_score``, scalars; zero with gradients of zero for R = 0.
    """
    count = max(len(labels), 1)
    mask_logits, score_logits = mask_logits.float(), score_logits.float()  # of autocast
    mask_signs = 2 * masks.to(mask_logits.dtype) - 1
    signs = 2 * labels.to(score_logits.dtype) - 1
    per_pixel = F.softplus(-mask_signs * mask_logits)
    mask_loss = per_pixel.sum() / (per_pixel[0].numel() if len(per_pixel) else 1)
    score_loss = score_weight * F.softplus(-signs * score_logits).sum()
    return {"loss_mask": torch.div(mask_loss, count), "loss_score": torch.div(score_loss, count)}
