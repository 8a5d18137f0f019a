"""Tasks in this process, or in several."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from .grabcut import require_opencv

__all__ = ["run_tasks"]

_WAITING = 4  # tasks handed out for each worker: none is idle, and few are in memory

_Task = TypeVar("_Task")
_Done = TypeVar("_Done")


def run_tasks(
    tasks: Iterable[_Task], run: Callable[[_Task], _Done], workers: int
) -> Iterator[_Done]:
    """
    Do tasks, in any order.

    Args:
        tasks: taken when there is a worker for them.
        run: does one; with several workers, something that can be pickled.
        workers: how many processes do them; 1: this process does. They import ``__main__``, so a
            script that starts them needs ``if __name__ == "__main__":``.
    """
    if workers == 1:
        require_opencv().setNumThreads(1)
        yield from map(run, tasks)
        return
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    waiting: set[Future[_Done]] = set()
    try:
        for task in tasks:
            waiting.add(executor.submit(run, task))
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
