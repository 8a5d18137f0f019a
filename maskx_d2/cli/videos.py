"""Reading and writing videos, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Video", "VideoFile"]


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise ImportError("videos need OpenCV: pip install opencv-python-headless") from None
    return cv2


class Video:
    """
    A video to read, frame by frame: (H, W, 3) uint8 in BGR each.

    Attributes:
        rate: frames a second.
        length: how many frames it says it has; 0 if it does not say.
    """

    def __init__(self, path: str) -> None:
        """
        Args:
            path: of the file.

        Raises:
            ImportError: if OpenCV is missing.
            ValueError: if it can't be read.
        """
        cv2 = _opencv()
        self._video = cv2.VideoCapture(path)
        if not self._video.isOpened():
            raise ValueError(f"'{path}' is no video that OpenCV can read.")
        rate = self._video.get(cv2.CAP_PROP_FPS)
        self.rate: float = rate if rate and rate > 0 else 25.0
        self.length = max(int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._video.release()

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        while True:
            more, image = self._video.read()
            if not more:
                return
            yield np.asarray(image, dtype=np.uint8)


class VideoFile:
    """An MP4 file, of the size of its first frame."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._writer: Any = None

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, picture: NDArray[np.uint8]) -> None:
        """
        Append a frame.

        Args:
            picture: (H, W, 3) uint8, RGB.

        Raises:
            OSError: if the file can't be written.
        """
        cv2 = _opencv()
        # Encoders need even sizes.
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), code, self._rate, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"'{self._path}' can't be written by this OpenCV.")
        self._writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
