"""
A trained model's masks for a COCO file's boxes that have none, in one process or in many.

Real masks are neither read nor changed, boxes and categories are used as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from detectron2.data import build_detection_test_loader
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from .._files import sha256_of
from ..data.coco_reader import read_categories
from ..engine.inference import load_model, settings_hash
from .job import (
    Report,
    Split,
    check_paths,
    described_sets,
    finished_before,
    sets_of,
    write_output,
)
from .model_masks import (
    Labeller,
    ModelMasks,
    categories_of_model,
    check_takes_boxes,
    is_class_agnostic,
)
from .plan import Plan
from .progress import ProgressFile, Shards, parameters_of
from .rewrite import read_header
from .task import Result, Task

__all__ = ["RunTasks", "Shard", "label_boxes", "merge_shards"]

RunTasks = Callable[[Labeller, list[Task]], Iterator[Result]]


@dataclass(frozen=True)
class Shard:
    """
    A part of a job: of ``count`` parts, the ``index``-th, counted from 1.

    Raises:
        ValueError: if there is no such part.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"there is no part {self.index} of {self.count}.")

    def has(self, image: int) -> bool:
        """Whether an image, by its position in the file, is of this part."""
        return image % self.count == self.index - 1

    def progress_file(self, output: str | os.PathLike[str]) -> Path:
        """Where the part notes what it has finished."""
        part = "progress" if self.count == 1 else f"{self.index}-of-{self.count}"
        return Path(f"{os.fspath(output)}.{part}.jsonl")


def label_boxes(
    config_file: str,
    weights: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    split: Split | None = None,
    renamed: Mapping[str, str] | None = None,
    skip_unknown: bool = False,
    score_as_weight: bool = False,
    shard: Shard | None = None,
    workers: int = 1,
    opts: Sequence[str] = (),
    run_tasks: RunTasks | None = None,
    progress: bool = True,
) -> Report:
    """
    Write a copy of a COCO instances file in which a model has made the missing masks.

    They are compressed RLE. Their annotations say of them: ``mask_source``, ``"model"``, or
    ``"box"`` where the model found nothing and the whole box is the mask; ``mask_model``, the
    first 12 digits of the checkpoint's SHA-256; ``mask_score``, the mean probability of the
    mask's pixels, in [0.5, 1], and 0 for a whole box. ``area``, if there was none, is the mask's.
    All else is copied. How they were made stands in the file under ``"pseudo_masks"``.

    Finished images are noted beside the output: a call that was killed goes on from there when it
    is repeated. The file stays while images are skipped, so that a repeated call does only those.
    The result depends neither on kills nor on shards nor on ``workers``.

    Args:
        config_file, weights, opts: see :func:`load_model`.
        json_file: path of the file. Its annotations are never held in memory.
        image_root: the folder of its images.
        output: path of the copy.
        split: all instances of its set B get a mask of the model, whatever the file has of them.
            None: those instances get one that have no usable mask. Never a crowd.
        renamed, skip_unknown: see :func:`categories_of_model`.
        score_as_weight: also write the score as ``mask_weight``, by which a training with
            :class:`PartialMaskDatasetMapper` counts the mask; a whole box then counts as a box.
        shard: do only this part of the images; the output is written by :func:`merge_shards`.
        workers: processes that read images; 0: this one.
        run_tasks: makes the masks elsewhere, in any order: it is given what to load and the
            images to do, and yields what :meth:`ModelMasks.make` returns for each.
            ``tools/label_with_ray.py`` is one.
        progress: whether to show progress bars.

    Returns:
        What was done; of a shard, its part of it.

    Raises:
        FileNotFoundError: if a file or folder does not exist.
        TypeError: if the model has no masks or can't be given boxes.
        ValueError: if the file can't be used, has categories that the model does not know, or
            ``output`` is a file that is not of such a call: it may hold real masks.
    """
    shard = shard or Shard()
    check_paths(json_file, image_root, output)
    loaded = load_model(config_file, weights, opts)
    check_takes_boxes(loaded.model)
    thing_classes = list(loaded.metadata.get("thing_classes") or [])
    sets, description = sets_of(json_file, split, progress)
    model_hash = sha256_of(PathManager.get_local_path(weights))
    described = {
        "method": "model",
        "model_sha256": model_hash,
        "settings_sha256": settings_hash(config_file, opts),
        "thing_classes_sha256": sha256("\n".join(thing_classes).encode()).hexdigest(),
        "renamed": dict(sorted((renamed or {}).items())),
        "skip_unknown": skip_unknown,
        "split": description,
        "source_sha256": sha256_of(json_file),
    }
    if score_as_weight:
        described["score_as_weight"] = True
    before = finished_before(output, described)
    progress_path = shard.progress_file(output)
    if before is not None and not progress_path.exists():
        return before
    plan = Plan(json_file, sets, progress)
    names = read_categories(json_file, progress=progress)
    if plan.category_ids - set(names):
        raise ValueError(
            f"{json_file} has annotations of category_id "
            f"{', '.join(map(str, sorted(plan.category_ids - set(names))))}, which is not in "
            "'categories'."
        )
    classes = categories_of_model(
        {i: names[i] for i in sorted(plan.category_ids)},
        thing_classes,
        renamed=renamed,
        skip_unknown=skip_unknown,
        class_agnostic=is_class_agnostic(loaded.model),
    )
    fields = {"mask_model": model_hash[:12]}
    labeller = Labeller(config_file, weights, tuple(opts), classes, fields, score_as_weight)
    if run_tasks is None:
        masks = ModelMasks(loaded, classes, fields, score_as_weight)
        run_tasks = partial(_run_here, masks=masks, workers=workers)
    del loaded  # others who load it may need its place on the GPU
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with ProgressFile(progress_path, described) as done:
        run = partial(run_tasks, labeller)
        skipped = _compute(plan, done, run, image_root, shard, progress)
        if shard.count > 1:
            done.finish(skipped)
            without_mask = plan.count(shard.has) - sum(done.counts.values())
            errors = [(plan.file_names[i], error) for i, error in skipped]
            return Report(dict(done.counts), without_mask, errors)
        report = write_output(json_file, output, described, plan, done, skipped)
        if not skipped:
            progress_path.unlink()
    return report


def merge_shards(
    json_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    count: int,
    *,
    progress: bool = True,
) -> Report:
    """
    Write the output of a job whose parts are all done.

    The parts' files are removed when it is written, unless images were skipped.

    Args:
        json_file, output: of the job, as the parts had them.
        count: of the parts.
        progress: whether to show progress bars.

    Raises:
        FileNotFoundError: if a part has not begun.
        ValueError: if a part is not done, or is of another job or file.
    """
    paths = [Shard(i, count).progress_file(output) for i in range(1, count + 1)]
    if not Path(json_file).is_file():
        raise FileNotFoundError(f"file '{json_file}' does not exist.")
    source = sha256_of(json_file)
    header = read_header(output) if Path(output).is_file() else None
    if header is not None and header["parameters"].get("source_sha256") == source:
        # It was written already; a kill may have left some of the parts.
        report = finished_before(output, header["parameters"])
        if report is not None:
            for path in paths:
                path.unlink(missing_ok=True)
            return report
    for i, path in enumerate(paths, start=1):
        if not path.is_file():
            raise FileNotFoundError(
                f"file '{path}' does not exist; run --shard {i}/{count} with the same --output."
            )
    described = parameters_of(paths[0])
    if described.get("source_sha256") != source:
        raise ValueError(f"{paths[0]} is not of '{json_file}', or that has changed since.")
    finished_before(output, described)
    with ExitStack() as stack:
        parts = [stack.enter_context(ProgressFile(path, described)) for path in paths]
        for i, part in enumerate(parts, start=1):
            if part.skipped is None:
                raise ValueError(f"part {i} of {count} is not done; repeat --shard {i}/{count}.")
        split = described["split"]
        sets = split and described_sets(split, read_categories(json_file, progress=progress))
        plan = Plan(json_file, sets, progress)
        skipped = sorted(image for part in parts for image in part.skipped or ())
        report = write_output(json_file, output, described, plan, Shards(parts), skipped)
        if not skipped:
            for path in paths:
                path.unlink()
    return report


def _compute(
    plan: Plan,
    done: ProgressFile,
    run: Callable[[list[Task]], Iterator[Result]],
    image_root: str | os.PathLike[str],
    shard: Shard,
    progress: bool,
) -> list[tuple[int, str]]:
    """Do what is not done; the images that can't be used, in the file's order, and why."""
    tasks = [task for task in plan.tasks(done, image_root) if shard.has(task.image)]
    skipped = []
    total = plan.count(shard.has)
    left = sum(len(task.boxes) for task in tasks)
    with tqdm(
        total=total, initial=total - left, desc="label", unit="box", disable=not progress
    ) as bar:
        for result in run(tasks) if tasks else ():
            if result.error is None:
                done.add(result.task.image, result.masks)
            else:
                skipped.append((result.task.image, result.error))
            bar.update(len(result.task.boxes))
    return sorted(skipped)


def _run_here(
    _labeller: Labeller, tasks: list[Task], *, masks: ModelMasks, workers: int
) -> Iterator[Result]:
    """In this process; others read the images."""
    loader: Any = build_detection_test_loader(tasks, mapper=masks.read, num_workers=workers)
    for (read,) in loader:
        yield masks.make(*read)
