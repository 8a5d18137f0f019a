"""Files that are there completely or not at all, and what they hold in few letters."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["sha256_of", "written_whole"]


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


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a file, hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
