#!/usr/bin/env python
"""
The whole package on a data set that takes seconds to make and minutes to learn.

Makes the shapes data set and trains three models end to end with masks for 27 of 36 categories:
the class-agnostic baseline, Mask^X R-CNN, and Mask^X that learns from the boxes of the other 9 as
well. Evaluates them on the test images, and writes a report with pictures. What is there already is
used again; what was interrupted goes on where it stopped::

    python demo/run.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import maskx_d2  # noqa: F401  before detectron2, whose warnings it keeps off the screen

# isort: split
from detectron2.config import LazyConfig
from report import evaluate, write_report
from tqdm import tqdm

from maskx_d2.engine.overrides import lazy_override

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    "class_agnostic": "class-agnostic",
    "maskx": "Mask^X",
    "box_losses": "Mask^X + box losses",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run every step that has not been done yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "demo", help="(output/demo)"
    )
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="KEY=VALUE",
        help="overrides of configs/shapes/*.py for all trainings, such as train.seed=2",
    )
    args = parser.parse_args(argv)
    output = args.output.resolve()
    os.chdir(ROOT)  # where ./datasets is

    start = time.time()
    _step(1, "the shapes data set")
    make_data()
    _step(2, "training the methods, with masks for 27 of the 36 categories")
    _forget_if_changed(output, args.opts)
    _train_all(output, args.opts)
    _step(3, "evaluation on the test images")
    results = {}
    for method in METHODS:
        path = output / method / "results.json"
        if not path.exists():
            path.write_text(json.dumps(evaluate(output / method), indent=1))
        results[method] = json.loads(path.read_text())
    report = write_report(output, results, METHODS)
    print(f"\n{report.read_text().split('<!-- end of the tables -->')[0].strip()}\n")
    pictures = os.path.relpath(report.parent / "pictures.png")
    print(f"These tables are in {os.path.relpath(report)}, and predictions of the methods")
    print(f"beside the ground truth in {pictures} ({time.time() - start:.0f} s in all).")


def make_data() -> None:
    """Make the data set, if it is not there."""
    subprocess.run([sys.executable, "datasets/make_shapes.py"], check=True)


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/3] {what}", flush=True)


def _forget_if_changed(output: Path, opts: Sequence[str]) -> None:
    """Runs of other settings or of another data set must not be taken for these."""
    data = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "shapes")
    sources = [*Path("configs/shapes").glob("*.py"), *Path("maskx_d2").rglob("*.py")]
    settings = hashlib.sha256(repr(opts).encode())
    for path in sorted([*sources, *(data / "annotations").glob("*.json")]):
        settings.update(path.read_bytes())
    stamp = output / "settings.sha256"
    if not stamp.exists() and output.exists() and any(output.iterdir()):
        sys.exit(f"{output} holds something that is not of this demo; give another --output.")
    if stamp.exists() and stamp.read_text() != settings.hexdigest():
        print("The code, the settings or the data have changed since the last run: starting again.")
        for method in METHODS:
            shutil.rmtree(output / method, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    stamp.write_text(settings.hexdigest())


def _train_all(output: Path, opts: Sequence[str]) -> None:
    """Train the methods side by side, each an ordinary run of train_net.py in its own folder."""
    runs = [_Run(method, output / method, opts, i) for i, method in enumerate(METHODS)]
    try:
        while sum(run.going() for run in runs):  # not any(): each must bring its bar up to date
            time.sleep(1)
    finally:
        for run in runs:
            run.close()
    print()
    for run in runs:
        if not (run.output / "model_final.pth").exists():
            sys.exit(f"Training {run.method} failed; its messages are in {run.output}/train.log.")


class _Run:
    """One training in a process of its own, and its progress bar."""

    def __init__(self, method: str, output: Path, opts: Sequence[str], position: int) -> None:
        self.method, self.output = method, output
        self.process: subprocess.Popen[bytes] | None = None
        config = str(ROOT / "configs" / "shapes" / f"{method}.py")
        self.bar = tqdm(
            total=LazyConfig.apply_overrides(LazyConfig.load(config), list(opts)).train.max_iter,
            initial=max((int(e["iteration"]) + 1 for e in _losses(output)), default=0),
            desc=f"{METHODS[method]:>19}",
            unit="it",
            position=position,
        )
        if (output / "model_final.pth").exists():
            self.bar.set_postfix_str("trained already")
            return
        output.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, ROOT / "train_net.py", "--resume"),
            *("--config-file", config),
            *(*opts, lazy_override("train.output_dir", str(output))),
        ]
        # The runs share the CPU: more threads each would only get into each other's way.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with open(output / "train.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env=environment
            )

    def going(self) -> bool:
        """Bring the bar up to date; whether the training still runs."""
        if self.process is None:
            return False
        self._update()
        return self.process.poll() is None

    def _update(self) -> None:
        losses = _losses(self.output)
        if losses and losses[-1]["iteration"] >= self.bar.n:
            self.bar.set_postfix_str(f"mask loss {losses[-1]['loss_mask']:.2f}", refresh=False)
            self.bar.update(losses[-1]["iteration"] + 1 - self.bar.n)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
        self.bar.close()


def _losses(output: Path) -> list[dict[str, float]]:
    """What the run has logged of its training so far."""
    path = output / "metrics.json"
    # The last line may be half written.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [entry for entry in map(json.loads, lines) if "loss_mask" in entry]


if __name__ == "__main__":
    main()
