"""Masks of full images that are kept as run lengths and become bitmaps one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_util

__all__ = ["RLEMasks"]


class RLEMasks:
    """
    The masks of R instances in an image of (H, W), as COCO's compressed RLEs.

    A field of ``Instances``. It is indexed, iterated over and given to ``numpy.asarray`` as the
    bool tensor (R, H, W) that it stands for, but holds some kilobytes where that takes R·H·W
    bytes. RLEs are on no device: moving them does nothing, and bitmaps are made on the CPU.

    Attributes:
        rles: for each instance ``{"size": [H, W], "counts": ...}``.
        image_size: (H, W).
    """

    def __init__(self, rles: Sequence[dict[str, Any]], image_size: tuple[int, int]) -> None:
        self.rles = list(rles)
        self.image_size = image_size

    @classmethod
    def from_bitmaps(cls, bitmaps: torch.Tensor) -> RLEMasks:
        """Encode bitmaps, (R, H, W)."""
        height, width = bitmaps.shape[1:]
        rles = []
        for bitmap in bitmaps:
            rle = mask_util.encode(np.asfortranarray(bitmap.cpu().numpy(), dtype=np.uint8))
            rles.append({**rle, "counts": rle["counts"].decode("ascii")})
        return cls(rles, (height, width))

    @property
    def tensor(self) -> torch.Tensor:
        """(R, H, W) bool."""
        bitmaps = torch.empty(self.shape, dtype=torch.bool)
        for i, rle in enumerate(self.rles):
            bitmaps[i] = _decode(rle)
        return bitmaps

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the tensor: R, H, W."""
        return len(self), *self.image_size

    def to(self, *_args: Any, **_kwargs: Any) -> RLEMasks:
        """Return itself: see the class."""
        return self

    def __len__(self) -> int:
        return len(self.rles)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return map(_decode, self.rles)

    def __getitem__(self, item: Any) -> Any:
        """
        Some of the masks.

        Args:
            item: what indexes the first axis of a tensor.

        Returns:
            For a number the mask, (H, W) bool; else :class:`RLEMasks`.

        Raises:
            IndexError: as a tensor would; also if ``item`` reaches for pixels.
        """
        if isinstance(item, torch.Tensor):
            item = item.cpu()
        chosen = torch.arange(len(self))[item].tolist()
        if isinstance(chosen, int):
            return _decode(self.rles[chosen])
        return RLEMasks([self.rles[i] for i in chosen], self.image_size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.tensor.numpy(), dtype=dtype)

    def __repr__(self) -> str:
        return f"RLEMasks({len(self)} of {self.image_size[0]} × {self.image_size[1]})"

    @staticmethod
    def cat(masks: Sequence[RLEMasks]) -> RLEMasks:
        """Join the masks of one image, for ``Instances.cat``."""
        return RLEMasks([rle for each in masks for rle in each.rles], masks[0].image_size)


def _decode(rle: dict[str, Any]) -> torch.Tensor:
    bitmap: NDArray[np.uint8] = mask_util.decode(rle)
    return torch.from_numpy(np.ascontiguousarray(bitmap)).to(torch.bool)
