"""Writing COCO files whose annotations come one by one, and all files or none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class Files:
    """
    Text files that appear together, under their names, when the ``with`` block ends.

    After an exception none appears, and files of these names stay as they were.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = {name: folder / name for name in names}
        self._open: dict[str, TextIO] = {}

    def __enter__(self) -> dict[str, TextIO]:
        self._open = {
            name: _temporary(path).open("w", encoding="utf-8") for name, path in self._paths.items()
        }
        return self._open

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            file.close()
        for path in self._paths.values():
            if kind is None:
                os.replace(_temporary(path), path)
            else:
                _temporary(path).unlink(missing_ok=True)


class CocoFile:
    """
    A COCO JSON file that is written from its head to its annotations.

    Attributes:
        count: number of annotations so far.
    """

    def __init__(
        self,
        file: TextIO,
        info: Mapping[str, Any],
        categories: Sequence[Mapping[str, Any]],
        images: Sequence[Mapping[str, Any]],
    ) -> None:
        self._file = file
        self.count = 0
        head = {"info": info, "categories": categories, "images": images}
        file.write(dumps(head)[:-1] + ',"annotations":[')

    def add(self, image_id: int, annotations: Sequence[Mapping[str, Any]]) -> None:
        """Append the annotations of an image, with consecutive ids from 1."""
        for annotation in annotations:
            self.count += 1
            ids = {"id": self.count, "image_id": image_id}
            self._file.write("\n" if self.count == 1 else ",\n")
            self._file.write(dumps(ids | dict(annotation)))

    def close(self) -> None:
        """Write the end of the file."""
        self._file.write("]}\n")


def dumps(content: Any) -> str:
    """JSON without spaces."""
    return json.dumps(content, separators=(",", ":"))


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")
