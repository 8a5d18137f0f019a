"""The demo from end to end, on a few images and for a few steps."""

import os
import subprocess
import sys

from conftest import REPOSITORY


def demo(shapes, output, *opts):
    script = "import run, sys; run.make_data = lambda: None; run.main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", script, "--output", str(output), "train.log_period=1", *opts],
        cwd=REPOSITORY / "demo",
        env={**os.environ, "DETECTRON2_DATASETS": str(shapes)},
        capture_output=True,
        text=True,
    )


def test_trains_all_evaluates_and_reports_and_reuses_what_is_there(shapes, tmp_path):
    output = tmp_path / "Jürgen's demo (1), a=b"  # which means something in overrides
    opts = ["train.max_iter=3", "optimizer.lr=0.0001"]
    first = demo(shapes, output, *opts)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    report = (output / "report.md").read_text()
    for part in (
        "| class-agnostic ",
        "| Mask^X  ",
        "| Mask^X + box losses ",
        "mask AP50, B",
        "B, singles",
    ):
        assert part in report
    assert "mask AP50, B" in first.stdout and "B, singles" in first.stdout
    last = " ".join(first.stdout.splitlines()[-2:])
    assert f"{output.name}/report.md" in last and f"{output.name}/pictures.png" in last
    assert (output / "pictures.png").stat().st_size > 10_000
    assert "Warning" not in first.stderr

    trained = (output / "maskx" / "model_final.pth").stat().st_mtime_ns
    again = demo(shapes, output, *opts)
    assert again.returncode == 0
    assert (output / "maskx" / "model_final.pth").stat().st_mtime_ns == trained

    changed = demo(shapes, output, *opts, "train.seed=2")
    assert "have changed since the last run" in changed.stdout
    assert (output / "maskx" / "model_final.pth").stat().st_mtime_ns != trained


def test_never_deletes_what_is_not_its_own(shapes, tmp_path):
    (tmp_path / "maskx").mkdir()
    run = demo(shapes, tmp_path)
    assert run.returncode == 1
    assert "holds something that is not of this demo" in run.stderr
    assert (tmp_path / "maskx").exists()
