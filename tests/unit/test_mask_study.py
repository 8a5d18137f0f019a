"""The table of the study beyond the paper: who is compared with whom."""

import sys

import pytest
from conftest import REPOSITORY

from maskx_d2.splits import random_split


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from mask_study import scenes, tables

    yield scenes, tables
    for name in [n for n in sys.modules if n.startswith("mask_study")]:
        del sys.modules[name]


def test_seeds_have_sets_of_their_own(study):
    scenes, tables = study
    names = ("cat", "dog", "cup", "car")

    class Pets(scenes.Scenes):
        classes = names

    halves = {"halves": lambda seed: random_split(names, 2, seed)}
    pets = Pets("", "", ("val",), halves, iterations=0, detectors=1)

    def run(seed, ap, iou_of_b):
        _, b = halves["halves"](seed).indices(names)
        # Image 1 has all four, image 2 the first alone.
        rows = [(1, c, iou_of_b if c in b else 1.0) for c in range(4)]
        rows.append((2, 0, iou_of_b if 0 in b else 1.0))
        return {"val": {"segm_A": {"AP": 50.0}, "segm_B": {"AP": ap}, "rows": rows}}

    figures = {
        "transfer": {0: run(0, 10.0, 0.52), 1: run(1, 12.0, 0.52)},
        "better": {0: run(0, 15.0, 0.97), 1: run(1, 19.0, 0.97)},
        "oracle": {0: run(0, 20.0, 0.97), 1: run(1, 20.0, 0.97)},
    }
    lines = tables.table(figures, "val", pets, "halves", "transfer").splitlines()
    cells = {c[1]: c[2:-1] for c in ([x.strip() for x in line.split("|")] for line in lines)}
    assert cells["transfer"][:4] == ["2", "11.0 ± 1.4", "0.55", "10.0 ± 0.0"]
    assert cells["better"][:4] == ["2", "17.0 ± 2.8", "0.85", "100.0 ± 0.0"]
    assert cells["better"][-2].startswith("+6.0 ±")  # 5 and 7
    assert cells["better"][-1] == "+90.0 [+90.0, +90.0]"
    assert cells["transfer"][-2:] == ["", ""]
