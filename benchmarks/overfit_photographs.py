#!/usr/bin/env python
"""
Overfit a handful of COCO photographs: can the method learn masks at all, and reach set B?

Trains Mask^X R-CNN (without the MLP branch) and the class-agnostic baseline on the same few
photographs of ``coco_2017_train`` with masks for set A only, evaluates on those photographs, and
adds the floor: the same detections with their whole boxes as masks. It says that everything works
on real annotations; it says nothing about generalisation::

    python benchmarks/overfit_photographs.py MODEL.WEIGHTS R-50.pkl
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_setup
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from maskx_d2 import model_zoo
from maskx_d2.data import register_partial
from maskx_d2.engine import MaskXTrainer
from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.splits import coco_nonvoc2voc, coco_voc2nonvoc

SPLITS = {"voc2nonvoc": coco_voc2nonvoc, "nonvoc2voc": coco_nonvoc2voc}
METHODS = {
    "Mask^X": "maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
    "class-agnostic": "class_agnostic_R_50_FPN_1x.yaml",
}


class BoxesAsMasks(SplitCOCOEvaluator):
    """Evaluates every detection with its whole box as its mask: what no mask branch may miss."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See :meth:`COCOEvaluator.process`."""
        for output in outputs:
            instances = output["instances"]
            masks = torch.zeros_like(instances.pred_masks)
            for mask, (x0, y0, x1, y1) in zip(masks, instances.pred_boxes.tensor.round().int()):
                mask[y0:y1, x0:x1] = True
            instances.pred_masks = masks
        super().process(inputs, outputs)


def main() -> None:
    """Train, evaluate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--split", choices=SPLITS, default="voc2nonvoc")
    parser.add_argument("--num-images", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", default="output/overfit")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args()

    register_handful(args.split, args.num_images)
    headers = ["method", "box AP, A", "box AP, B"]
    headers += [f"mask {m}, {s}" for s in "AB" for m in ("AP", "AP50", "AP75")]
    rows = []
    for method, config in METHODS.items():
        cfg = configure(f"coco/{args.split}/{config}", method, args)
        trainer = MaskXTrainer(cfg)
        trainer.resume_or_load(resume=True)
        if trainer.start_iter < trainer.max_iter:
            trainer.train()
        DetectionCheckpointer(trainer.model).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
        loader = MaskXTrainer.build_test_loader(cfg, "handful")
        for name, evaluator_class in ((method, SplitCOCOEvaluator), ("  its boxes", BoxesAsMasks)):
            evaluator = evaluator_class(
                "handful", ("bbox", "segm"), output_dir=cfg.OUTPUT_DIR, allow_cached_coco=False
            )
            results = inference_on_dataset(trainer.model, loader, evaluator)
            masks = [results[t][m] for t in ("segm_A", "segm_B") for m in ("AP", "AP50", "AP75")]
            rows.append([name, results["bbox_A"]["AP"], results["bbox_B"]["AP"], *masks])
        table = tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".1f")
        Path(args.output, "results.md").write_text(table + "\n")
    print(f"\n{table}")


def register_handful(split: str, num_images: int) -> None:
    """The first photographs that show at least two large instances of A and two of B."""
    metadata = MetadataCatalog.get("coco_2017_train")
    a, _ = SPLITS[split](metadata.thing_classes).indices(metadata.thing_classes)

    def load() -> list[dict[str, Any]]:
        chosen = []
        for record in DatasetCatalog.get("coco_2017_train"):
            large = [
                x["category_id"] in a
                for x in record["annotations"]
                if not x["iscrowd"] and x["bbox"][2] * x["bbox"][3] > 64**2
            ]
            crowds = any(x["iscrowd"] for x in record["annotations"])
            if not crowds and sum(large) >= 2 and len(large) - sum(large) >= 2:
                chosen.append(record)
        return chosen[:num_images]

    DatasetCatalog.register("handful_full", load)
    MetadataCatalog.get("handful_full").set(thing_classes=metadata.thing_classes)
    register_partial("handful_train", base="handful_full", split=SPLITS[split])
    register_partial("handful", base="handful_full", split=SPLITS[split], keep_masks=True)


def configure(name: str, method: str, args: argparse.Namespace) -> CfgNode:
    """The paper's config with a schedule and a size for a handful of images on a CPU."""
    cfg = model_zoo.get_config(name)
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
            *("MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.5),
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
