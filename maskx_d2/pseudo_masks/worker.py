"""One image's pseudo-masks, in this process or in a worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import connection, get_context, parent_process
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from pycocotools import mask as mask_util

from .grabcut import box_pixels, grabcut_mask, require_opencv

__all__ = ["Parameters", "Result", "Task", "run_tasks"]

_WAITING = 4  # tasks handed out for each worker: none is idle, and few are in memory
_SEEDS = 2**31


@dataclass(frozen=True)
class Parameters:
    """
    Parameters of :func:`grabcut_mask`, which see.

    Raises:
        ValueError: if one is out of its range.
    """

    iterations: int = 5
    margin: float = 1.0
    max_side: int = 320
    min_fill: float = 0.1

    def __post_init__(self) -> None:
        for name, fits, range_ in (
            ("iterations", self.iterations >= 1, "at least 1"),
            ("margin", 0 <= self.margin < float("inf"), "0 or more"),
            ("max_side", self.max_side >= 16, "at least 16 pixels"),
            ("min_fill", 0 <= self.min_fill <= 1, "a share between 0 and 1"),
        ):
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {range_}.")


@dataclass(frozen=True)
class Task:
    """
    An image and those of its boxes that need a mask.

    Attributes:
        image: the image's position in the JSON file.
        file_name: path of the image.
        height, width: what the JSON file says of it, in pixels.
        boxes: (the annotation's position in the JSON file, its id, ``[x, y, width, height]``).
    """

    image: int
    file_name: str
    height: int
    width: int
    boxes: list[tuple[int, int, list[float]]]


@dataclass(frozen=True)
class Result:
    """
    What became of a task.

    Attributes:
        task: the task.
        masks: (the annotation's position, ``"grabcut"`` or ``"box"``, RLE counts); boxes without
            a pixel in the image have none.
        error: why the image can't be used, one sentence; None if it can.
    """

    task: Task
    masks: list[tuple[int, str, str]]
    error: str | None = None


def run_tasks(tasks: Iterable[Task], parameters: Parameters, workers: int) -> Iterator[Result]:
    """
    Do tasks, in any order.

    Args:
        tasks: taken when there is a worker for them.
        parameters: of GrabCut.
        workers: how many processes do them; 1: this process does. They import ``__main__``, so a
            script that starts them needs ``if __name__ == "__main__":``.
    """
    if workers == 1:
        require_opencv().setNumThreads(1)
        for task in tasks:
            yield run_task(task, parameters)
        return
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    waiting: set[Future[Result]] = set()
    try:
        for task in tasks:
            waiting.add(executor.submit(run_task, task, parameters))
            if len(waiting) >= _WAITING * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    require_opencv().setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for tasks for ever."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def run_task(task: Task, parameters: Parameters) -> Result:
    """The masks of one image."""
    try:
        image = read_image(task.file_name, format="BGR")
    except FileNotFoundError:
        return Result(task, [], f"there is no file '{task.file_name}'.")
    except Exception as e:  # image decoders raise what they like
        reason = str(e).strip().rstrip(".")
        return Result(task, [], f"'{task.file_name}' can't be read ({reason}).")
    size = image.shape[:2]
    if size != (task.height, task.width):
        return Result(
            task,
            [],
            f"'{task.file_name}' has {size[1]} × {size[0]} pixels, but the JSON file says "
            f"{task.width} × {task.height}.",
        )
    masks = (_mask(np.ascontiguousarray(image), *box, parameters) for box in task.boxes)
    return Result(task, [mask for mask in masks if mask is not None])


def _mask(
    image: np.ndarray[Any, Any],
    position: int,
    annotation_id: int,
    box: list[float],
    parameters: Parameters,
) -> tuple[int, str, str] | None:
    # Seeded by the annotation, so that no other one matters, nor who does it.
    mask = grabcut_mask(image, box, **asdict(parameters), seed=annotation_id % _SEEDS)
    source = "grabcut"
    if mask is None:
        pixels = box_pixels(box, *image.shape[:2])
        if pixels is None:
            return None
        source = "box"
        mask = np.zeros(image.shape[:2], dtype=bool)
        x0, y0, x1, y1 = pixels
        mask[y0:y1, x0:x1] = True
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return position, source, rle["counts"].decode("ascii")
