"""
COCO's run-length encoding, checked.

pycocotools does not tell whether the runs make up the mask: it leaves the pixels beyond the last
run as it found them in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_api

__all__ = ["areas", "checked", "compressed", "shown", "wrong_runs"]

_NUMBERS = (int, float, np.integer, np.floating)  # tools that keep tables write 100.0
_ALPHABET = re.compile(rb"[0-o]+")  # 64 characters from "0"
_AREAS_AT_ONCE = 255  # pycocotools 2.0 with numpy 2 overflows a byte with more


def compressed(rle: Mapping[str, Any]) -> dict[str, Any]:
    """
    An RLE in COCO's compressed form, its counts as bytes.

    Whether these make up as many pixels as they should, :func:`wrong_runs` finds out.

    Raises:
        ValueError: if its size or counts can't be those of an RLE.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size)
    ):
        raise ValueError(f"the RLE's size is {shown(size)}, which is not a height and a width.")
    size = [int(n) for n in size]
    if isinstance(counts, (list, np.ndarray)):
        if not all(isinstance(n, _NUMBERS) and n >= 0 and n % 1 == 0 for n in counts):
            raise ValueError("the RLE's counts are not all run lengths.")
        counts = [int(n) for n in counts]
        if sum(counts) != size[0] * size[1]:
            raise ValueError(_wrong_sum(sum(counts), size))
        counts = mask_api.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
    if isinstance(counts, str):
        counts = counts.encode("utf-8", errors="surrogatepass")
    if (
        not isinstance(counts, bytes)
        or not _ALPHABET.fullmatch(counts)
        or (counts[-1] - 48) & 32  # the last number goes on
    ):
        raise ValueError(
            f"the RLE's counts are {shown(rle.get('counts'))}, which COCO's RLE can't be; the "
            "segmentation may have been cut off."
        )
    return {"size": size, "counts": counts}


def checked(rle: Mapping[str, Any]) -> dict[str, Any]:
    """
    :func:`compressed`, of an RLE whose runs make up its size.

    Raises:
        ValueError: if they don't, or it can't be read.
    """
    readable = compressed(rle)
    for _, problem in wrong_runs([readable]):
        raise ValueError(problem)
    return readable


def wrong_runs(rles: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """
    Which of R compressed RLEs don't make up their size.

    Returns:
        their positions, and what is wrong with each.
    """
    if not rles:
        return []
    sums = _run_length_sums([rle["counts"] for rle in rles])
    pixels = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    wrong = np.flatnonzero(sums != pixels).tolist()
    return [(i, _wrong_sum(int(sums[i]), rles[i]["size"])) for i in wrong]


def areas(rles: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
    """The pixels of each of R compressed RLEs, (R,), however many there are."""
    parts = [
        np.asarray(mask_api.area(list(rles[i : i + _AREAS_AT_ONCE])))
        for i in range(0, len(rles), _AREAS_AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def _run_length_sums(strings: list[bytes]) -> npt.NDArray[np.int64]:
    """How many pixels each compressed RLE speaks of: the sum of its run lengths."""
    codes = np.frombuffer(b"".join(strings), dtype=np.uint8).astype(np.int64) - 48
    # Characters → numbers: 5 bits each, the lowest first; bit 5 says that the number goes on,
    # bit 4 of the last is its sign.
    last = codes & 32 == 0
    number = np.cumsum(last) - last
    first = np.flatnonzero(np.r_[True, last[:-1]])
    place = np.minimum(5 * (np.arange(len(codes)) - first[number]), 55)
    numbers = np.add.reduceat((codes & 31) << place, first)
    negative = codes[last] & 16 != 0
    numbers -= np.where(negative, np.int64(1) << (place[last] + 5), 0)
    # Numbers → run lengths: from the fourth on, each is a difference to the last but one. So
    # number i counts once for run i and once for every second run after it.
    ends = np.cumsum([len(s) for s in strings])
    string_ends = np.cumsum(last)[ends - 1]
    string_starts = np.r_[0, string_ends[:-1]]
    lengths = string_ends - string_starts
    i = np.arange(len(numbers)) - np.repeat(string_starts, lengths)
    times = (np.repeat(lengths, lengths) - 1 - i) // 2 + 1
    times[i == 0] = 1
    sums: npt.NDArray[np.int64] = np.add.reduceat(numbers * times, string_starts)
    return sums


def _wrong_sum(total: int, size: Sequence[int]) -> str:
    return (
        f"the RLE's runs are {total} pixels long in all, but its size {list(size)} makes "
        f"{size[0] * size[1]}; the segmentation may have been cut off."
    )


def shown(value: Any, limit: int = 40) -> str:
    """What somebody wrote, for a message: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
