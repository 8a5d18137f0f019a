"""What a training leaves in its folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Run", "find_run"]


@dataclass(frozen=True)
class Run:
    """
    A trained model.

    Attributes:
        name: what the page calls it.
        config_file, weights: paths.
        history: the lines of its ``metrics.json``, of an iteration each; may be empty.
    """

    name: str
    config_file: Path
    weights: Path
    history: list[dict[str, Any]]


def find_run(path: str | os.PathLike[str], name: str | None = None) -> Run:
    """
    A run by its folder.

    Args:
        path: the folder, of which the final checkpoint is taken, or the last one; or a checkpoint
            in it. ``config.yaml`` stands beside it.
        name: what to call it; None: the folder's name.

    Raises:
        FileNotFoundError: if something of it is not there.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"'{path}' does not exist; name the OUTPUT_DIR of a training.")
    folder = path if path.is_dir() else path.parent
    weights = path if path.is_file() else _last_checkpoint(folder)
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise FileNotFoundError(
            f"folder '{folder}' has no config.yaml; name the OUTPUT_DIR of a training."
        )
    history: dict[int, dict[str, Any]] = {}
    metrics = folder / "metrics.json"
    if metrics.is_file():
        for line in metrics.read_text(encoding="utf-8").splitlines():
            try:
                said = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            # A resumed run says some iterations again.
            history[said["iteration"]] = history.get(said["iteration"], {}) | said
    ordered = [history[iteration] for iteration in sorted(history)]
    return Run(name or folder.absolute().name, config_file, weights, ordered)


def _last_checkpoint(folder: Path) -> Path:
    last = folder / "last_checkpoint"
    names = ["model_final.pth"] + ([last.read_text().strip()] if last.is_file() else [])
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"folder '{folder}' has no model_final.pth and no last_checkpoint.")
