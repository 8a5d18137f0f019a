"""What ``maskx predict`` is given: image files, folders, patterns, videos, or a data set."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["VIDEOS", "Frame", "expand"]

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


@dataclass(frozen=True)
class Frame:
    """
    An image to predict.

    Attributes:
        image: path of a file, or (H, W, 3) uint8 in BGR, of a video.
        name: of the file that it is from.
        about: what a COCO file says of it, beside its name and size.
    """

    image: str | NDArray[np.uint8]
    name: str
    about: dict[str, Any] = field(default_factory=dict)


def expand(inputs: Iterable[str]) -> list[str]:
    """
    Files for folders and patterns, in order, each once.

    Args:
        inputs: paths of images and videos; folders, of which all images and videos are taken,
            also of folders in them; patterns such as ``photos/*.jpg``.

    Raises:
        FileNotFoundError: if there is no such file, or nothing of the kind in a folder.
    """
    found: dict[str, None] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = sorted(
                str(p)
                for p in path.rglob("*")
                if p.suffix.lower() in IMAGES | VIDEOS and p.is_file()
            )
            if not files:
                raise FileNotFoundError(f"folder '{given}' has no images or videos")
        elif path.is_file():
            files = [given]
        else:
            files = sorted(f for f in glob.glob(given, recursive=True) if Path(f).is_file())
            if not files:
                what = "pattern" if glob.has_magic(given) else "file"
                verb = "matches nothing" if what == "pattern" else "does not exist"
                raise FileNotFoundError(f"{what} '{given}' {verb}")
        found.update(dict.fromkeys(files))
    return list(found)
