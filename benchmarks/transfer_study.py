#!/usr/bin/env python
"""
What makes better masks of B: variants of T and of its training, with and without B's boxes.

Stage-wise on emoji scenes, on RoI features of the validation images' true boxes, so that the
detector plays no part and a variant takes a minute or two. Detectors are those of a grid::

    python datasets/make_emoji.py
    maskx experiments run configs/grids/emoji40.yaml --only shared
    python benchmarks/transfer_study.py --seeds 0 1 2
    python benchmarks/transfer_study.py --seeds 0 1 2 --only paper --boxes all

Each seed has a detector, a set A and an initialisation of its own. What is measured already is not
measured again. The table shows AR (IoU 0.5 to 0.95) of the masks in 28 × 28 pixels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage
from scipy import stats
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from maskx_d2.data import class_split_of
from maskx_d2.data.datasets import thing_classes_of
from maskx_d2.engine.roi_cache import CachedBatch, CachedRoIs, RoICache, RoIFiles, ShuffledRoIs
from maskx_d2.engine.roi_collecting import collect_rois
from maskx_d2.engine.roi_training import CachedMaskBranch
from maskx_d2.evaluation import mask_quality
from maskx_d2.modeling import WeightTransfer, freeze_detector

ROOT = Path(__file__).resolve().parents[1]
MakeT = Callable[[int, int], nn.Module]


class OneForAll(nn.Module):
    """The class-agnostic control: the same weights whatever the category."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(channels))

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        return self.weights.expand(len(vectors), -1)


class Residual(nn.Module):
    """One for all, and what T adds to it, nothing at first."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.base, self.transfer = OneForAll(channels), paper(dim, channels)
        nn.init.zeros_(self.transfer[-1].weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        return self.base(vectors) + self.transfer(vectors)


class Mixed(nn.Module):
    """T sees each category with a random part of another one."""

    def __init__(self, dim: int, channels: int, most: float) -> None:
        super().__init__()
        self.transfer, self.most = paper(dim, channels), most

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        if self.training and len(vectors):
            others = vectors[torch.randint(len(vectors), (len(vectors),))]
            vectors = vectors + self.most * torch.rand(len(vectors), 1) * (others - vectors)
        weights: Tensor = self.transfer(vectors)
        return weights


class Normalized(nn.Module):
    """T sees vectors of length 1, or of mean 0 and deviation 1."""

    def __init__(self, dim: int, channels: int, length: bool) -> None:
        super().__init__()
        self.transfer, self.length = paper(dim, channels), length

    def forward(self, vectors: Tensor) -> Tensor:
        """(K, D) → (K, C)."""
        if self.length:
            vectors = nn.functional.normalize(vectors, dim=1)
        else:
            vectors = nn.functional.layer_norm(vectors, vectors.shape[1:])
        weights: Tensor = self.transfer(vectors)
        return weights


def paper(dim: int, channels: int, hidden: tuple[int, ...] = (64,), **kwargs: Any) -> nn.Module:
    """T of the paper, as wide as these scenes need."""
    return WeightTransfer(dim, channels, hidden_dims=hidden, **kwargs)


def low_rank(dim: int, channels: int, rank: int) -> nn.Module:
    """Two linear layers without a nonlinearity between."""
    return nn.Sequential(nn.Linear(dim, rank), nn.Linear(rank, channels))


class ObjectPrior(nn.Module):
    """
    Where in a RoI the box head sees the category, added to the mask head's features.

    The gradient of the category's score times the features, which for a box head of one linear
    layer is the class activation map of OPMask (Biertimpel et al., 2021).
    """

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.heads = [heads]  # not a part of this module
        self.embed = nn.Conv2d(1, heads.mask_head[0].in_channels, kernel_size=3, padding=1)

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        """(R, C, H, W) and (R,) → (R, C, H, W)."""
        features = features.float()
        if not len(features):
            return features
        heads = self.heads[0]
        pooled = nn.functional.avg_pool2d(features, 2).requires_grad_()  # box head's size
        with torch.enable_grad():
            scores = heads.box_predictor.cls_score(heads.box_head(pooled))
            (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), pooled)
        gradient = nn.functional.interpolate(gradient, scale_factor=2.0, mode="bilinear")
        evidence = (gradient * features).sum(1, keepdim=True)
        evidence = evidence / evidence.abs().mean((2, 3), keepdim=True).clamp(min=1e-6)
        enriched: Tensor = features + self.embed(evidence)
        return enriched


#: name → (T, settings of its training)
VARIANTS: dict[str, tuple[MakeT, dict[str, Any]]] = {
    "paper": (paper, {}),
    "class-agnostic": (lambda d, c: OneForAll(c), {}),
    "random vectors": (paper, {"random": True}),
    "dropout 0.3": (lambda d, c: paper(d, c, dropout=0.3), {}),
    "dropout 0.5": (lambda d, c: paper(d, c, dropout=0.5), {}),
    "dropout 0.7": (lambda d, c: paper(d, c, dropout=0.7), {}),
    "noise 0.5": (lambda d, c: paper(d, c, noise=0.5), {}),
    "noise 1": (lambda d, c: paper(d, c, noise=1.0), {}),
    "length 1": (lambda d, c: Normalized(d, c, True), {}),
    "mean 0, deviation 1": (lambda d, c: Normalized(d, c, False), {}),
    "weight decay × 10": (paper, {"weight_decay": 0.5}),
    "16 wide": (lambda d, c: paper(d, c, (16,)), {}),
    "256 wide": (lambda d, c: paper(d, c, (256,)), {}),
    "1 layer": (lambda d, c: paper(d, c, ()), {}),
    "3 layers": (lambda d, c: paper(d, c, (64, 64)), {}),
    "linear, rank 8": (lambda d, c: low_rank(d, c, 8), {}),
    "residual": (Residual, {}),
    "mixed, up to 0.3": (lambda d, c: Mixed(d, c, 0.3), {}),
    "object prior": (paper, {"prior": True}),
    "object prior, dropout 0.3": (lambda d, c: paper(d, c, dropout=0.3), {"prior": True}),
    "self-training, dropout 0.3": (lambda d, c: paper(d, c, dropout=0.3), {"rounds": 2}),
    "masks of all": (paper, {"all_masks": True}),
}


#: what B's boxes teach the mask head: name → weights of its losses
BOXES: dict[str, dict[str, float]] = {
    "nothing": {},
    "projection": {"projection_weight": 0.3},
    "background": {"background_weight": 1.0},
    "projection, background": {"projection_weight": 0.3, "background_weight": 1.0},
    "projection, background, colours": {
        "projection_weight": 0.3,
        "background_weight": 1.0,
        "affinity_weight": 0.3,
    },
    "projection 1, background": {"projection_weight": 1.0, "background_weight": 1.0},
    "projection, background 0.3": {"projection_weight": 0.3, "background_weight": 0.3},
    "projection, background 3": {"projection_weight": 0.3, "background_weight": 3.0},
}


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--categories", type=int, default=40)
    parser.add_argument("--with-masks", type=int, default=20, help="of the categories (20)")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument(
        "--boxes",
        nargs="+",
        choices=[*BOXES, "all"],
        metavar="WHAT",
        default=["nothing", "projection, background"],
        help=f"what B's boxes teach: {'; '.join(BOXES)}; or all",
    )
    parser.add_argument("--only", default="*", help="variants of T whose name matches")
    parser.add_argument("--detector", default="output/grids/emoji40/shared/detector/seed{seed}")
    parser.add_argument("--output", type=Path, default=Path("output/transfer_study"))
    args = parser.parse_args()
    names = [name for name in VARIANTS if fnmatch(name, args.only)]
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in args.seeds:
        study = None
        for boxes in BOXES if "all" in args.boxes else args.boxes:
            for name in names:
                settings = VARIANTS[name][1]
                if settings.get("rounds") and not BOXES[boxes]:
                    continue  # a teacher of B's masks that learns from A's alone is none
                if settings.get("all_masks") and BOXES[boxes]:
                    continue  # there is no box without a mask
                file = args.output / f"{args.categories}" / f"{name}; {boxes}"
                file /= f"seed{seed}_{args.iterations}.json"
                if not file.is_file():
                    study = study or Study(args, seed)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(study.measure(name, boxes)))
                figures.setdefault((name, boxes), []).append(json.loads(file.read_text()))
    print(table(figures))


class Study:
    """What the variants of a seed share: a detector, its features, and a split."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed = args, seed
        part = f"random_a{args.with_masks}_seed{seed}"
        self.train_set = f"emoji{args.categories}_train_{part}"
        self.val_set = f"emoji{args.categories}_val_{part}"
        # True boxes of all categories, each with its mask.
        self.truth = self._cache(self.val_set, mask_rois="ground_truth")
        split = class_split_of(self.val_set)
        assert split is not None
        self.sets = dict(zip("AB", split.indices(thing_classes_of(self.val_set))))

    def _config(self) -> Any:
        cfg = LazyConfig.load(str(ROOT / "configs" / "emoji" / "box_losses.py"))
        cfg.model.roi_heads.num_classes = self.args.categories
        return cfg

    def _model(self, mask_rois: str, weights: dict[str, float]) -> Any:
        cfg = self._config()
        cfg.model.roi_heads.mask_rois = mask_rois
        cfg.model.roi_heads.box_supervision.update(projection_weight=0.0)
        cfg.model.roi_heads.box_supervision.update(weights)
        torch.manual_seed(self.seed)
        model = instantiate(cfg.model)
        folder = Path(self.args.detector.format(seed=self.seed))
        with_detector = DetectionCheckpointer(model)
        with_detector.logger.setLevel("ERROR")  # the mask branch is not in the file, as is known
        with_detector.load(str(folder / "model_final.pth"))
        return freeze_detector(model)

    def _cache(self, data_set: str, mask_rois: str) -> RoICache:
        """With all that any of the losses looks at."""
        cfg = self._config()
        every_loss = dict.fromkeys(("projection_weight", "affinity_weight", "background_weight"), 1)
        cfg.dataloader.train.dataset.names = data_set
        return collect_rois(
            "output/grids/emoji/roi_cache",
            self._model(mask_rois, every_loss).train(),
            instantiate(cfg.dataloader.train.dataset),
            instantiate(cfg.dataloader.train.mapper),
            settings=f"transfer study {data_set}",
            seed=self.seed,
        )

    def measure(self, name: str, boxes: str) -> dict[str, float]:
        """Train a variant; AR on A and on B, in percent."""
        settings = VARIANTS[name][1]
        data_set = self.train_set
        if settings.get("all_masks"):
            data_set = f"emoji{self.args.categories}_train"
        cache = self._cache(data_set, "proposals")
        if not BOXES[boxes]:
            cache.boxes = None
        taught = None
        for _ in range(settings.get("rounds", 1)):
            model, prior = self._train(name, boxes, cache, taught)
            if settings.get("rounds"):
                taught = self._masks(model, prior, cache.boxes)
        masks, _ = self._masks(model, prior, self.truth.masks)
        truth = self.truth.masks
        targets = truth.rois(np.arange(len(truth))).targets
        both = (masks & targets).sum((1, 2))
        ious = (both / (masks | targets).sum((1, 2)).clamp(min=1)).double().numpy()
        return {
            which: mask_quality(ious, truth.classes, indices)["AR"]
            for which, indices in self.sets.items()
        }

    def _train(
        self, name: str, boxes: str, cache: RoICache, taught: tuple[Tensor, Tensor] | None
    ) -> tuple[Any, ObjectPrior | None]:
        make, settings = VARIANTS[name]
        model = self._model("proposals", BOXES[boxes])
        heads = model.roi_heads
        if settings.get("random"):
            generator = torch.Generator().manual_seed(self.seed)
            dim = heads.box_predictor.cls_score.in_features
            heads.class_embedding = torch.randn(self.args.categories, dim, generator=generator)
        dim = heads._class_vectors().shape[1]
        heads.weight_transfer = make(dim, heads.mask_head.out_channels)
        prior = ObjectPrior(heads) if settings.get("prior") else None
        cfg = self._config()
        decay = settings.get("weight_decay", cfg.optimizer.weight_decay)
        trained = [*heads.mask_head.parameters(), *(prior.parameters() if prior else ())]
        optimizer = torch.optim.AdamW(
            [
                {"params": trained},
                {"params": heads.weight_transfer.parameters(), "weight_decay": decay},
            ],
            lr=cfg.optimizer.lr,
            weight_decay=cfg.optimizer.weight_decay,
        )
        schedule = instantiate(cfg.lr_multiplier)
        n = self.args.iterations
        batches = Batches(cache, cfg.dataloader.train.total_batch_size, self.seed, taught)
        branch = CachedMaskBranch(model.train())
        bar = tqdm(islice(batches, n), f"{name}; {boxes}; seed {self.seed}", n)
        with EventStorage() as storage:
            for i, batch in enumerate(bar):
                for group in optimizer.param_groups:
                    group["lr"] = cfg.optimizer.lr * schedule(i / n)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    for rois in (batch.masks, batch.boxes):
                        if prior is not None and rois is not None:
                            rois.features = prior(rois.features, rois.classes)
                    loss = sum(branch(batch).values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                storage.step()
        return model.eval(), prior

    @torch.no_grad()
    def _masks(
        self, model: Any, prior: ObjectPrior | None, rois: RoIFiles | None
    ) -> tuple[Tensor, Tensor]:
        """Masks, bool (R, M, M), and how sure they are of their pixels, (R,)."""
        assert rois is not None
        masks, scores = [], []
        for rows in np.array_split(np.arange(len(rois)), len(rois) // 256 + 1):
            some = rois.rois(rows)
            features = some.features.float()
            if prior is not None:
                features = prior(features, some.classes)
            logits = model.roi_heads.mask_logits(features, some.classes)
            inside = logits > 0
            scores.append((logits.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1))
            masks.append(inside)
        return torch.cat(masks), torch.cat(scores)


class Batches(ShuffledRoIs):
    """Batches in which RoIs of B have a teacher's masks, as often as their score says."""

    def __init__(
        self, cache: RoICache, images: int, seed: int, taught: tuple[Tensor, Tensor] | None
    ) -> None:
        super().__init__(cache, images, seed)
        self.cache, self.taught = cache, taught
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[CachedBatch]:
        if self.taught is None or self.cache.boxes is None or self.cache.masks is None:
            yield from super().__iter__()
            return
        masks, scores = self.taught
        position = 0
        while True:
            rows = np.sort([self._at(i) for i in range(position, position + self._size)])
            position += self._size
            first = len(self.cache.masks)
            of_boxes = rows[rows >= first] - first
            sure = torch.rand(len(of_boxes), generator=self.generator) < scores[of_boxes]
            with_mask = self.cache.masks.rois(rows[rows < first])
            pseudo = self.cache.boxes.rois(of_boxes[sure.numpy()])
            pseudo.targets = masks[of_boxes[sure.numpy()]]
            yield CachedBatch(
                CachedRoIs(
                    torch.cat([with_mask.features, pseudo.features]),
                    torch.cat([with_mask.targets, pseudo.targets]),
                    torch.cat([with_mask.classes, pseudo.classes]),
                ),
                self.cache.boxes.rois(of_boxes[~sure.numpy()]),
            )


def table(figures: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """Means over seeds, their deviation, and the paired difference with the paper's T."""
    rows = []
    for (name, boxes), runs in figures.items():
        on_b = np.array([run["B"] for run in runs])
        row = [name, boxes, _spread(on_b), _spread(np.array([run["A"] for run in runs]))]
        reference = figures.get(("paper", "nothing"))
        if reference is not None and reference is not runs and len(runs) > 1:
            difference = on_b - np.array([run["B"] for run in reference])
            error = difference.std(ddof=1) / len(runs) ** 0.5
            half = stats.t.ppf(0.975, len(runs) - 1) * error
            row.append(f"{difference.mean():+.1f} ± {half:.1f}")
        rows.append(row)
    headers = ["T", "B's boxes teach", "AR, B", "AR, A", "less the paper's, B (95 %)"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _spread(values: np.ndarray[Any, Any]) -> str:
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{deviation}"


if __name__ == "__main__":
    main()
