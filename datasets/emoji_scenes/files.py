"""How files are written."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np


def write_text(path: Path, text: str) -> None:
    """Write a text file that is either complete or not there."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB image, fast rather than small."""
    if not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"could not write the image '{path}'.")
