"""
What stands in a cell's folder beside the training's own files.

``cell.json``: its settings; ``stdout.log``: what it said; ``done.json``: its final metrics;
``failed.json``: why it has none; ``lock``: held as long as the training lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._files import written_whole
from .grid import Cell

__all__ = [
    "check_settings",
    "final_checkpoint",
    "final_metrics",
    "holder",
    "last_lines",
    "lock",
    "progress",
    "read_json",
    "record_done",
    "record_failed",
    "record_settings",
    "state",
]


def state(cell: Cell) -> str:
    """``done``, ``failed``, ``started`` or ``new``, whether or not it is running now."""
    for name, file in (("done", "done.json"), ("failed", "failed.json"), ("started", "cell.json")):
        if (cell.folder / file).exists():
            return name
    return "new"


def check_settings(cells: Iterable[Cell]) -> None:
    """
    Make sure that what is in the folders was made with the grid's settings.

    Raises:
        ValueError: if a folder was made with others, or holds something else.
    """
    for cell in cells:
        folder = cell.folder
        advice = f"choose another output, or delete '{folder}'."
        if not (folder / "cell.json").exists():
            if folder.exists() and any(path.name != "lock" for path in folder.iterdir()):
                raise ValueError(
                    f"the folder of cell '{cell.name}' holds something that is not of this grid; "
                    + advice
                )
            continue
        recorded, wanted = read_json(folder / "cell.json"), cell.settings
        if recorded != wanted and not _is_blank(folder):
            raise ValueError(
                f"cell '{cell.name}' was started with other settings: "
                f"{'; '.join(_differences(recorded, wanted))}; {advice}"
            )


def _is_blank(folder: Path) -> bool:
    """Whether it failed before anything was trained, so that there is nothing to mix."""
    trained = any((folder / name).exists() for name in ("metrics.json", "last_checkpoint"))
    return (folder / "failed.json").exists() and not trained


def _differences(recorded: Any, wanted: Mapping[str, Any], of: str = "") -> list[str]:
    found = []
    for key, value in wanted.items():
        before = recorded.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            found += _differences(before, value, f"{key}: ")
        elif before != value and key == "contents of the config files":
            found.append(f"{of}config file '{wanted['config']}' or one below it has changed")
        elif before != value:
            found.append(f"{of}{key} was {_only_in(before, value)}, now {_only_in(value, before)}")
    return found


def _only_in(value: Any, other: Any) -> str:
    """A value for a message; of two lists only what differs between their common ends."""
    if not isinstance(value, list) or not isinstance(other, list):
        return repr(value)
    start = 0
    while start < min(len(value), len(other)) and value[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(value), len(other)) - start and value[-1 - end] == other[-1 - end]:
        end += 1
    part = value[start : len(value) - end]
    return " ".join(part) if part else "without that"


# -------------------------------------------------------------------------------------- records


def record_settings(cell: Cell) -> None:
    """Say what the folder is made with, before anything is put there."""
    _write_json(cell.folder / "cell.json", cell.settings)
    (cell.folder / "failed.json").unlink(missing_ok=True)


def record_done(cell: Cell, metrics: Mapping[str, float]) -> None:
    """The cell is finished, and this is what it has reached."""
    _write_json(cell.folder / "done.json", {"cell": cell.name, "metrics": dict(metrics)})


def record_failed(cell: Cell, reason: str, exit_code: int) -> None:
    """The cell has failed; its log says more."""
    log = last_lines(cell.folder / "stdout.log", 20)
    content = {"cell": cell.name, "reason": reason, "exit_code": exit_code, "log": log}
    _write_json(cell.folder / "failed.json", content)


def read_json(path: Path) -> Any:
    """What a file of these holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: Any) -> None:
    with written_whole(path) as incomplete:
        incomplete.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------- lock


def lock(cell: Cell, where: str) -> int | None:
    """
    Take a cell for oneself, as long as the returned file descriptor or a copy of it is open.

    A child process that inherits it keeps the cell locked when its parent is killed.

    Args:
        where: the slot that it occupies.

    Returns:
        None if someone else has it.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(cell.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    os.pwrite(fd, where.encode(), 0)
    return fd


def holder(cell: Cell) -> str | None:
    """The slot in which the cell is running now, whoever started it; None if it is not."""
    try:
        fd = os.open(cell.folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(fd, 1000, 0).decode()
    finally:
        os.close(fd)
    return None


# -------------------------------------------------------------------- what the training has written


def final_metrics(folder: Path, wanted: Iterable[str]) -> dict[str, float]:
    """
    All metrics of the last evaluation in a run's ``metrics.json``.

    Args:
        wanted: metrics that only an evaluation writes, in addition to any ``<task>/AP``.
    """
    path = folder / "metrics.json"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in reversed(lines):
        entry = _entry(line)
        tasks = {k.rpartition("/")[0] for k in entry if k.endswith("/AP") or k in wanted}
        if tasks:
            return {k: v for k, v in entry.items() if k.rpartition("/")[0] in tasks}
    return {}


def final_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run has written last."""
    name = folder / "last_checkpoint"
    checkpoint = folder / name.read_text().strip() if name.exists() else folder
    return checkpoint if checkpoint.is_file() else None


def progress(folder: Path) -> float:
    """The share of a run's iterations that its logs tell of, 0 where they say nothing yet."""
    config = folder / "config.yaml"  # which detectron2 writes when a run starts
    lines = last_lines(folder / "metrics.json", 2)
    iterations = [_entry(line).get("iteration", -1) for line in lines]
    if not iterations or not config.exists():
        return 0.0
    found = re.search(r"(?im)^  max_iter: (\d+)", config.read_text(encoding="utf-8"))
    return min((max(iterations) + 1) / max(int(found[1]), 1), 1.0) if found else 0.0


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file that may be long, or not be there."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 16384))
        return file.read().decode(errors="replace").splitlines()[-count:]


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:  # half written
        return {}
    return entry if isinstance(entry, dict) else {}
