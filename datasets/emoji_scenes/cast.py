"""Which drawings a part may use, and which two of them make a pair."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .rules import MAX_STRETCH, MIN_VISIBLE
from .sprites import Sprite


class Cast:
    """
    The sprites that a part may use, and which of them make a pair.

    Attributes:
        sprites: all of them.
        fits: (n, n) bool, whether enough is seen of the row's sprite behind the column's.
        partners: (n, n) float, the chance of each sprite (column) as the partner of another (row),
            summed up along the row.
        pairable: positions of the sprites that have a partner.
    """

    def __init__(self, sprites: Sequence[Sprite]) -> None:
        self.sprites = sprites
        self.fits = _fits_behind(sprites)
        chances = (self.fits | self.fits.T).astype(np.float64)
        self.pairable = np.flatnonzero(chances.any(axis=1))
        # Sprites with fewer possible partners are drawn as partners more often, so that all are
        # about as frequent.
        for _ in range(100):
            total = np.sqrt(np.maximum(chances.sum(axis=1), 1e-12))
            chances /= total[:, None] * total
        self.partners = chances.cumsum(axis=1)

    def pick_pair(self, rng: np.random.Generator) -> list[Sprite]:
        """Two sprites, the one in front first."""
        first = int(self.pairable[rng.integers(len(self.pairable))])
        row = self.partners[first]
        second = int(np.searchsorted(row, rng.random() * row[-1], side="right"))
        orders = [(f, b) for f, b in ((first, second), (second, first)) if self.fits[b, f]]
        front, behind = orders[rng.integers(len(orders))]
        return [self.sprites[front], self.sprites[behind]]


def _fits_behind(sprites: Sequence[Sprite], cells: int = 24, border: int = 2) -> np.ndarray:
    """An estimate on a coarse grid, with both sprites stretched to one box; see Cast.fits."""
    grids = []
    for sprite in sprites:
        alpha = sprite.levels[0][2:-2, 2:-2, 3].astype(np.float32) / 255
        grids.append(cv2.resize(alpha, (cells, cells), interpolation=cv2.INTER_AREA) > 0.5)
    full = np.stack(grids).astype(np.float32)

    def seen(rows: slice, columns: slice) -> np.ndarray:
        behind, front = (m[:, rows, columns].reshape(len(full), -1) for m in (full, 1 - full))
        return behind @ front.T

    every, first, last = slice(None), slice(border), slice(-border, None)
    fits = seen(every, every) >= MIN_VISIBLE * full.sum(axis=(1, 2))[:, None]
    for rows, columns in ((first, every), (last, every), (every, first), (every, last)):
        fits &= seen(rows, columns) >= 2
    aspects = np.log([sprite.aspect for sprite in sprites])
    fits &= np.abs(aspects[:, None] - aspects) < 2 * np.log(MAX_STRETCH)
    categories = np.array([sprite.category for sprite in sprites])
    return fits & (categories[:, None] != categories)
