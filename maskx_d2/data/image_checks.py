"""Checks of image files: are they there, can they be read, and are they as the data set says?"""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .annotation_checks import ImageList
from .findings import FindingLog

__all__ = ["check_file_names", "check_files"]

_EXIF_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap width and height
# What Pillow calls images that have more than 8 bits a channel.
_DEEP_MODES = ("I", "F")


def check_file_names(images: ImageList, log: FindingLog) -> None:
    """Find files that several images name: each would learn that it has nothing of the others."""
    first: dict[str, int] = {}
    for position, file_name in enumerate(images.file_names):
        if not file_name:
            continue
        before = first.setdefault(os.path.normpath(file_name), position)
        if images.ids[before] != images.ids[position]:  # else that is what is found
            message = (
                f"the file is that of image {images.ids[before]!r}, too; each would learn the "
                "other's objects as background. Give all annotations one image's id."
            )
            log.add("duplicate_file_name", message, images.ids[position], None, file_name)


def check_files(
    images: ImageList,
    image_root: str | os.PathLike[str] | None,
    log: FindingLog,
    *,
    addresses: bool,
    open_files: bool,
    progress: bool,
) -> None:
    """
    Look for each image's file, and read its header.

    Args:
        images: by position.
        image_root: the folder that file names start from; None or an address such as ``s3://…``:
            nothing is looked for.
        log: for findings.
        addresses: whether a file name may be an address, which is then left alone.
        open_files: whether to read headers, which tell size, depth and what can't be read.
        progress: whether to show a progress bar where it takes longer than some seconds.
    """
    if image_root is None or "://" in str(image_root):
        return
    root = Path(image_root)
    if not root.is_dir():
        message = f"the image folder '{root}' does not exist; name the one that has the images."
        log.add("image_folder_missing", message)
        return
    entries = zip(images.ids, images.file_names, images.heights, images.widths)
    bar = tqdm(entries, "image files", len(images), delay=3.0, leave=False, disable=not progress)
    for image_id, file_name, height, width in bar:
        if not file_name or (addresses and "://" in file_name):
            continue
        path = root / file_name
        if "://" in file_name:
            message = (
                f"its file_name is an address, and a training would look for '{root}/{file_name}'; "
                "download the image and write its path."
            )
            log.add("image_file_missing", message, image_id, file_name=file_name)
        elif not path.is_file():
            message = f"there is no file '{path}'."
            log.add("image_file_missing", message, image_id, file_name=file_name)
        elif open_files:
            for kind, message in _problems(path, height, width):
                log.add(kind, message, image_id, file_name=file_name)


def _problems(path: Path, height: float, width: float) -> list[tuple[str, str]]:
    """(kind, message) of what an image's header shows; height and width NaN if not known."""
    try:
        with Image.open(path) as image:
            found_width, found_height = image.size
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            mode = image.mode
    except Exception as e:  # Pillow's readers raise whatever a broken file leads to
        reason = str(e).strip().rstrip(".") or type(e).__name__
        return [("image_unreadable", f"the file can't be read as an image ({reason}).")]
    problems = []
    turned = orientation in _ON_ITS_SIDE
    if turned:  # as detectron2 reads it
        found_width, found_height = found_height, found_width
    if (height == height and found_height != height) or (width == width and found_width != width):
        hint = (
            f"; its EXIF orientation is {orientation}, and sizes and boxes must be of the upright "
            "image."
            if turned
            else "."
        )
        message = (
            f"the file has {found_width} x {found_height} pixels (width x height), but the data "
            f"set says {width:.0f} x {height:.0f}{hint}"
        )
        problems.append(("image_size_differs", message))
    if mode in _DEEP_MODES or mode.startswith("I;16"):
        message = (
            f"its pixels have more than 8 bits (Pillow's mode {mode}), and detectron2 would clip "
            "them to white; convert the file to 8 bits a channel."
        )
        problems.append(("image_depth", message))
    return problems
