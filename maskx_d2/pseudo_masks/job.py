"""What every job that writes pseudo-masks checks and says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.coco_reader import read_categories
from ..splits import ClassSplit
from .plan import JobPlan
from .progress import Progress
from .rewrite import copy_with_changes, read_header

__all__ = [
    "Report",
    "Split",
    "check_paths",
    "described_sets",
    "finished_before",
    "sets_of",
    "split_of",
    "write_output",
]

#: A split, or what makes one from all category names.
Split = ClassSplit | Callable[[Sequence[str]], ClassSplit]


@dataclass(frozen=True)
class Report:
    """
    What a job did.

    Attributes:
        masks: how many instances have a mask from each source, such as ``"grabcut"``; ``"box"``
            is the whole box, where nothing was found in it.
        without_mask: how many have none: their image can't be used or is not in the file, or
            their box has no pixel in it. Of a job that finds instances: how many labels of images
            have no instance.
        skipped: (file name, a sentence) of the images that can't be used.
    """

    masks: Mapping[str, int]
    without_mask: int
    skipped: list[tuple[str, str]]


def write_output(
    json_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    described: dict[str, Any],
    plan: JobPlan,
    done: Progress,
    skipped: Sequence[tuple[int, str]],
) -> Report:
    """
    Write the copy of a COCO file that has the masks.

    Its header has that of the file, if it is an output itself, under ``"before"``.

    Args:
        json_file, output: paths.
        described: what the masks follow from, as JSON values.
        plan: what is done with the file's annotations.
        done: their masks.
        skipped: (position of the image, a sentence) of those that can't be used.
    """
    counts = dict(sorted(done.counts.items()))
    without_mask = plan.without_mask(done)
    header = {
        "parameters": described,
        "instances": {"masks": counts, "without_mask": without_mask},
        "skipped_images": [plan.image_ids[image] for image, _ in skipped],
    }
    before = read_header(json_file)
    if before is not None:
        header["before"] = before
    copy_with_changes(json_file, output, header, plan.changes(done), plan.added(done))
    return Report(counts, without_mask, [(plan.file_names[i], error) for i, error in skipped])


def check_paths(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
) -> None:
    """Whether there is input, and the output is not the input."""
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


def sets_of(
    json_file: str | os.PathLike[str], split: Split | None, progress: bool
) -> tuple[dict[int, str] | None, dict[str, Any] | None]:
    """The letter of each category id's set, and the split as JSON; None without a split."""
    if split is None:
        return None, None
    class_split, categories = split_of(json_file, split, progress)
    sets = {i: class_split.set_of(name) for i, name in categories.items()}
    described = {"name": class_split.name, "boxes_only": sorted(class_split.boxes_only)}
    if class_split.labels_only:
        described["labels_only"] = sorted(class_split.labels_only)
    return sets, described


def described_sets(split: Mapping[str, Any], categories: Mapping[int, str]) -> dict[int, str]:
    """What :func:`sets_of` gave, of the split as JSON and the categories' names by their ids."""
    letters = {"B": split["boxes_only"], "C": split.get("labels_only", [])}
    of_name = {name: letter for letter, names in letters.items() for name in names}
    return {i: of_name.get(name, "A") for i, name in categories.items()}


def split_of(
    json_file: str | os.PathLike[str], split: Split, progress: bool
) -> tuple[ClassSplit, dict[int, str]]:
    """A file's split, which is checked, and the names of its categories by their ids."""
    categories = read_categories(json_file, progress=progress)
    names = list(categories.values())
    class_split = split if isinstance(split, ClassSplit) else split(names)
    class_split.indices(names)  # a split that does not fit is an error
    return class_split, categories


def finished_before(output: str | os.PathLike[str], described: dict[str, Any]) -> Report | None:
    """
    What the output says that was done; None if there is none yet, or images were skipped.

    Raises:
        ValueError: if it is there, but not of this job.
    """
    if not Path(output).exists():
        return None
    header = read_header(output)
    if header is None or header.get("parameters") != described:
        reason = "other parameters" if header else "masks that may be real"
        raise ValueError(
            f"'{output}' exists and has {reason}, so it is not overwritten; choose another output, "
            "or remove it."
        )
    return None if header["skipped_images"] else Report(**header["instances"], skipped=[])
