"""
Better masks for B: ideas alone and together, on a detector that stays as it is.

Detectors are trained first. Their RoI features are kept, so that a method takes a minute or two; it
is trained and measured as stage-wise training with ``train.roi_cache`` is. Every seed has a set A
(unless the split is fixed), an initialisation and an order of batches of its own; detectors take
turns. What is measured already is not measured again, so delete a method's folder in
``output/mask_study`` after a change of it::

    python datasets/make_emoji.py && python datasets/make_emoji.py --categories 120
    python datasets/make_shapes.py
    export PYTHONPATH=benchmarks
    python -m mask_study emoji40 --seeds 0 1 2                  # to choose
    python -m mask_study emoji120 --seeds 0 1 2 3 4 --methods class-agnostic transfer oracle
    python -m mask_study shapes --seeds 0 1 2 3 4 --iterations 800 --methods class-agnostic transfer
    python -m mask_study photographs --split nonvoc2voc --reference class-agnostic --without person

AP is of detections, AR (mask IoU 0.5 to 0.95, over instances) of masks on true boxes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import numpy as np
import torch
from _trainings import ROOT, TRAIN_NET, once
from compare_masks import mean_mask
from detectron2.config import LazyConfig, instantiate
from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)

from maskx_d2._files import written_whole
from maskx_d2.modeling import freeze_detector

from .branch import Branch, Fixed, Taught, measured
from .methods import FLOORS, METHODS, Method
from .rois import SIDE, TestImage, TrainRoIs, collect_testing, collect_training
from .scenes import SCENES, Scenes
from .tables import by_category, plot, table


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("scenes", choices=SCENES)
    parser.add_argument("--split", help="one of the data set's (its first)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["*"], help="patterns of names (all)")
    parser.add_argument("--reference", default="transfer", help="differences are from it")
    parser.add_argument("--part", help="the only one to measure on")
    parser.add_argument(
        "--without", nargs="*", default=[], help="categories that AR is to leave out"
    )
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "mask_study")
    parser.add_argument("--table-only", action="store_true", help="of what has been measured")
    parser.add_argument(
        "--by-category", action="store_true", help="AR of each category of B as well"
    )
    parser.add_argument("--plot", type=Path, help="picture of mask AP, of the first part")
    args = parser.parse_args()
    scenes = SCENES[args.scenes]
    split = args.split or next(iter(scenes.splits))
    parts = scenes.parts if args.part is None else [args.part]
    for given, known in ((parts, scenes.parts), (args.without, scenes.classes)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    names = [n for n in (*FLOORS, *METHODS) if any(fnmatch(n, pattern) for pattern in args.methods)]
    folder = args.output / args.scenes
    figures: dict[str, dict[int, Any]] = {}
    for seed in args.seeds:
        study = None
        for name in names:
            file = folder / split / name / f"seed{seed}_{args.iterations}.json"
            found = json.loads(file.read_text()) if file.is_file() else {}
            if left := [part for part in parts if part not in found]:
                if args.table_only:
                    continue
                study = study or Study(scenes, folder, seed, split, args.iterations)
                found |= study.measure(name, left)
                file.parent.mkdir(parents=True, exist_ok=True)
                with written_whole(file) as unfinished:
                    unfinished.write_text(json.dumps(found))
            figures.setdefault(name, {})[seed] = found
    for part in parts:
        lines = table(figures, part, scenes, split, args.reference, args.without)
        print(f"{part}, {split}\n{lines}\n")
        if args.by_category:
            print(f"{by_category(figures, part, scenes, split)}\n")
    if args.plot:
        plot(figures, parts[0], args.plot)


class Study:
    """What the methods of a seed share: a detector, its RoIs, and a split."""

    def __init__(
        self, scenes: Scenes, folder: Path, seed: int, split: str, iterations: int
    ) -> None:
        self.scenes, self.folder, self.seed, self.iterations = scenes, folder, seed, iterations
        self.split = scenes.splits[split](seed)
        self.name = f"{folder.name} {split} seed {seed}"
        self._kept: dict[str, TrainRoIs] = {}
        self._images: dict[str, list[TestImage]] = {}
        train, test = scenes.train, scenes.parts[0]
        name = f"detector{seed % scenes.detectors}"
        if scenes.masks_tested_on:
            train, name = f"{train}_{split}", f"{name}_{split}"
            test = f"{scenes.masks_tested_on}_{split}"
        self.detector = folder / name
        once(
            self.detector,
            [
                *(*TRAIN_NET, "--resume", "--config-file"),
                str(ROOT / "configs" / scenes.folder / "detector.py"),
                f"train.output_dir={self.detector}",
                f"train.seed={seed % scenes.detectors}",
                f"train.max_iter={scenes.iterations}",
                f"model.roi_heads.num_classes={len(scenes.classes)}",
                f"dataloader.train.dataset.names={train}",
                f"dataloader.test.dataset.names={test}",
                "train.amp.enabled=True",
            ],
        )

    @property
    def cfg(self) -> Any:
        """Of a Mask^X model that learns from boxes."""
        cfg = LazyConfig.load(str(ROOT / "configs" / self.scenes.folder / "box_losses.py"))
        cfg.model.roi_heads.num_classes = len(self.scenes.classes)
        return cfg

    def _model(self, method: Method) -> Any:
        cfg = self.cfg
        weights = ("projection_weight", "affinity_weight", "background_weight")
        cfg.model.roi_heads.box_supervision.update({**dict.fromkeys(weights, 0.0), **method.boxes})
        cfg.model.roi_heads.mask_head.update(method.head)
        torch.manual_seed(self.seed)
        model = instantiate(cfg.model)
        state = torch.load(self.detector / "model_final.pth", weights_only=True)["model"]
        # A mask head that has learnt already would have seen other masks than an oracle's.
        detector = {k: v for k, v in state.items() if not k.startswith("roi_heads.mask_head.")}
        left = model.load_state_dict(detector, strict=False)
        new = ("roi_heads.mask_head.", "roi_heads.weight_transfer.")
        assert not left.unexpected_keys and all(k.startswith(new) for k in left.missing_keys)
        return freeze_detector(model)

    def _rois(self, kind: str) -> TrainRoIs:
        if kind not in self._kept:
            self._kept[kind] = self._collect(kind)
        return self._kept[kind]

    def _collect(self, kind: str) -> TrainRoIs:
        cfg, by_grabcut = self.cfg, kind == "grabcut"
        name = f"grabcut_{self.split.name}" if by_grabcut else self.scenes.train
        loader = build_detection_test_loader(
            get_detection_dataset_dicts(name),
            mapper=instantiate(cfg.dataloader.train.mapper),
            batch_size=4,
        )
        model = self._model(Method(boxes={"affinity_weight": 1.0}))
        # The same RoIs whichever seed comes first: augmentation draws from numpy.
        np.random.seed(0)
        torch.manual_seed(0)
        rois = "proposals" if by_grabcut else kind
        return collect_training(self.detector / kind, model, loader, rois)

    def _tested_on(self, part: str) -> tuple[list[TestImage], dict[int, Any]]:
        # The order of a data set's images and annotations is that of its file.
        records = {r["image_id"]: r for r in DatasetCatalog.get(part)}
        if part not in self._images:
            loader = build_detection_test_loader(
                list(records.values()), mapper=instantiate(self.cfg.dataloader.test.mapper)
            )
            model = self._model(Method())
            self._images[part] = collect_testing(self.detector / part, model, loader, records)
        return self._images[part], records

    def measure(self, name: str, parts: Sequence[str]) -> dict[str, Any]:
        """Train a method's mask branch, and measure it on parts of the scenes."""
        if name not in FLOORS:
            self._rois(METHODS[name].rois)  # kept before the clock runs
        start = time.perf_counter()
        branch = self._floor(name) if name in FLOORS else self._trained(name)
        found: dict[str, Any] = {"seconds": time.perf_counter() - start}
        for part in parts:
            found[part] = measured(branch, *self._tested_on(part), part, self.split)
        return found

    def _floor(self, name: str) -> Fixed:
        if name == "whole box":
            return Fixed(torch.ones(SIDE, SIDE))
        of_a, _ = self.split.indices(self.scenes.classes)
        records = [
            {**r, "annotations": [a for a in r["annotations"] if a["category_id"] in of_a]}
            for r in DatasetCatalog.get(self.scenes.train)
        ]
        return Fixed(mean_mask(records))

    def _trained(self, name: str) -> Branch:
        method, names = METHODS[name], self.scenes.classes
        of_a = np.array([n in self.split.with_masks for n in names])
        rois = self._rois(method.rois)
        has_mask = {
            "A": lambda: of_a[rois.classes],
            "all": lambda: np.ones(len(rois), dtype=bool),
            "all categories": lambda: rois.as_many(of_a, self.seed),
        }[method.masks]()
        known = np.ones_like(of_a) if method.masks == "all" else of_a
        branch: Branch | None = None
        for i in range(method.rounds):
            model = self._model(method)
            branch = (
                Branch(model, method, self.seed)
                if branch is None
                else Taught(model, method, self.seed, branch)
            )
            title = f"{self.name}: {name}" + (f", round {i + 1}" if method.rounds > 1 else "")
            branch.train(rois, has_mask, known, self.iterations, self.cfg, title)
        assert branch is not None
        return branch


if __name__ == "__main__":
    main()
