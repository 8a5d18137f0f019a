#!/usr/bin/env python
"""
Overfit a handful of COCO photographs: can the method learn masks at all, and reach set B?

Trains Mask^X R-CNN (without the MLP branch) and the class-agnostic baseline on the same few
photographs of ``coco_2017_train`` with masks for set A only, and evaluates on those photographs.
Two floors stand beside each method, made of the same detections: chance (the true mask of an
instance of A, drawn at random and fitted to the box) and the whole box as the mask. It says that
everything works on real annotations; it says nothing about generalisation::

    python benchmarks/overfit_photographs.py --photographs animals MODEL.WEIGHTS R-50.pkl
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_setup
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.model_zoo import get_config_file
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from maskx_d2 import add_maskx_config, model_zoo
from maskx_d2.data import class_split_of, register_partial
from maskx_d2.engine import MaskXTrainer
from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.splits import coco_nonvoc2voc, coco_voc2nonvoc

SPLITS = {"voc2nonvoc": coco_voc2nonvoc, "nonvoc2voc": coco_nonvoc2voc}
METHODS = {
    "Mask^X": "maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
    "class-agnostic": "class_agnostic_R_50_FPN_1x.yaml",
}
# For detectron2's own C4 config, whose mask head stands on res5 of ImageNet.
C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"
C4_KEYS: dict[str, list[Any]] = {
    "Mask^X": [
        *("MODEL.ROI_HEADS.NAME", "MaskXRes5ROIHeads"),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskXConvUpsampleHead"),
    ],
    "class-agnostic": [
        *("MODEL.ROI_HEADS.NAME", "SupervisedMasksRes5ROIHeads"),
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
    ],
}

DRAWS = 20  # of masks by chance
AUGMENTATION = [
    *("INPUT.MIN_SIZE_TRAIN", (192, 224, 256, 288, 320), "INPUT.MAX_SIZE_TRAIN", 480),
    *("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.7, 0.7]),
]


class BoxesAsMasks(SplitCOCOEvaluator):
    """Evaluates every detection with its whole box as its mask: what no mask branch may miss."""

    def mask(self, height: int, width: int) -> torch.Tensor:
        """The mask that fills a box of this many pixels, (height, width) bool."""
        return torch.ones(height, width, dtype=torch.bool)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`COCOEvaluator.process`."""
        drawn = []
        for output in outputs:
            instances = output["instances"]
            instances = Instances(instances.image_size, **instances.get_fields())
            masks = torch.zeros_like(instances.pred_masks)
            boxes = instances.pred_boxes.tensor.round().int().tolist()
            for mask, (x0, y0, x1, y1) in zip(masks, boxes):
                mask[y0:y1, x0:x1] = self.mask(y1 - y0, x1 - x0).to(mask.device)
            instances.pred_masks = masks
            drawn.append({"instances": instances})
        super().process(inputs, drawn)


class MasksByChance(BoxesAsMasks):
    """Evaluates every detection with the true mask of an instance of A, drawn with ``SEED``."""

    def __init__(self, *args: Any, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rng = np.random.default_rng(seed)
        self._masks: list[torch.Tensor] = []
        coco, a = self._coco_api, class_split_of("handful").with_masks
        for ann in coco.loadAnns(coco.getAnnIds()):
            x0, y0, w, h = (round(v) for v in ann["bbox"])
            if coco.cats[ann["category_id"]]["name"] in a and min(w, h) > 0:
                mask = coco.annToMask(ann)[y0 : y0 + h, x0 : x0 + w]
                self._masks.append(torch.from_numpy(mask).float())

    def mask(self, height: int, width: int) -> torch.Tensor:
        """A random mask of A, resized to (height, width), bool."""
        mask = self._masks[self._rng.integers(len(self._masks))]
        size = (max(height, 1), max(width, 1))
        resized = F.interpolate(mask[None, None], size, mode="bilinear", align_corners=False)
        return resized[0, 0, :height, :width] > 0.5


class WithFloors(DatasetEvaluator):
    """A method and its two floors, of one pass over the images."""

    def __init__(self, method: str, seed: int, output_dir: str) -> None:
        args, kwargs = ("handful", ("bbox", "segm")), {"allow_cached_coco": False}
        self._each = {
            method: SplitCOCOEvaluator(*args, output_dir=output_dir, **kwargs),
            "  its boxes": BoxesAsMasks(*args, **kwargs),
        }
        for i in range(DRAWS):
            name = f"  chance, draw {i}"
            self._each[name] = MasksByChance(*args, seed=seed + i, **kwargs)

    def reset(self) -> None:
        """See :meth:`DatasetEvaluator.reset`."""
        for evaluator in self._each.values():
            evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`DatasetEvaluator.process`."""
        for evaluator in self._each.values():
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Each evaluator's results by its name."""
        return {name: evaluator.evaluate() for name, evaluator in self._each.items()}


def main() -> None:
    """Train, evaluate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--split", choices=SPLITS, default="voc2nonvoc")
    parser.add_argument("--photographs", choices=RULES, default="mixed")
    parser.add_argument("--backbone", choices=("FPN", "C4"), default="FPN")
    parser.add_argument("--only", choices=METHODS, help="one of the methods (both)")
    parser.add_argument("--num-images", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--augment", action="store_true", help="random sizes and crops")
    parser.add_argument("--output", default="output/overfit")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args()

    register_handful(args.split, args.photographs, args.num_images)
    headers = ["method", "box AP, A", "box AP, B"]
    headers += [f"mask {m}, {s}" for s in "AB" for m in ("AP", "AP50", "AP75")]
    rows = []
    for method in [args.only] if args.only else METHODS:
        cfg = configure(method, args)
        trainer = MaskXTrainer(cfg)
        trainer.resume_or_load(resume=True)
        if trainer.start_iter < trainer.max_iter:
            trainer.train()
        DetectionCheckpointer(trainer.model).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
        loader = MaskXTrainer.build_test_loader(cfg, "handful")
        chance: list[list[float]] = []
        for name, results in inference_on_dataset(
            trainer.model, loader, WithFloors(method, args.seed, cfg.OUTPUT_DIR)
        ).items():
            masks = [results[t][m] for t in ("segm_A", "segm_B") for m in ("AP", "AP50", "AP75")]
            row = [results["bbox_A"]["AP"], results["bbox_B"]["AP"], *masks]
            (chance.append(row) if "chance" in name else rows.append([name, *row]))
        rows.append([f"  chance, mean of {DRAWS}", *np.mean(chance, axis=0)])
        rows.append(["  chance, highest", *np.max(chance, axis=0)])
        table = tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".1f")
        Path(args.output, "results.md").write_text(table + "\n")
    print(f"\n{table}")


def mixed(names: list[str], sizes: list[float], a: frozenset[str]) -> str | None:
    """A photograph that shows at least two large instances of A and two of B."""
    of_a = [n in a for n, size in zip(names, sizes) if size > 64**2]
    return "both" if sum(of_a) >= 2 and len(of_a) - sum(of_a) >= 2 else None


def separate(names: list[str], sizes: list[float], a: frozenset[str]) -> str | None:
    """One to four instances, all of A or all of B: nothing of B is background of an A."""
    if not 1 <= len(names) <= 4 or len({n in a for n in names}) == 2:
        return None
    return "A" if names[0] in a else "B"


def animals(names: list[str], sizes: list[float], a: frozenset[str]) -> str | None:
    """As :func:`separate`, and nothing but animals."""
    return separate(names, sizes, a) if ANIMALS.issuperset(names) else None


#: How the handful is chosen: into which group a photograph without crowds goes, None for none, by
#: the names and the box areas of its instances.
RULES = {"mixed": mixed, "separate": separate, "animals": animals}
ANIMALS = {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}


def register_handful(split: str, rule: str, num_images: int) -> None:
    """The first photographs of each group of the rule, as many of each, ``num_images`` in all."""
    metadata = MetadataCatalog.get("coco_2017_train")
    names = metadata.thing_classes
    a = SPLITS[split](names).with_masks

    def load() -> list[dict[str, Any]]:
        groups: dict[str, list[dict[str, Any]]] = {}
        for record in DatasetCatalog.get("coco_2017_train"):
            shown = [names[x["category_id"]] for x in record["annotations"]]
            sizes = [x["bbox"][2] * x["bbox"][3] for x in record["annotations"]]
            group = RULES[rule](shown, sizes, a)
            if group and not any(x["iscrowd"] for x in record["annotations"]):
                groups.setdefault(group, []).append(record)
        chosen = [
            record for group in groups.values() for record in group[: num_images // len(groups)]
        ]
        return sorted(chosen, key=lambda record: record["image_id"])

    DatasetCatalog.register("handful_full", load)
    MetadataCatalog.get("handful_full").set(thing_classes=names)
    register_partial("handful_train", base="handful_full", split=SPLITS[split])
    register_partial("handful", base="handful_full", split=SPLITS[split], keep_masks=True)


def configure(method: str, args: argparse.Namespace) -> CfgNode:
    """The method's config with a schedule and a size for a handful of images on a CPU."""
    if args.backbone == "C4":
        cfg = get_cfg()
        add_maskx_config(cfg)
        cfg.merge_from_file(get_config_file(C4))
        cfg.merge_from_list(C4_KEYS[method])
    else:
        cfg = model_zoo.get_config(f"coco/{args.split}/{METHODS[method]}")
    steps = (int(args.iterations * 0.8),)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"),
            *("DATASETS.TRAIN", ("handful_train",), "DATASETS.TEST", ()),
            *("INPUT.MIN_SIZE_TRAIN", (256,), "INPUT.MAX_SIZE_TRAIN", 400),
            *("INPUT.MIN_SIZE_TEST", 256, "INPUT.MAX_SIZE_TEST", 400),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.005, "SOLVER.STEPS", steps),
            *("SOLVER.MAX_ITER", args.iterations, "SOLVER.WARMUP_ITERS", args.iterations // 6),
            *("SOLVER.CHECKPOINT_PERIOD", 100, "DATALOADER.NUM_WORKERS", 1, "SEED", args.seed),
            *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
            *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, "MODEL.BACKBONE.FREEZE_AT", 5),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
            *("MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.5, "MODEL.RPN.POST_NMS_TOPK_TEST", 100),
            *(AUGMENTATION if args.augment else ()),
            *("OUTPUT_DIR", str(Path(args.output, method.replace("^", "")))),
            *args.opts,
        ]
    )
    cfg.freeze()
    default_setup(cfg, argparse.Namespace())
    setup_logger(cfg.OUTPUT_DIR, name="maskx_d2")
    logging.getLogger("detectron2.engine.defaults").setLevel(logging.WARNING)
    return cfg


if __name__ == "__main__":
    main()
