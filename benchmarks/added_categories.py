#!/usr/bin/env python
"""
Categories that come later, with boxes only: shapes without 6 of the 36 categories, then with them.

A Mask^X model learns 30 categories, 27 of which have masks; the other 6 are in the images, but not
annotated. Then ``maskx surgery`` adds them, and the last layers of the box head, or all of the box
head, learn from boxes of all 36; the mask branch and T stay as they are. Beside it, the same
training on everything from the start.

And categories that are never trained: a model whose classifier and T see attribute vectors learns
the 30, and is tested on the 36 by their vectors; beside it, one that learnt boxes of all 36. A run
that was stopped goes on::

    python datasets/make_shapes.py
    python benchmarks/added_categories.py --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from _trainings import ROOT, call
from tabulate import tabulate

from maskx_d2.splits import SHAPES_CLASSES, shapes_a27b9

SHAPES = ROOT / os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")) / "shapes"
# 6 of the 9 that never have masks.
HELD_OUT = {
    *("striped square", "light disk", "dark crescent"),
    *("speckled triangle", "light cross", "speckled heart"),
}
ADDED = {
    "added, last layers trained": "roi_heads.box_predictor",
    "added, box head trained": "roi_heads.box_predictor,roi_heads.box_head",
}
ALL = "everything from the start"
UNSEEN, SEEN = "by vectors, never trained", "by vectors, boxes of all 36"
VECTORS = "configs/shapes/open_vocabulary.py"
COLUMNS = {
    "mask AP, the 6": "segm_B/AP",
    "box AP, the 6": "bbox_B/AP",
    "mask AP, the other 30": "segm_A/AP",
    "box AP, the other 30": "bbox_A/AP",
}


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=400, help="for what is added (400)")
    parser.add_argument("--output", type=Path, default=Path("output/added_categories"))
    args = parser.parse_args()
    args.output = args.output.resolve()
    args.output.mkdir(parents=True, exist_ok=True)
    os.environ["MASKX_DATASETS"] = str(write_data(args.output))
    runs = [run_seed(seed, args) for seed in args.seeds]
    rows = []
    for name in (*ADDED, ALL, UNSEEN, SEEN):
        values = [[run[name][metric] for run in runs] for metric in COLUMNS.values()]
        rows.append([name, *(f"{mean(v):.1f} ± {stdev(v) if v[1:] else 0:.1f}" for v in values)])
    print(tabulate(rows, [f"{len(runs)} seed(s)", *COLUMNS], "pipe", disable_numparse=True))


def write_data(folder: Path) -> Path:
    """Data sets without the 6 categories, with boxes of all, and the test set split by them."""
    datasets: dict[str, Any] = {}
    for part in ("train", "test"):
        file = SHAPES / "annotations" / f"instances_{part}.json"
        if not file.is_file():
            raise SystemExit(f"{file} does not exist; run datasets/make_shapes.py first.")
        content = json.loads(file.read_text())
        known = {c["id"] for c in content["categories"] if c["name"] not in HELD_OUT}
        without = content | {
            "categories": [c for c in content["categories"] if c["id"] in known],
            "annotations": [a for a in content["annotations"] if a["category_id"] in known],
        }
        datasets[f"shapes30_{part}"] = write(folder, f"shapes30_{part}", without, SHAPES / part)
        names = {c["name"] for c in content["categories"]}
        if part == "train":
            boxes = [{k: a[k] for k in a if k != "segmentation"} for a in content["annotations"]]
            datasets["shapes36_boxes"] = write(
                folder, "shapes36_boxes", content | {"annotations": boxes}, SHAPES / part
            )
        else:
            datasets["shapes36_test"] = {"json": str(file), "images": str(SHAPES / part)}
    boxes_only = set(shapes_a27b9(sorted(names)).boxes_only)
    write_split(folder / "split30.json", names - boxes_only, boxes_only - HELD_OUT)
    write_split(folder / "split36.json", names - HELD_OUT, HELD_OUT)
    datasets["shapes30_train"]["split"] = "split30.json"
    datasets["shapes30_test"] |= {"split": "split30.json", "keep_masks": True}
    datasets["shapes36_test"] |= {"split": "split36.json", "keep_masks": True}
    path = folder / "datasets.yaml"
    path.write_text(json.dumps(datasets, indent=1))  # JSON is yaml
    return path


def write(folder: Path, name: str, content: dict[str, Any], images: Path) -> dict[str, Any]:
    """Write an annotation file; returns its entry in the file of data sets."""
    (folder / f"{name}.json").write_text(json.dumps(content))
    return {"json": f"{name}.json", "images": str(images)}


def write_split(path: Path, with_masks: set[str], boxes_only: set[str]) -> None:
    """Write a file that :func:`load_split` reads."""
    path.write_text(
        json.dumps({"with_masks": sorted(with_masks), "boxes_only": sorted(boxes_only)})
    )


def run_seed(seed: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All trainings of a seed, or what they have left to do; their metrics."""
    folder = args.output / f"seed{seed}"
    base, start = folder / "base", folder / "start.pth"
    opts = ["model.roi_heads.num_classes=30"]
    train(base, seed, "shapes30_train", "shapes30_test", opts)
    surgery = "import sys; from maskx_d2.cli import main; sys.exit(main())"
    argv = ["--weights", base / "model_final.pth", "--to", "shapes36_test", "--output", start]
    call([sys.executable, "-c", surgery, "surgery", *map(str, argv)], folder / "surgery.txt")
    found = {}
    for i, (name, modules) in enumerate(ADDED.items()):
        opts = [f"train.init_checkpoint={start}", f"train.max_iter={args.iterations}"]
        opts.append(f"train.trained_modules=[{modules}]")
        found[name] = train(folder / f"added{i}", seed, "shapes36_boxes", "shapes36_test", opts)
    found[ALL] = train(folder / "all", seed, "shapes_train_a27b9", "shapes36_test", [])
    names = [c for c in SHAPES_CLASSES if c not in HELD_OUT]
    said = ",".join(f'"{name}"' for name in names)
    opts = ["model.roi_heads.num_classes=30"]
    opts.append(f"model.roi_heads.class_embedding.thing_classes=[{said}]")
    thirty = folder / "vectors30"
    train(thirty, seed, "shapes30_train", "shapes30_test", opts, config=VECTORS)
    found[UNSEEN] = evaluate(thirty / "model_final.pth", folder / "vectors30_of_36")
    thirtysix = folder / "vectors36"
    data = "shapes_train_a27b9"
    found[SEEN] = train(thirtysix, seed, data, "shapes36_test", [], config=VECTORS)
    return found


def evaluate(weights: Path, folder: Path) -> dict[str, float]:
    """Metrics of a model of vectors on all 36 categories, whichever it was trained on."""
    log = folder / "out.txt"
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        argv = ["--eval-only", "--config-file", str(ROOT / VECTORS), f"train.output_dir={folder}"]
        argv += [f"train.init_checkpoint={weights}", "dataloader.test.dataset.names=shapes36_test"]
        print(f"{folder} …", flush=True)
        call([sys.executable, str(ROOT / "train_net.py"), *argv], log)
        (folder / "done").touch()
    # What detectron2 prints to be copied: the task, names and figures, a line each.
    pattern = r"copypaste: Task: (\S+)\n.*copypaste: (\S+)\n.*copypaste: (\S+)\n"
    return {
        f"{task}/{name}": float(value)
        for task, names, values in re.findall(pattern, log.read_text())
        for name, value in zip(names.split(","), values.split(","), strict=True)
    }


def train(
    folder: Path,
    seed: int,
    data: str,
    test: str,
    opts: list[str],
    config: str = "configs/shapes/maskx.py",
) -> dict[str, float]:
    """A run of train_net.py, unless it is done; its metrics on the test set."""
    metrics = folder / "metrics.json"
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        argv = [
            *("--resume", "--config-file", str(ROOT / config)),
            *(f"train.output_dir={folder}", f"train.seed={seed}", "train.amp.enabled=True"),
            *(f"dataloader.train.dataset.names={data}", f"dataloader.test.dataset.names={test}"),
        ]
        print(f"{folder} …", flush=True)
        call([sys.executable, str(ROOT / "train_net.py"), *argv, *opts], folder / "out.txt")
        (folder / "done").touch()
    evaluated = [line for line in metrics.read_text().splitlines() if '"segm/AP"' in line]
    result: dict[str, float] = json.loads(evaluated[-1])
    return result


if __name__ == "__main__":
    main()
