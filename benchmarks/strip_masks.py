#!/usr/bin/env python
"""
COCO photographs of which a random part of the instances lost its mask, whatever the category.

Ordinary Mask R-CNN, no weight transfer. It counts what reaches the model (every box, every mask
that is left) and trains for some iterations::

    python benchmarks/strip_masks.py MODEL.WEIGHTS R-50.pkl
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.engine import default_setup
from tabulate import tabulate
from tqdm import tqdm

from maskx_d2 import model_zoo
from maskx_d2.data import PartialMaskDatasetMapper, has_mask
from maskx_d2.engine import MaskXTrainer


def main() -> None:
    """Strip, count, train, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--share", type=float, default=0.3, help="of the masks, to take away")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", default="output/strip_masks")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args()
    register_stripped(args.share, args.seed)
    cfg = model_zoo.get_config("coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml")
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"),
            *("DATASETS.TRAIN", ("stripped",), "DATASETS.TEST", ()),
            *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", False),  # as detectron2's own configs
            *("INPUT.MIN_SIZE_TRAIN", (256,), "INPUT.MAX_SIZE_TRAIN", 400),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.0025, "SOLVER.STEPS", ()),
            *("SOLVER.MAX_ITER", args.iterations, "SOLVER.WARMUP_ITERS", args.iterations // 3),
            *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64, "DATALOADER.NUM_WORKERS", 1),
            *("SEED", args.seed, "OUTPUT_DIR", args.output, *args.opts),
        ]
    )
    cfg.freeze()
    default_setup(cfg, argparse.Namespace())
    counts = count(cfg)
    trainer = MaskXTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    lines = Path(args.output, "metrics.json").read_text().splitlines()
    metrics = [m for m in map(json.loads, lines) if "loss_mask" in m]
    counts += [
        [f"{key}, iteration {m['iteration']}", round(m[key], 3)]
        for m in (metrics[0], metrics[-1])
        for key in ("loss_mask", "mask_head/num_supervised_rois", "loss_cls", "loss_box_reg")
    ]
    print(f"\n{tabulate(counts, ['', 'value'], tablefmt='pipe')}")


def register_stripped(share: float, seed: int) -> None:
    """Register ``stripped``: coco_2017_train without a random share of its masks."""

    def load() -> list[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        records = copy.deepcopy(DatasetCatalog.get("coco_2017_train"))
        for record in records:
            for annotation in record["annotations"]:
                if rng.random() < share:
                    annotation.pop("segmentation", None)
        return records

    DatasetCatalog.register("stripped", load)
    metadata = MetadataCatalog.get("coco_2017_train")
    MetadataCatalog.get("stripped").set(thing_classes=metadata.thing_classes)


def count(cfg: Any) -> list[list[Any]]:
    """Boxes and masks in the data, and after the mapper."""
    mapper = PartialMaskDatasetMapper(cfg, is_train=True)
    records = get_detection_dataset_dicts("stripped")
    instances = [a for r in records for a in r["annotations"] if not a["iscrowd"]]
    boxes = masks = 0
    for record in tqdm(records, "counting", unit="image"):
        sample = mapper(record)["instances"]
        boxes += len(sample)
        masks += int(sample.gt_has_mask.sum())
    return [
        ["boxes in the data", len(instances)],
        ["boxes that reach the model", boxes],
        ["masks in the data", sum(map(has_mask, instances))],
        ["masks that reach the model", masks],
    ]


if __name__ == "__main__":
    main()
