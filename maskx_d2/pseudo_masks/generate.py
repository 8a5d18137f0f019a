"""
GrabCut masks for a COCO file's instances without masks: the baseline of "Learning to Segment
Every Thing" that trains Mask R-CNN on them.

Real masks of set B are neither read nor copied; those of set A stay as they are.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.coco_json import is_box
from ..data.coco_reader import read_categories, read_images, read_section
from ..data.partial_masks import has_mask
from ..splits import ClassSplit
from .grabcut import require_opencv
from .progress import ProgressFile
from .rewrite import copy_with_changes, read_header
from .worker import Parameters, Task, run_tasks

__all__ = ["Parameters", "Report", "generate_pseudo_masks"]

#: A split, or what makes one from all category names.
Split = ClassSplit | Callable[[Sequence[str]], ClassSplit]

_NOT_LISTED = -1  # the image of an annotation whose image is not in the file


@dataclass(frozen=True)
class Report:
    """
    What :func:`generate_pseudo_masks` did.

    Attributes:
        grabcut: how many instances have a mask from GrabCut.
        box: how many have their whole box as mask, because GrabCut found nothing.
        without_mask: how many have none: their image can't be used or is not in the file, or
            their box has no pixel in it.
        skipped: (file name, a sentence) of the images that can't be used.
    """

    grabcut: int
    box: int
    without_mask: int
    skipped: list[tuple[str, str]]


def generate_pseudo_masks(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    split: Split | None = None,
    parameters: Parameters | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """
    Write a copy of a COCO instances file in which GrabCut has made masks from boxes.

    They are compressed RLE; the annotation's ``mask_source`` says ``"grabcut"``, or ``"box"``
    where GrabCut found nothing and the whole box is the mask. The parameters stand in the file
    under ``"pseudo_masks"``. All else is copied.

    Finished images are noted in ``<output>.progress.jsonl``: a call that was killed goes on from
    there when it is repeated. The file stays while images are skipped, so that a repeated call does
    only those. The result depends neither on kills nor on ``workers``.

    Args:
        json_file: path of the file. Its annotations are never held in memory.
        image_root: the folder of its images.
        output: path of the copy.
        split: all instances of its set B get pseudo-masks, whatever the file has of them. None:
            those instances get them that have no usable mask.
        parameters: of GrabCut; None: the defaults.
        workers: how many processes compute masks.
        progress: whether to show progress bars.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ImportError: if OpenCV is missing.
        ValueError: if the file can't be used, or ``output`` is a file that is not of such a call
            with the same parameters: it may hold real masks.
    """
    parameters = parameters or Parameters()
    if workers < 1:
        raise ValueError(f"workers is {workers}, but must be at least 1.")
    _check_paths(json_file, image_root, output)
    boxes_only, description = _boxes_only(json_file, split, progress)
    described = {
        "method": "grabcut",
        **asdict(parameters),
        "opencv": require_opencv().__version__,  # another version may find other masks
        "split": description,
        "source_sha256": _sha256(json_file),
    }
    before = _finished_before(output, described)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    progress_path = Path(f"{os.fspath(output)}.progress.jsonl")
    if before is not None and not before["skipped_images"] and not progress_path.exists():
        return Report(**before["instances"], skipped=[])
    plan = _Plan(json_file, boxes_only, progress)
    done = ProgressFile(progress_path, described)
    try:
        skipped = _compute(plan, done, image_root, parameters, workers, progress)
        instances = {
            "grabcut": done.counts["grabcut"],
            "box": done.counts["box"],
            "without_mask": len(plan.positions) - len(done),
        }
        header = {
            "parameters": described,
            "instances": instances,
            "skipped_images": [plan.image_ids[image] for image, _ in skipped],
        }
        copy_with_changes(json_file, output, header, plan.changes(done))
        if not skipped:
            progress_path.unlink()
    finally:
        done.close()
    return Report(**instances, skipped=[(plan.file_names[i], error) for i, error in skipped])


def _check_paths(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
) -> None:
    if not Path(json_file).is_file():
        raise FileNotFoundError(f"file '{json_file}' does not exist.")
    if not Path(image_root).is_dir():
        raise FileNotFoundError(
            f"the image folder '{image_root}' does not exist; name the one that has the images."
        )
    if Path(output).exists() and Path(output).samefile(json_file):
        raise ValueError(
            f"'{output}' is the file with the real masks, which are never overwritten; choose "
            "another output."
        )


def _boxes_only(
    json_file: str | os.PathLike[str], split: Split | None, progress: bool
) -> tuple[dict[int, bool] | None, dict[str, Any] | None]:
    """Whether each category id is in set B, and the split as JSON; None without a split."""
    if split is None:
        return None, None
    categories = read_categories(json_file, progress=progress)
    names = list(categories.values())
    class_split = split if isinstance(split, ClassSplit) else split(names)
    class_split.indices(names)  # a split that does not fit is an error
    boxes_only = {i: name in class_split.boxes_only for i, name in categories.items()}
    return boxes_only, {"name": class_split.name, "boxes_only": sorted(class_split.boxes_only)}


def _sha256(path: str | os.PathLike[str]) -> str:
    digest = sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _finished_before(
    output: str | os.PathLike[str], described: dict[str, Any]
) -> dict[str, Any] | None:
    """What the output says of itself, None if there is none yet; it must be of the same job."""
    if not Path(output).exists():
        return None
    header = read_header(output)
    if header is None or header.get("parameters") != described:
        reason = "other parameters" if header else "masks that may be real"
        raise ValueError(
            f"'{output}' exists and has {reason}, so it is not overwritten; choose another output, "
            "or remove it."
        )
    return header


def _compute(
    plan: _Plan,
    done: ProgressFile,
    image_root: str | os.PathLike[str],
    parameters: Parameters,
    workers: int,
    progress: bool,
) -> list[tuple[int, str]]:
    """Do what is not done; the images that can't be used, in the file's order, and why."""
    skipped = []
    bar = tqdm(
        total=len(plan.positions),
        initial=len(done),
        desc="GrabCut",
        unit="box",
        smoothing=0.05,  # boxes take very different times
        disable=not progress,
    )
    with bar:
        for result in run_tasks(plan.tasks(done, image_root), parameters, workers):
            if result.error is None:
                done.add(result.task.image, result.masks)
            else:
                skipped.append((result.task.image, result.error))
            bar.update(len(result.task.boxes))
    return sorted(skipped)
