#!/usr/bin/env python
"""
Masks, boxes or image labels only: what the third grade of supervision is worth, on shapes.

18 categories have masks (A), 9 boxes (B), 9 image labels (C). DeepMask learns A's masks, a
classifier the labels, and ``maskx pseudo-masks --method wise`` makes instances of C of both. They
train a Mask R-CNN by their masks, or a Mask^X by their boxes, or by both; beside it, C with its
real boxes, and with its real boxes and masks. A run that was stopped goes on::

    python datasets/make_shapes.py
    python benchmarks/three_grades.py --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from _trainings import MASKX, ROOT, TRAIN_NET, once
from pseudo_instances import THRESHOLDS, compare, figures
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from maskx_d2.splits import SHAPES_CLASSES, shapes_a18b9c9

SHAPES = ROOT / os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")) / "shapes"
REAL = SHAPES / "annotations" / "instances_train.json"
SPLIT = shapes_a18b9c9(SHAPES_CLASSES)
#: row → (config, data, overrides)
METHODS: dict[str, tuple[str, str, list[str]]] = {
    "pseudo masks → Mask R-CNN": (
        "class_agnostic",
        "pseudo_masks",
        ["model.roi_heads.mask_head.num_classes=36"],
    ),
    "pseudo boxes → Mask^X": ("maskx", "pseudo_boxes", []),
    "pseudo masks → Mask^X": ("maskx", "pseudo_masks", []),
    "real boxes → Mask^X": ("maskx", "real_boxes", []),
    "oracle: real masks → Mask^X": ("maskx", "real_masks", []),
}


def main() -> None:
    """Do what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=["*"], help="patterns of rows (all)")
    parser.add_argument("--output", type=Path, default=Path("output/three_grades"))
    parser.add_argument("--opts", nargs="*", default=[], help="for all trainings")
    args = parser.parse_args()
    args.output = args.output.resolve()
    if not REAL.is_file():
        raise SystemExit(f"{REAL} does not exist; run datasets/make_shapes.py first.")
    chosen = {n for n in METHODS if any(fnmatch(n, pattern) for pattern in args.methods)}
    if not chosen:
        parser.error(f"--methods: no row is like that; there are {', '.join(METHODS)}")
    found: dict[str, list[dict[str, float]]] = {}
    pseudo: dict[str, list[dict[str, float]]] = {"masks": [], "boxes": []}
    for seed in args.seeds:
        folder = args.output / f"seed{seed}"
        file = pseudo_instances(folder, seed, args.opts)
        for kind, runs in pseudo.items():
            runs.append(compared(file, boxes=kind == "boxes"))
        os.environ["MASKX_DATASETS"] = str(write_datasets(folder, file))
        for i, (name, (config, data, opts)) in enumerate(METHODS.items()):
            if name not in chosen:
                continue
            run = folder / f"method{i}"
            train(run, config, f"{data}_seed{seed}", seed, [*args.opts, *opts])
            found.setdefault(name, []).append(average_precisions(run))
    for title, rows in (("pseudo instances of training images", pseudo), ("test images", found)):
        columns = next(iter(rows.values()))[0].keys()
        lines = [
            [name, *(spread([r[c] for r in runs]) for c in columns)] for name, runs in rows.items()
        ]
        heads = [f"C, {len(args.seeds)} seed(s), {title}", *columns]
        print(tabulate(lines, heads, "pipe", disable_numparse=True), end="\n\n")


def pseudo_instances(folder: Path, seed: int, opts: list[str]) -> Path:
    """The training set's file with instances of C, of a DeepMask and a classifier."""
    deepmask, labels, file = folder / "deepmask", folder / "labels", folder / "wise.json"
    train(deepmask, "deepmask", "shapes_train_a18b9c9", seed, opts)
    argv = [*TRAIN_NET, "--eval-only", "--config-file", str(ROOT / "configs/shapes/deepmask.py")]
    argv += [f"train.init_checkpoint={deepmask / 'model_final.pth'}"]
    argv += [f"train.output_dir={deepmask}", f"dataloader.evaluator.output_dir={deepmask}"]
    once(deepmask, [*argv, "dataloader.test.dataset.names=shapes_train_a18b9c9"], "proposals.txt")
    # As WISE begins with a trunk that knows something.
    start = [f"train.init_checkpoint={deepmask / 'model_final.pth'}"]
    train(labels, "image_labels", "shapes_train_a18b9c9", seed, [*opts, *start])
    argv = [*MASKX, "pseudo-masks", "--method", "wise", "--dataset", "shapes_train_a18b9c9"]
    argv += ["--config-file", str(labels / "config.yaml"), "--output", str(file)]
    argv += ["--weights", str(labels / "model_final.pth")]
    argv += ["--proposals", str(deepmask / "coco_proposals.json")]
    once(folder, argv, "wise.txt")
    return file


def train(folder: Path, config: str, data: str, seed: int, opts: list[str]) -> None:
    """A run of train_net.py; its predictions on the test set are in ``inference``."""
    if config != "image_labels":  # whose evaluator writes no file
        opts = [f"dataloader.evaluator.output_dir={folder}/inference", *opts]
    once(
        folder,
        [
            *(*TRAIN_NET, "--resume", "--config-file", str(ROOT / f"configs/shapes/{config}.py")),
            *(f"train.output_dir={folder}", f"train.seed={seed}"),
            f"dataloader.train.dataset.names={data}",
            "dataloader.test.dataset.names=shapes_test_a18b9c9",
            *opts,
        ],
    )


def write_datasets(folder: Path, file: Path) -> Path:
    """Data sets of a seed, with C's pseudo instances or its real ones."""
    a, b, c = (sorted(names) for names in SPLIT.sets.values())
    for name, masks, boxes in (("masks", a + c, b), ("boxes", a, b + c)):
        (folder / f"{name}.json").write_text(json.dumps({"with_masks": masks, "boxes_only": boxes}))
    datasets = {
        f"{kind}_{grade}_{folder.name}": {
            "json": str(source),
            "images": str(SHAPES / "train"),
            "split": f"{grade}.json",
        }
        for kind, source in (("pseudo", file), ("real", REAL))
        for grade in ("masks", "boxes")
    }
    path = folder / "datasets.yaml"
    path.write_text(json.dumps(datasets))  # JSON is yaml
    return path


def compared(file: Path, boxes: bool) -> dict[str, float]:
    """How good pseudo instances are."""
    made, real = (json.loads(path.read_text()) for path in (file, REAL))
    return figures(compare(made, real, SPLIT.labels_only, boxes))


def average_precisions(run: Path) -> dict[str, float]:
    """Of C's masks and boxes at each threshold, which for 0.25 detectron2 does not say."""
    figures = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(SHAPES / "annotations" / "instances_test.json"))
        predictions = truth.loadRes(str(run / "inference" / "coco_instances_results.json"))
        for kind in ("segm", "bbox"):
            evaluation = COCOeval(truth, predictions, kind)
            evaluation.params.iouThrs = np.array(THRESHOLDS)
            evaluation.params.catIds = [
                c["id"] for c in truth.cats.values() if c["name"] in SPLIT.labels_only
            ]
            evaluation.evaluate()
            evaluation.accumulate()
            precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, 100 detections
            for t, at in zip(THRESHOLDS, precision):
                name = {"segm": "mask", "bbox": "box"}[kind]
                figures[f"{name} AP{100 * t:.0f}"] = 100 * float(at[at > -1].mean())
    return figures


def spread(values: list[float]) -> str:
    """The mean, and the standard deviation."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
