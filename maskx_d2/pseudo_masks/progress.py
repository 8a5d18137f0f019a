"""The file in which a job notes each image that it has finished, to go on after a kill."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["ProgressFile"]

_CACHED_IMAGES = 4096  # COCO's annotations are not in the order of the images


class ProgressFile:
    """
    A line of JSON an image, after a first one with the job's parameters.

    Attributes:
        path: of the file.
        counts: how many masks there are of each source.
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
        self._offsets: dict[int, int] = {}  # image → where its line starts
        self._file = self.path.open("a+b")
        try:
            # The lock goes when the process does, however it ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load(parameters)
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"{self.path} is in use: another call writes the same output; wait for it."
            ) from None
        except ValueError:
            self._file.close()
            raise
        self._read = lru_cache(_CACHED_IMAGES)(self._read_line)

    def __contains__(self, image: int) -> bool:
        return image in self._offsets

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, image: int, masks: list[tuple[int, str, str]]) -> None:
        """
        Note a finished image.

        Args:
            image: its position in the JSON file.
            masks: (the annotation's position in the JSON file, the mask's source, RLE counts).
        """
        offset = self._file.seek(0, os.SEEK_END)
        entry = {"image": image, "masks": masks}
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        self._index(entry, offset)

    def masks(self, image: int) -> dict[int, tuple[str, str]]:
        """(Source, RLE counts) by the annotation's position; empty if it is not finished."""
        return self._read(image) if image in self._offsets else {}

    def close(self) -> None:
        """Close the file."""
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

    def _index(self, entry: dict[str, Any], offset: int) -> None:
        self._offsets[entry["image"]] = offset
        self.counts.update(source for _, source, _ in entry["masks"])

    def _read_line(self, image: int) -> dict[int, tuple[str, str]]:
        self._file.seek(self._offsets[image])
        entry = json.loads(self._file.readline())
        return {position: (source, counts) for position, source, counts in entry["masks"]}
