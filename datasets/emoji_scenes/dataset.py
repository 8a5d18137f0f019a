"""The whole data set: its arguments, and which of its parts are to be made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from make_shapes import is_complete, json_path
from tqdm import tqdm

from .backgrounds import fingerprint, list_photographs
from .cast import Cast
from .categories import choose_categories
from .parts import PARTS, describe_part, make_part
from .rules import MIN_IMAGE_SIZE
from .sources import STYLES, fetch_sources
from .splits import write_splits
from .sprites import read_sprites

NUM_IMAGES: Mapping[str, int] = MappingProxyType(
    {"train": 4000, "val": 500, "test": 500, "test_seen": 500}
)
HELD_OUT = "twitter"


def make_emoji(
    root: str | os.PathLike[str],
    *,
    sources: str | os.PathLike[str] | None = None,
    categories: int = 40,
    seed: int = 0,
    num_images: Mapping[str, int] = NUM_IMAGES,
    image_size: int = 128,
    held_out: str = HELD_OUT,
    backgrounds: str | os.PathLike[str] | None = None,
    random_a: Sequence[int] | None = None,
    split_seeds: Sequence[int] = (0, 1, 2),
    progress: bool = True,
) -> Path:
    """
    Write the data set to ``root/emoji<categories>``; parts that are there already are left alone.

    A part's JSON file is removed before its first image is written and comes back, complete, after
    its last one. So a part whose JSON file exists is finished, and its "info" says what it is.

    Args:
        root: directory that holds the data sets, made if need be.
        sources: directory of the drawings, ``root/emoji_sources`` by default. What it lacks is
            downloaded.
        categories: how many categories, the first ones of :func:`rank_categories`.
        seed: the same seed gives the same files; not negative.
        num_images: number of images for each part to make, see ``PARTS``.
        image_size: side of the square images in pixels, at least 64.
        held_out: the style that only the part "test" shows, and shows alone.
        backgrounds: directory of photographs, JPEG or PNG; drawn backgrounds by default. Every
            fifth is kept from "train", the others are for it alone.
        random_a: sizes of set A of the random splits; a quarter, half and three quarters of the
            categories by default.
        split_seeds: seeds of the random splits.
        progress: show a progress bar, or say that there is nothing to do.

    Returns:
        The path ``root/emoji<categories>``.

    Raises:
        ValueError: if an argument is out of range.
        RuntimeError: if a source cannot be downloaded, or is not the one that is expected.
        ImportError: if what draws SVG files is not installed.
        OSError: if a file cannot be written.
    """
    if random_a is None:
        random_a = sorted({max(1, categories * k // 4) for k in (1, 2, 3)})
    _check_arguments(categories, seed, num_images, image_size, held_out, random_a, split_seeds)
    photographs = list_photographs(backgrounds)
    sources = Path(root) / "emoji_sources" if sources is None else Path(sources)
    fetch_sources(sources, progress=progress)
    chosen = choose_categories(sources, categories)
    directory = Path(root) / f"emoji{categories}"
    arguments = {
        "seed": seed,
        "categories": categories,
        "image_size": image_size,
        "held_out": held_out,
        "backgrounds": fingerprint(photographs),
    }
    infos = {part: describe_part(part, n, arguments) for part, n in num_images.items()}
    write_splits(directory / "splits", chosen, random_a, split_seeds)
    stale = [part for part in infos if not is_complete(directory, part, infos[part])]
    if not stale:
        if progress:
            print(f"{directory} is up to date: nothing to make.")
        return directory
    # All drawings are read before anything is removed, so that a part stays as it was if they
    # can't be.
    styles = {part: tuple(infos[part]["styles"]) for part in stale}
    casts = {
        some: Cast(read_sprites(sources, chosen, some, image_size))
        for some in dict.fromkeys(styles.values())
    }
    # Older files go first: a run that stops half way must not leave them beside other images.
    for part in stale:
        json_path(directory, part).unlink(missing_ok=True)
    total = sum(num_images[part] for part in stale)
    with tqdm(total=total, unit="image", disable=not progress) as bar:
        for part in stale:
            bar.set_description(f"emoji{categories} {part}")
            make_part(directory, part, infos[part], chosen, casts[styles[part]], photographs, bar)
    return directory


def _check_arguments(
    categories: int,
    seed: int,
    num_images: Mapping[str, int],
    image_size: int,
    held_out: str,
    random_a: Sequence[int],
    split_seeds: Sequence[int],
) -> None:
    if min([seed, *split_seeds]) < 0:
        raise ValueError(f"seeds must not be negative, got {min([seed, *split_seeds])}.")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE} pixels, got {image_size}.")
    if held_out not in STYLES:
        raise ValueError(f"held_out must be one of {STYLES}, got '{held_out}'.")
    for part, count in num_images.items():
        if part not in PARTS:
            raise ValueError(f"num_images has an unknown part '{part}'; known are {PARTS}.")
        if count < 1:
            raise ValueError(f"num_images['{part}'] must be at least 1, got {count}.")
    for count in random_a:
        if not 0 < count < categories:
            raise ValueError(
                f"random_a must be between 1 and {categories - 1}, one less than there are "
                f"categories, got {count}."
            )
