"""
Runs the cells of a grid side by side, each an ordinary training in a process of its own.

One loop over :mod:`subprocess` is all there is: joblib and its like run Python functions and can't
stop a training's processes, and what can (Snakemake, doit) brings a scheduler and a state of its
own beside the checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from .._environment import available_cores
from . import cell_files as files
from .grid import Cell

__all__ = ["Slot", "cpu_slots", "gpu_slots", "run_cells"]

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Slot:
    """
    A place where one cell at a time can run.

    Attributes:
        where: machine and device; slots of one machine's CPU have the same.
        environment: what a cell's process gets in addition.
    """

    where: str
    environment: Mapping[str, str]


def gpu_slots(gpus: Sequence[str]) -> list[Slot]:
    """One slot for each GPU, given by its number or UUID."""
    threads = _threads(len(gpus))
    return [
        Slot(f"GPU {gpu} of {socket.gethostname()}", {"CUDA_VISIBLE_DEVICES": gpu, **threads})
        for gpu in gpus
    ]


def cpu_slots(workers: int) -> list[Slot]:
    """``workers`` slots that share the CPU (and see all GPUs, if there are any)."""
    return [Slot(socket.gethostname(), _threads(workers))] * workers


def _threads(slots: int) -> dict[str, str]:
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, available_cores() // slots))}


def run_cells(cells: Sequence[Cell], slots: Sequence[Slot], columns: Mapping[str, str]) -> int:
    """
    Run all cells that are not done yet, and say what happens.

    A cell that fails is recorded, and the rest goes on. SIGINT, SIGTERM and SIGHUP stop all
    trainings; what they have trained is there for the next call. Cells that another process is
    running are waited for.

    Args:
        cells: those first that others start from, see :meth:`Grid.select`.
        slots: where to run them.
        columns: label → metric: what each cell must have measured.

    Returns:
        The number of cells that have no result.

    Raises:
        ValueError: if a folder was made with other settings than the grid's.
        SystemExit: on a signal.
    """
    files.check_settings(cells)
    queue = _Queue(cells, slots, columns)
    with _signals_caught() as caught, queue:
        while queue.step() and not caught:
            time.sleep(_POLL_SECONDS)
    if caught:
        print(f"Stopped by {signal.Signals(caught[0]).name}; the same command goes on.")
        raise SystemExit(128 + caught[0])
    return len(queue.without_result)


@contextlib.contextmanager
def _signals_caught() -> Iterator[list[int]]:
    """Signals that ask the process to stop come into the list; one that is ignored stays so."""
    caught: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda received, _frame: caught.append(received))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Run:
    """A cell that is running."""

    cell: Cell
    slot: Slot
    lock: int
    process: subprocess.Popen[bytes]
    start: float = field(default_factory=time.monotonic)


class _Queue(contextlib.AbstractContextManager["_Queue"]):
    """What is waiting, what is running, and what came of the rest."""

    def __init__(
        self, cells: Sequence[Cell], slots: Sequence[Slot], columns: Mapping[str, str]
    ) -> None:
        self.columns = columns
        self.waiting = [cell for cell in cells if files.state(cell) != "done"]
        self.free = list(slots)
        self.running: list[_Run] = []
        self.elsewhere: set[str] = set()
        self.without_result: set[str] = set()
        self.total = len(cells)
        done = self.total - len(self.waiting)
        if done:
            _say(f"{done} of {self.total} cells are done already")
        self.bar = tqdm(
            total=self.total,
            initial=done + sum(files.progress(cell.folder) for cell in self.waiting),
            bar_format="{percentage:3.0f}%|{bar}| {n:.2f}/{total} cells [{elapsed}<{remaining}]",
            disable=None,
        )

    def step(self) -> bool:
        """Look at what runs, start what can start; whether there is anything left to do."""
        for run in [run for run in self.running if run.process.poll() is not None]:
            self._finish(run)
        occupied = []  # slots, by processes that are not ours
        ready = []
        for cell in list(self.waiting):
            if files.state(cell) == "done":
                self.waiting.remove(cell)  # by someone else, meanwhile
            elif cell.after is not None and cell.after.name in self.without_result:
                self.waiting.remove(cell)
                self.without_result.add(cell.name)
                _say(f"{cell.name}: skipped, because {cell.after.name} has failed")
            elif (where := files.holder(cell)) is not None:
                occupied.append(where)
                self._note_elsewhere(cell, where)
            elif cell.after is None or files.state(cell.after) == "done":
                ready.append(cell)
        for slot in list(self.free):
            if slot.where in occupied:
                occupied.remove(slot.where)
            elif ready:
                self._start(ready.pop(0), slot)
        self._update_bar()
        return bool(self.waiting or self.running)

    def _note_elsewhere(self, cell: Cell, where: str) -> None:
        if cell.name not in self.elsewhere:
            self.elsewhere.add(cell.name)
            _say(f"{cell.name}: is being run by another process on {where}, waiting for it")

    def _start(self, cell: Cell, slot: Slot) -> None:
        lock = files.lock(cell, slot.where)
        if lock is None:
            return  # another process was faster
        self.waiting.remove(cell)
        self.elsewhere.discard(cell.name)
        start = None if cell.after is None else files.final_checkpoint(cell.after.folder)
        if cell.after is not None and start is None:
            os.close(lock)
            self._fail(
                cell,
                f"can't start: the checkpoint of {cell.after.name} is gone; delete the folder "
                f"{cell.after.folder} to have it made again",
                1,
            )
            return
        resumes = files.final_checkpoint(cell.folder) is not None
        files.record_settings(cell)
        command = cell.command_line(None if start is None else str(start))
        with open(cell.folder / "stdout.log", "ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **slot.environment},
                    pass_fds=(lock,),
                    start_new_session=True,  # a group that can be stopped with all its workers
                )
            except OSError as e:
                os.close(lock)
                self._fail(cell, f"{command[0]} can't be started ({e.strerror})", 127)
                return
        self.free.remove(slot)
        self.running.append(_Run(cell, slot, lock, process))
        _say(f"{cell.name}: {'goes on' if resumes else 'started'} on {slot.where}")

    def _finish(self, run: _Run) -> None:
        self.running.remove(run)
        self.free.append(run.slot)
        try:
            self._record(run)
        finally:
            os.close(run.lock)

    def _record(self, run: _Run) -> None:
        _signal(run, signal.SIGKILL)  # what a training that crashed has left of its workers
        cell, code = run.cell, run.process.returncode
        metrics = files.final_metrics(cell.folder, self.columns.values())
        missing = [metric for metric in self.columns.values() if metric not in metrics]
        after = f"after {tqdm.format_interval(time.monotonic() - run.start)}"
        if code:
            how = f"exit status {code}" if code > 0 else signal.Signals(-code).name
            self._fail(cell, f"ended with {how} {after}", code)
        elif cell.is_shared and files.final_checkpoint(cell.folder) is None:
            self._fail(cell, "left no checkpoint for others to start from", code)
        elif not cell.is_shared and missing:
            self._fail(cell, f"left no {', '.join(missing)} in metrics.json", code)
        else:
            files.record_done(cell, metrics)
            label, metric = next(iter(self.columns.items()))
            result = f": {label} {metrics[metric]:.2f}" if metric in metrics else ""
            _say(f"{cell.name}: finished {after}{result}")

    def _fail(self, cell: Cell, reason: str, exit_code: int) -> None:
        with contextlib.suppress(ValueError):
            self.waiting.remove(cell)
        self.without_result.add(cell.name)
        files.record_failed(cell, reason, exit_code)
        said = [line for line in files.last_lines(cell.folder / "stdout.log", 20) if line.strip()]
        ends = f"; {cell.folder / 'stdout.log'} ends: {said[-1]}" if said else ""
        _say(f"{cell.name}: FAILED, {reason}{ends}")

    def _update_bar(self) -> None:
        finished = self.total - len(self.waiting) - len(self.running)
        unfinished = [*self.waiting, *(run.cell for run in self.running)]
        self.bar.n = finished + sum(files.progress(cell.folder) for cell in unfinished)
        self.bar.refresh()

    def __exit__(self, *_: object) -> None:
        """Stop what is running still."""
        for run in self.running:
            _signal(run, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for run in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(max(0.0, deadline - time.monotonic()))
            _signal(run, signal.SIGKILL)
            run.process.wait()
            os.close(run.lock)
        self.bar.close()


def _signal(run: _Run, number: int) -> None:
    """To a training and all the processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, number)


def _say(what: str) -> None:
    tqdm.write(f"[{time.strftime('%H:%M:%S')}] {what}")
    sys.stdout.flush()  # also into a file, where someone looks how far it is
