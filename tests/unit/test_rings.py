"""
Imports go inward only. R0: the standard library, numpy and small readers (ijson, Pillow,
pycocotools, tqdm). R1: + torch. R2: + everything else.

See docs/DESIGN.md, "Three principles".
"""

import ast
import sys
from pathlib import Path

import pytest

import maskx_d2

ROOT = Path(maskx_d2.__file__).parent
R0 = {
    "_counted.py",
    "splits.py",
    "convert/caffe2_model.py",
    "convert/restricted_pickle.py",
    "data/annotation_checks.py",
    "data/check.py",
    "data/coco_reader.py",
    "data/dataset_hash.py",
    "data/findings.py",
    "data/image_checks.py",
    "data/image_labels.py",
    "data/mask_extents.py",
    "data/partial_masks.py",
    "data/rle.py",
    "data/supervision.py",
    "evaluation/average_precision.py",
    "evaluation/exact_precision.py",
    "evaluation/lvis_protocol.py",
    "evaluation/mask_quality.py",
    "evaluation/paired.py",
    "evaluation/proposal_recall.py",
    "evaluation/split_metrics.py",
    "postprocessing/run_lengths.py",
    "pseudo_masks/matching.py",
}
R1 = {
    "deepmask/branches.py",
    "deepmask/losses.py",
    "deepmask/patches.py",
    "image_labels/peak_backprop.py",
    "image_labels/peaks.py",
    "modeling/box_losses.py",
    "modeling/class_embedding.py",
    "modeling/embedding_files.py",
    "modeling/freeze.py",
    "modeling/mlp_branch.py",
    "modeling/weight_transfer.py",
    "postprocessing/rle_masks.py",
    "vocabulary/surgery.py",
}
READERS = {"numpy", "ijson", "PIL", "pycocotools", "tqdm"}
ALLOWED = {name: READERS if name in R0 else READERS | {"torch"} for name in R0 | R1}


def imported(path):
    """(top-level package, path within this package or None) of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], None
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1]
            inner = folder.joinpath(*(node.module or "").split("."))
            yield "maskx_d2", f"{inner.relative_to(ROOT).as_posix()}.py"


@pytest.mark.parametrize("name", sorted(R0 | R1))
def test_inner_rings_import_inner_rings_only(name):
    inside = R0 if name in R0 else R0 | R1
    for package, inner in imported(ROOT / name):
        if package == "maskx_d2":
            assert inner in inside, f"{name} imports {inner}"
        else:
            assert package in sys.stdlib_module_names | ALLOWED[name], f"{name} imports {package}"


def test_mypy_is_strict_on_exactly_these_files():
    config = (ROOT.parent / "pyproject.toml").read_text()
    listed = {
        line.strip(' ",') for line in config.splitlines() if line.strip().startswith('"maskx_d2/')
    }
    assert listed == {f"maskx_d2/{name}" for name in R0 | R1}
