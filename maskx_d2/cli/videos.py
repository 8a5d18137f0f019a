"""Writing a video, frame by frame."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["VideoFile", "rate_and_length"]


def rate_and_length(path: str) -> tuple[float, int]:
    """Frames a second, and how many a video says it has; 0 if it does not say."""
    import cv2

    video = cv2.VideoCapture(path)
    rate, length = video.get(cv2.CAP_PROP_FPS), int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return (rate if rate and rate > 0 else 25.0), max(length, 0)


class VideoFile:
    """An MP4 file, of the size of its first frame."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._writer: Any = None

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        import cv2

        # Encoders need even sizes.
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), code, self._rate, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"'{self._path}' can't be written by this OpenCV.")
        self._writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
