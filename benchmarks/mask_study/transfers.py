"""Forms of T, each a module from categories' vectors, (K, D), to their mask predictors, (K, C)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maskx_d2.engine.roi_cache import CachedRoIs
from maskx_d2.modeling import WeightTransfer


def paper(dim: int, channels: int, hidden: tuple[int, ...] = (64,), **kwargs: Any) -> nn.Module:
    """T of the paper, as wide as these scenes need."""
    return WeightTransfer(dim, channels, hidden_dims=hidden, **kwargs)


def low_rank(dim: int, channels: int, rank: int) -> nn.Module:
    """Two linear layers without a nonlinearity between."""
    return nn.Sequential(nn.Linear(dim, rank), nn.Linear(rank, channels))


class OneForAll(nn.Module):
    """The class-agnostic baseline: the same weights whatever the category."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(channels))

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        return self.weights.expand(len(vectors), -1)


class Residual(nn.Module):
    """One for all, and what T adds to it, nothing at first."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.base, self.transfer = OneForAll(dim, channels), paper(dim, channels)
        nn.init.zeros_(self.transfer[-1].weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        return self.base(vectors) + self.transfer(vectors)


class Mixed(nn.Module):
    """T sees each category with a random part of another one."""

    def __init__(self, dim: int, channels: int, most: float) -> None:
        super().__init__()
        self.transfer, self.most = paper(dim, channels), most

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        if self.training and len(vectors):
            others = vectors[torch.randint(len(vectors), (len(vectors),))]
            vectors = vectors + self.most * torch.rand(len(vectors), 1) * (others - vectors)
        weights: Tensor = self.transfer(vectors)
        return weights


class Normalized(nn.Module):
    """T sees vectors of length 1, or of mean 0 and deviation 1."""

    def __init__(self, dim: int, channels: int, length: bool) -> None:
        super().__init__()
        self.transfer, self.length = paper(dim, channels), length

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        if self.length:
            vectors = nn.functional.normalize(vectors, dim=1)
        else:
            vectors = nn.functional.layer_norm(vectors, vectors.shape[1:])
        weights: Tensor = self.transfer(vectors)
        return weights


class ObjectPrior(nn.Module):
    """
    Where in a RoI the box head sees the category, added to the mask head's features.

    The gradient of the category's score times the features, which for a box head of one linear
    layer is the class activation map of OPMask (Biertimpel et al., 2021).
    """

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.heads = [heads]  # not a part of this module
        self.embed = nn.Conv2d(1, _channels(heads), kernel_size=3, padding=1)

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        """(R, C, H, W) and (R,) → (R, C, H, W)."""
        features = features.float()
        if not len(features):
            return features
        enriched: Tensor = features + self.embed(evidence_of(self.heads[0], features, classes))
        return enriched


def evidence_of(heads: Any, features: Tensor, classes: Tensor) -> Tensor:
    """Where the box head sees the categories: (R, C, H, W), (R,) → (R, 1, H, W), of mean size 1."""
    pooled = nn.functional.avg_pool2d(features, 2).requires_grad_()  # box head's size
    with torch.enable_grad():
        scores = heads.box_predictor.cls_score(heads.box_head(pooled))
        (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), pooled)
    gradient = nn.functional.interpolate(gradient, scale_factor=2.0, mode="bilinear")
    evidence = (gradient * features).sum(1, keepdim=True)
    size: Tensor = evidence.abs().mean((2, 3), keepdim=True).clamp(min=1e-6)
    return evidence / size


def _channels(heads: Any) -> int:
    """Of the mask head's input."""
    first = next(m for m in heads.mask_head.modules() if isinstance(m, nn.Conv2d))
    return int(first.in_channels)


class PixelContrast(nn.Module):
    """
    Pixels of objects are taught to be like each other and unlike all background, whatever they are.

    After ContrastMask (Wang et al., CVPR 2022): a branch in front of the mask head, whose features
    the mask head sees as well. Objects with a mask say which pixels are theirs. Of others, those
    with the most evidence of the category are taken for theirs, the least for background.
    """

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.heads = [heads]  # not a part of this module
        c = _channels(heads)
        convs = [nn.Conv2d(c, c, kernel_size=3, padding=1) for _ in range(2)]
        self.encode = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())
        self.project = nn.Sequential(nn.Conv2d(c, c, 1), nn.ReLU(), nn.Conv2d(c, 64, 1))
        self.merge = nn.Conv2d(c, c, 1)
        nn.init.zeros_(self.merge.weight)

    def forward(self, features: Tensor, _classes: Tensor) -> Tensor:
        """(R, C, H, W) → (R, C, H, W)."""
        features = features.float()
        enriched: Tensor = features + self.merge(self.encode(features))
        return enriched

    def loss(self, masks: CachedRoIs, boxes: CachedRoIs) -> Tensor:
        """
        InfoNCE of each object's mean pixel, with all objects' and all background's pixels.

        Args:
            masks, boxes: RoIs with a mask and without; features (R, C, H, W).
        """
        features = torch.cat([masks.features.float(), boxes.features.float()])
        pixels = nn.functional.normalize(self.project(self.encode(features)).float(), dim=1)
        pixels = pixels.flatten(2).transpose(1, 2)  # (R, H W, 64)
        own = nn.functional.adaptive_avg_pool2d(masks.targets.float(), features.shape[-2:])
        own = own.flatten(1) >= 0.5
        foreground, background = own, ~own  # (R, H W)
        if len(boxes.features):
            evidence = evidence_of(self.heads[0], boxes.features.float(), boxes.classes).flatten(1)
            most = evidence > evidence.quantile(0.8, dim=1, keepdim=True)
            least = evidence < evidence.quantile(0.2, dim=1, keepdim=True)
            foreground, background = torch.cat([own, most]), torch.cat([~own, least])
        if not (foreground.any() and background.any()):
            return pixels.sum() * 0
        weight = foreground[..., None] / foreground.sum(1).clamp(min=1)[:, None, None]
        means = nn.functional.normalize((pixels * weight).sum(1), dim=1)  # (R, 64)
        with torch.autocast("cpu", enabled=False):
            like, unlike = (
                means @ chosen[torch.randperm(len(chosen))[:1024]].T / 0.7
                for chosen in (pixels[foreground], pixels[background])
            )
        # For each pair of alike pixels: their part of it and of all that are unlike.
        return nn.functional.softplus(unlike.logsumexp(1, keepdim=True) - like).mean()
