"""What benchmarks that train several models share: commands with a log, each done once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN_NET = [sys.executable, str(ROOT / "train_net.py")]
MASKX = [sys.executable, "-m", "maskx_d2"]


def call(argv: list[str], log: Path) -> None:
    """
    Run a command; what it prints goes to a file.

    Raises:
        SystemExit: if it fails.
    """
    with open(log, "w") as out:
        status = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT).returncode
    if status:
        raise SystemExit(f"{' '.join(argv)}: exit status {status}; see {log}")


def once(folder: Path, argv: list[str], log: str = "out.txt") -> None:
    """Run a command unless it was done; ``folder`` is where it writes, ``log`` a file in it."""
    done = folder / f"{Path(log).stem}.done"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{folder} …", flush=True)
        call(argv, folder / log)
        done.touch()
