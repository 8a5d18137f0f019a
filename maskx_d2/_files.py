"""Files that are there completely or not at all, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Where to write a file, which gets its own name when the block ends without an error.

    Args:
        path: of the file.

    Yields:
        Path to write to, beside it: the name with ``.incomplete`` behind it.
    """
    incomplete = Path(f"{os.fspath(path)}.incomplete")
    yield incomplete
    os.replace(incomplete, path)
