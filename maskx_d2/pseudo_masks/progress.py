"""The file in which a job notes each image that it has finished, to go on after a kill."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from .task import Mask

__all__ = ["Progress", "ProgressFile", "Shards", "parameters_of"]

logger = logging.getLogger(__name__)

_CACHED_IMAGES = 4096  # COCO's annotations are not in the order of the images


class Progress(Protocol):
    """
    Masks that a job has made.

    Attributes:
        counts: how many there are of each source.
    """

    counts: Counter[str]

    def masks(self, image: int) -> dict[int, Mask]:
        """By the annotation's position; empty if the image is not finished."""


class ProgressFile:
    """
    A line of JSON an image, after a first one with the job's parameters.

    Attributes:
        path: of the file.
        counts: how many masks there are of each source.
        skipped: (position of the image, a sentence) of those that can't be used, once all others
            are finished; None before.
    """

    def __init__(self, path: str | os.PathLike[str], parameters: dict[str, Any]) -> None:
        """
        Open it, or make it. A last line that a kill has cut off is removed.

        Args:
            path: of the file.
            parameters: what the masks follow from, as JSON values.

        Raises:
            ValueError: if the file is of other parameters, is damaged or in use.
        """
        self.path = Path(path)
        self.counts: Counter[str] = Counter()
        self.skipped: list[tuple[int, str]] | None = None
        self._offsets: dict[int, int] = {}  # image → where its line starts
        self._file = self.path.open("a+b")
        try:
            self._lock()
            self._load(parameters)
        except BaseException:
            self._file.close()
            raise
        self._read = lru_cache(_CACHED_IMAGES)(self._read_line)

    def _lock(self) -> None:
        """The lock goes when the process does, however it ends."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.path} is in use: another call writes the same output; wait for it."
            ) from None
        except OSError as e:  # a shared disk without locks
            if e.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            logger.warning(
                f"the disk of {self.path} has no locks: don't start the same job twice at a time."
            )

    def __contains__(self, image: int) -> bool:
        return image in self._offsets

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, image: int, masks: list[Mask]) -> None:
        """
        Note a finished image.

        Args:
            image: its position in the JSON file.
            masks: of its boxes.
        """
        self._append({"image": image, "masks": masks})

    def finish(self, skipped: list[tuple[int, str]]) -> None:
        """
        Note that no image is left.

        Args:
            skipped: (position of the image, a sentence) of those that can't be used.
        """
        self._append({"skipped": skipped})

    def masks(self, image: int) -> dict[int, Mask]:
        """By the annotation's position; empty if the image is not finished."""
        return self._read(image) if image in self._offsets else {}

    def __enter__(self) -> ProgressFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _load(self, parameters: dict[str, Any]) -> None:
        self._file.seek(0)
        offset = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if number:
                    self._index(entry, offset)
                else:
                    self._check(entry["parameters"], parameters)
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
                raise ValueError(
                    f"{self.path}, line {number + 1}: not a line of this job's progress; remove "
                    "the file to start again."
                ) from e
            offset += len(line)
        self._file.truncate(offset)
        if not offset:
            self._file.write(json.dumps({"parameters": parameters}).encode() + b"\n")
            self._file.flush()

    def _check(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for key in [*now, *before]:
            if before.get(key) != now.get(key):
                raise ValueError(
                    f"{self.path} is of a job with {key} {before.get(key)!r:.60}, not "
                    f"{now.get(key)!r:.60}; go on with the same parameters, or remove the file to "
                    "start again."
                )

    def _append(self, entry: dict[str, Any]) -> None:
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        self._index(entry, offset)

    def _index(self, entry: dict[str, Any], offset: int) -> None:
        if "skipped" in entry:
            self.skipped = [(image, why) for image, why in entry["skipped"]]
            return
        self.skipped = None
        self._offsets[entry["image"]] = offset
        self.counts.update(fields["mask_source"] for _, _, fields in entry["masks"])

    def _read_line(self, image: int) -> dict[int, Mask]:
        self._file.seek(self._offsets[image])
        entry = json.loads(self._file.readline())
        return {position: Mask(position, *said) for position, *said in entry["masks"]}


def parameters_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    The parameters of the job whose progress file this is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no progress file.
    """
    with Path(path).open("rb") as file:
        try:
            parameters = json.loads(file.readline())["parameters"]
        except (ValueError, KeyError, TypeError):
            parameters = None
    if not isinstance(parameters, dict):
        raise ValueError(f"{path} is not a progress file: its first line has no parameters.")
    return parameters


class Shards:
    """
    The masks of a job that was done in n parts: image i by part i mod n.

    Attributes:
        counts: how many masks there are of each source.
    """

    def __init__(self, parts: Sequence[ProgressFile]) -> None:
        """
        Args:
            parts: in order, all n.
        """
        self._parts = parts
        self.counts = sum((part.counts for part in parts), Counter())

    def masks(self, image: int) -> dict[int, Mask]:
        """By the annotation's position; empty if the image is not finished."""
        return self._parts[image % len(self._parts)].masks(image)
