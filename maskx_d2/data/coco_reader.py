"""
Reading COCO JSON files object by object, so that a file of any size takes little memory.

pycocotools and :mod:`json` build the whole file in memory, masks of all categories included.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson
from tqdm import tqdm

__all__ = [
    "read_categories",
    "read_images",
    "read_list",
    "read_section",
    "top_level_keys",
    "whole_pixels",
]

# What some programs put first, and JSON readers, pycocotools' among them, stumble over.
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "it begins with a byte order mark; save it as UTF-8 without one",
    b"\xff\xfe": "it is UTF-16; save it as UTF-8",
    b"\xfe\xff": "it is UTF-16; save it as UTF-8",
}


def read_section(
    json_file: str | os.PathLike[str], section: str, *, progress: bool = True
) -> Iterator[dict[str, Any]]:
    """
    Read one of the lists of a COCO JSON file, an object at a time.

    Args:
        json_file: path of the file.
        section: ``"images"``, ``"annotations"`` or ``"categories"``. A file that lacks it yields
            nothing.
        progress: whether to show a progress bar, if reading takes longer than some seconds.

    Yields:
        the section's objects, in the file's order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not JSON, or the section has something else than objects.
    """
    yield from _objects(Path(json_file), section, progress)


def read_list(
    json_file: str | os.PathLike[str], *, progress: bool = True
) -> Iterator[dict[str, Any]]:
    """:func:`read_section`, of a JSON file that is one list."""
    yield from _objects(Path(json_file), "", progress)


def _objects(path: Path, section: str, progress: bool) -> Iterator[dict[str, Any]]:
    bar = tqdm(
        total=path.stat().st_size,
        desc=f"{path.name}: {section}" if section else path.name,
        unit="B",
        unit_scale=True,
        delay=3.0,
        leave=False,
        disable=not progress,
    )
    with bar, path.open("rb") as file:
        reader = _CountingReader(file, bar)
        items = ijson.items(reader, f"{section}.item" if section else "item", use_float=True)
        try:
            for number, item in enumerate(items):
                if not isinstance(item, dict):
                    raise ValueError(
                        f"{path}: entry {number} of '{section}' is {item!r}, not an object; it is "
                        "not a COCO file."
                        if section
                        else f"{path}: entry {number} is not an object."
                    )
                yield item
        except ijson.JSONError as e:
            if reader.wrong_start is not None:
                what = reader.wrong_start
            elif not reader.looks_like_json:
                what = "it is another kind of file; name a COCO JSON file"
            elif any(word in str(e) for word in ("NaN", "Infinity")):
                what = "NaN and Infinity are Python's, not JSON's; leave such keys out"
            elif "integer overflow" in str(e):
                what = "integers are to be below 2^63"
            else:
                what = "it may have been cut off"
            raise ValueError(
                f"{path} is not valid JSON: {_one_line(e)} (within the first {reader.count:,} "
                f"bytes); {what}."
            ) from e


def top_level_keys(json_file: str | os.PathLike[str]) -> list[str]:
    """The keys of a JSON file that is an object, in their order; the file is read through."""
    with open(json_file, "rb") as file:
        events = ijson.parse(file, use_float=True)
        return [key for prefix, event, key in events if prefix == "" and event == "map_key"]


def read_categories(json_file: str | os.PathLike[str], *, progress: bool = True) -> dict[int, str]:
    """
    The names of a COCO JSON file's categories by their id, in the order of the ids.

    Raises:
        ValueError: if there are none, two share an id, or an id or a name is of another type.
    """
    categories: dict[int, str] = {}
    for category in read_section(json_file, "categories", progress=progress):
        if "id" not in category or "name" not in category:
            raise ValueError(f"{json_file}: category {category} needs an 'id' and a 'name'.")
        if category["id"] in categories:
            raise ValueError(
                f"{json_file}: categories '{categories[category['id']]}' and '{category['name']}' "
                f"share the id {category['id']}; each needs its own."
            )
        if type(category["id"]) is not int or not isinstance(category["name"], str):
            raise ValueError(
                f"{json_file}: category {category} needs a whole number as its id and text as its "
                "name."
            )
        categories[category["id"]] = category["name"]
    if not categories:
        raise ValueError(
            f"{json_file} has no 'categories', or an empty list of them; a COCO instances file "
            "names each category there."
        )
    return dict(sorted(categories.items()))


def read_images(
    json_file: str | os.PathLike[str], *, progress: bool = True
) -> Iterator[dict[str, Any]]:
    """
    The images of a COCO JSON file, each with ``id``, ``file_name``, ``height`` and ``width``.

    Raises:
        ValueError: if an image lacks one of them, its size is not of whole pixels, two share an
            id, or some ids are text and some are numbers.
    """
    seen: set[Any] = set()
    first = None
    for image in read_section(json_file, "images", progress=progress):
        missing = [k for k in ("id", "file_name", "height", "width") if k not in image]
        if missing:
            raise ValueError(f"{json_file}: image {image.get('id')} has no '{missing[0]}'.")
        if image["id"] in seen:
            raise ValueError(f"{json_file}: two images have the id {image['id']}.")
        seen.add(image["id"])
        first = image["id"] if first is None else first
        if isinstance(first, str) != isinstance(image["id"], str):
            raise ValueError(
                f"{json_file}: images have the ids {first!r} and {image['id']!r}; make all of them "
                "numbers, or all of them text."
            )
        for key in ("height", "width"):
            image[key] = whole_pixels(image[key], f"{json_file}: image {image['id']}", key)
        yield image


def whole_pixels(value: Any, where: str, key: str) -> int:
    """
    A number of pixels; tools that keep tables write 480.0.

    Raises:
        ValueError: if it is none; ``where`` and ``key`` say which.
    """
    if type(value) is int:
        return value
    if not isinstance(value, float) or not value.is_integer():
        raise ValueError(f"{where} has a {key} of {value!r:.40}, not a whole number of pixels.")
    return int(value)


class _CountingReader:
    """A file that says how much of it has been read, and whether it began as JSON does."""

    def __init__(self, file: Any, bar: Any) -> None:
        self._file, self._bar = file, bar
        self.count = 0
        self.looks_like_json = True
        self.wrong_start: str | None = None

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        if not self.count and data:
            marks = (what for mark, what in _BYTE_ORDER_MARKS.items() if data.startswith(mark))
            self.wrong_start = next(marks, None)
            self.looks_like_json = data.lstrip()[:1] in (b"", b"{", b"[")
        self.count += len(data)
        self._bar.update(len(data))
        return data


def _one_line(error: Exception) -> str:
    """The first line of the parser's message; the others show the text around the place."""
    said = error.args[0] if error.args else ""
    if isinstance(said, bytes):  # where that text is no UTF-8
        said = said.decode("utf-8", "replace")
    return str(said).strip().splitlines()[0]
