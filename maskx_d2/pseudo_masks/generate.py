"""
GrabCut masks for a COCO file's instances without masks: the baseline of "Learning to Segment
Every Thing" that trains Mask R-CNN on them.

Real masks of set B are neither read nor copied; those of set A stay as they are.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .._files import sha256_of
from .grabcut import require_opencv
from .job import (
    Report,
    Split,
    check_paths,
    finished_before,
    sets_of,
    write_output,
)
from .parallel import run_tasks
from .plan import Plan
from .progress import ProgressFile
from .worker import Parameters, run_task

__all__ = ["generate_pseudo_masks"]


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
    check_paths(json_file, image_root, output)
    sets, description = sets_of(json_file, split, progress)
    described = {
        "method": "grabcut",
        **asdict(parameters),
        "opencv": require_opencv().__version__,  # another version may find other masks
        "split": description,
        "source_sha256": sha256_of(json_file),
    }
    before = finished_before(output, described)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    progress_path = Path(f"{os.fspath(output)}.progress.jsonl")
    if before is not None and not progress_path.exists():
        return before
    plan = Plan(json_file, sets, progress)
    with ProgressFile(progress_path, described) as done:
        skipped = _compute(plan, done, image_root, parameters, workers, progress)
        report = write_output(json_file, output, described, plan, done, skipped)
        if not skipped:
            progress_path.unlink()
    return report


def _compute(
    plan: Plan,
    done: ProgressFile,
    image_root: str | os.PathLike[str],
    parameters: Parameters,
    workers: int,
    progress: bool,
) -> list[tuple[int, str]]:
    """Do what is not done; the images that can't be used, in the file's order, and why."""
    skipped = []
    run = partial(run_task, parameters=parameters)
    bar = tqdm(
        total=len(plan.positions),
        initial=len(done),
        desc="GrabCut",
        unit="box",
        smoothing=0.05,  # boxes take very different times
        disable=not progress,
    )
    with bar:
        for result in run_tasks(plan.tasks(done, image_root), run, workers):
            if result.error is None:
                done.add(result.task.image, result.masks)
            else:
                skipped.append((result.task.image, result.error))
            bar.update(len(result.task.boxes))
    return sorted(skipped)
