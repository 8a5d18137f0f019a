"""
Copying a COCO JSON file with some annotations changed, removed or added, a piece at a time.

What is not changed is copied as text, to the last digit of each number.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from .._files import written_whole

__all__ = ["HEADER", "REMOVED", "Change", "copy_with_changes", "read_header"]

#: The key, the first of the file, under which it says how its pseudo-masks were made.
HEADER = "pseudo_masks"

#: From an annotation and its position in the file to what takes its place; None if it stays as it
#: is, :data:`REMOVED` if it goes.
Change = Callable[[int, dict[str, Any]], dict[str, Any] | None]
REMOVED: dict[str, Any] = {}

_PIECE = 1 << 20  # characters
_SPACE = re.compile(r"[ \t\n\r]*")


def copy_with_changes(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    header: dict[str, Any],
    change: Change,
    added: Iterable[dict[str, Any]] = (),
) -> None:
    """
    Copy a COCO file.

    Args:
        source: path of a JSON file that holds an object.
        target: path of the copy. It is written under another name first, so that it is there
            completely or not at all.
        header: what the copy says under :data:`HEADER`, in the place of what the file says there.
        change: see :data:`Change`.
        added: annotations that follow those of the file.

    Raises:
        ValueError: if the file is not such JSON, or :data:`HEADER` is in it and not as its first
            key, with an object.
    """
    with (
        written_whole(target) as written,
        Path(source).open(encoding="utf-8", newline="") as file,
        written.open("w", encoding="utf-8", newline="") as out,
    ):
        _Copy(_Scanner(file, source), out, change, added).run(header)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a file says under :data:`HEADER`; None if that is not its first key."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        scanner = _Scanner(file, path)
        try:
            scanner.take("{")
            if scanner.value()[0] != HEADER:
                return None
            scanner.take(":")
            header = scanner.value()[0]
        except ValueError:  # no JSON object, or no text at all
            return None
    return header if isinstance(header, dict) else None


class _Copy:
    """One run of :func:`copy_with_changes`."""

    def __init__(
        self, scanner: _Scanner, out: TextIO, change: Change, added: Iterable[dict[str, Any]]
    ) -> None:
        self._scanner, self._out, self._change = scanner, out, change
        self._added = iter(added)
        self._position = 0  # of the next annotation

    def run(self, header: dict[str, Any]) -> None:
        scanner, out = self._scanner, self._out
        out.write(f"{{{json.dumps(HEADER)}: {json.dumps(header)}")
        scanner.take("{")
        separator = ""
        while scanner.peek() != "}":
            scanner.take(separator)
            is_first = not separator
            separator = ","
            key, text = scanner.value()
            scanner.take(":")
            if key == HEADER:
                if not is_first or not isinstance(scanner.value()[0], dict):
                    raise ValueError(
                        f"{scanner.name} has a '{HEADER}' that is not of `maskx pseudo-masks`, "
                        "whose is its first key; give it another name."
                    )
                continue
            out.write(f",\n{text}: ")
            if scanner.peek() == "[":
                out.write("[")
                self._join(self._annotations() if key == "annotations" else self._items())
                out.write("]")
            else:
                out.write(scanner.value()[1])
        left = [json.dumps(annotation) for annotation in self._added]
        if left:  # of a file that has no annotations
            out.write(',\n"annotations": [')
            self._join(left)
            out.write("]")
        out.write("}\n")

    def _join(self, texts: Iterable[str]) -> None:
        separator = ""
        for text in texts:
            self._out.write(separator + text)
            separator = ","

    def _items(self) -> Iterator[str]:
        """The texts of a list's items."""
        return (text for _, text in self._scanner.items())

    def _annotations(self) -> Iterator[str]:
        for item, text in self._scanner.items():
            changed = self._change(self._position, item)
            self._position += 1
            if changed is None:
                yield text
            elif changed is not REMOVED:
                yield json.dumps(changed)
        yield from map(json.dumps, self._added)


class _Scanner:
    """Reads a JSON text value by value, and gives each with its text."""

    def __init__(self, file: TextIO, name: str | os.PathLike[str]) -> None:
        self.name = os.fspath(name)
        self._file = file
        self._text, self._at = "", 0
        self._ended = False
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no space, without taking it; ``""`` at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read(_PIECE)

    def take(self, expected: str) -> None:
        """Go past a character that must come next; ``""`` is always there."""
        if expected and self.peek() != expected:
            raise ValueError(f"{self.name} is not a COCO file: '{expected}' is missing in it.")
        self._at += len(expected)

    def items(self) -> Iterator[tuple[Any, str]]:
        """The items of a list, which comes next, and their texts."""
        self.take("[")
        separator = ""
        while self.peek() != "]":
            self.take(separator)
            separator = ","
            yield self.value()
        self.take("]")

    def value(self) -> tuple[Any, str]:
        """The next value and its text."""
        self.peek()
        size = _PIECE
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as e:
                if self._ended:
                    raise ValueError(f"{self.name} is not valid JSON: {e.msg}.") from e
            else:
                # At the end of the piece it may be the first digits of a number.
                if end < len(self._text) or self._ended:
                    text = self._text[self._at : end]
                    self._at = end
                    return value, text
            self._read(size)
            size *= 2

    def _read(self, size: int) -> None:
        piece = self._file.read(size)
        self._ended = not piece
        self._text = self._text[self._at :] + piece
        self._at = 0
