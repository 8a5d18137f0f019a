"""What a newcomer reads whose environment lacks something."""

import subprocess
import sys

import pytest

BROKEN = """
import sys, importlib.abc
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise {error}
sys.meta_path.insert(0, Finder())
import maskx_d2
"""


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (
            "detectron2",
            "ModuleNotFoundError('gone', name=name)",
            "maskx_d2 needs detectron2, which is not installed; run: python -m pip install "
            "--no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'",
        ),
        (
            "torchvision",
            "RuntimeError('operator torchvision::nms does not exist')",
            "maskx_d2 needs torchvision, which does not load (RuntimeError: operator "
            "torchvision::nms does not exist); run: python -m pip install torch torchvision "
            "--upgrade --force-reinstall",
        ),
        (
            "torch",
            "ModuleNotFoundError('gone', name=name)",
            "maskx_d2 needs torch, which is not installed; run: python -m pip install torch "
            "torchvision",
        ),
    ],
)
def test_one_sentence_with_the_command_that_fixes_it(module, error, message):
    script = BROKEN.format(module=module, error=error)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == f"ImportError: {message}"
    assert "During handling" not in run.stderr


def test_importing_prints_nothing():
    run = subprocess.run(
        [sys.executable, "-c", "import maskx_d2, maskx_d2.engine, maskx_d2.visualization"],
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
