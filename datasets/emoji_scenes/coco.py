"""One object as an annotation of COCO's, and the licences of a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from make_shapes import mask_box

from .sources import SOURCES, STYLES
from .visibility import Instance


def annotate(instance: Instance, pair: int) -> dict[str, Any]:
    """A COCO annotation without "id" and "image_id", with its object's style and pair."""
    x0, y0, x1, y1 = mask_box(instance.visible)
    rle = mask_utils.encode(np.asfortranarray(instance.visible, dtype=np.uint8))
    return {
        "category_id": instance.sprite.category + 1,
        "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
        "area": float(instance.visible.sum()),
        "iscrowd": 0,
        "segmentation": {
            "size": list(instance.visible.shape),
            "counts": rle["counts"].decode("ascii"),
        },
        "style": instance.sprite.style,
        "pair": pair,
    }


def licences(styles: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of "licenses" for a part that shows some styles."""
    return [
        {
            "id": i + 1,
            "name": SOURCES[style].licence,
            "url": SOURCES[style].licence_url,
            "style": style,
            "credit": SOURCES[style].credit,
            "source": f"{SOURCES[style].package} {SOURCES[style].version}",
        }
        for i, style in enumerate(STYLES)
        if style in styles
    ]
