#!/usr/bin/env python
"""
How many objects DeepMask's proposals have, beside boxes that are taken for masks.

Two baselines: the boxes of a detector's region proposal network, and boxes that slide over the
image, in an order of chance. All are measured alike, with ``MaskProposalEvaluator``::

    python benchmarks/mask_proposals.py --dataset shapes_test_a27b9 --num 100 \\
        --deepmask output/shapes/deepmask/config.yaml output/shapes/deepmask/model_final.pth \\
        --rpn output/shapes/detector/config.yaml output/shapes/detector/model_final.pth

Given several times, ``--deepmask`` and ``--rpn`` are runs with different seeds, and the table has
their means.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from statistics import mean, stdev
from typing import Any

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from maskx_d2.data import PartialMaskDatasetMapper, class_split_of
from maskx_d2.engine.exact_loading import load_exactly
from maskx_d2.engine.lazy_main import is_lazy, load_lazy
from maskx_d2.engine.yaml_main import load_config
from maskx_d2.evaluation import MaskProposalEvaluator
from maskx_d2.postprocessing import RLEMasks

Propose = Callable[[dict[str, Any]], Instances]
COUNTS = (10, 100, 1000)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dataset", required=True, help="with a split, and all masks")
    files = {"nargs": 2, "action": "append", "default": [], "metavar": ("CONFIG", "WEIGHTS")}
    parser.add_argument("--deepmask", **files)
    parser.add_argument("--rpn", **files, help="a model with a region proposal network")
    parser.add_argument("--num", type=int, default=1000, help="proposals of an image (1000)")
    args = parser.parse_args()
    if class_split_of(args.dataset) is None:
        parser.error(f"data set '{args.dataset}' has no split")
    if MetadataCatalog.get(args.dataset).has_masks_of_boxes_only is False:
        parser.error(f"data set '{args.dataset}' is one to train on, without masks of B")
    rows: dict[str, list[dict[str, Any]]] = {}
    for config, weights in args.deepmask:
        model, mapper = load(config, weights)
        model.topk = args.num
        rows.setdefault("DeepMask", []).append(
            measure(args.dataset, mapper, lambda x, m=model: m([x])[0]["proposals"], "DeepMask")
        )
    for config, weights in args.rpn:
        model, mapper = load(config, weights)
        rows.setdefault("RPN's boxes as masks", []).append(
            measure(args.dataset, mapper, of_rpn(model, args.num), "RPN")
        )
    for seed in range(max(len(args.deepmask), len(args.rpn), 1)):
        rows.setdefault("sliding boxes as masks", []).append(
            measure(args.dataset, dict, sliding(args.num, seed), "sliding boxes")
        )
    print(table(rows, [n for n in COUNTS if n <= args.num]))


def load(config: str, weights: str) -> tuple[nn.Module, Any]:
    """A model of any kind, in evaluation mode, and its mapper."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if is_lazy(config):
        lazy = load_lazy(config, [])
        model, mapper = instantiate(lazy.model).to(device), instantiate(lazy.dataloader.test.mapper)
    else:
        cfg = load_config(config, ["MODEL.DEVICE", device])
        model, mapper = build_model(cfg), PartialMaskDatasetMapper(cfg, is_train=False)
    load_exactly(model, weights)
    return model.eval(), mapper


def measure(dataset: str, mapper: Any, propose: Propose, name: str) -> dict[str, Any]:
    """The evaluator's results."""
    evaluator = MaskProposalEvaluator(dataset)
    for record in tqdm(get_detection_dataset_dicts(dataset, filter_empty=False), name):
        with torch.no_grad():
            found = propose(mapper({k: v for k, v in record.items() if k != "annotations"}))
        evaluator.process([record], [{"proposals": found}])
    results: dict[str, Any] = evaluator.evaluate()
    return results


def of_rpn(model: Any, num: int) -> Propose:
    """The best proposals of a detector, whose boxes are their masks."""
    rpn = model.proposal_generator
    for limit in (rpn.pre_nms_topk, rpn.post_nms_topk):
        limit[False] = max(limit[False], num)

    def propose(model_input: dict[str, Any]) -> Instances:
        images = model.preprocess_image([model_input])
        (found,), _ = rpn(images, model.backbone(images.tensor), None)
        size = [model_input.get(k, s) for k, s in zip(("height", "width"), found.image_size)]
        return with_boxes_as_masks(detector_postprocess(found, *size)[:num])

    return propose


def sliding(num: int, seed: int) -> Propose:
    """
    Boxes of three shapes and seven sizes, each a quarter of its side from the next.

    Sizes are from an eighth of the image's shorter side to all of it, half an octave apart. Those
    that are kept are drawn at random, and so is their order.
    """
    generator = torch.Generator().manual_seed(seed)

    def propose(record: dict[str, Any]) -> Instances:
        size = record["height"], record["width"]
        boxes = torch.tensor(list(sliding_boxes(*size)))
        boxes = boxes[torch.randperm(len(boxes), generator=generator)[:num]]
        found = Instances(size)
        found.proposal_boxes = Boxes(boxes)
        found.objectness_logits = torch.zeros(len(boxes))
        return with_boxes_as_masks(found)

    return propose


def sliding_boxes(height: int, width: int) -> Iterator[tuple[float, float, float, float]]:
    """XYXY in pixels, within the image."""
    for octave, ratio in product(range(7), (0.5, 1.0, 2.0)):
        side = min(height, width) * 2 ** (octave / 2 - 3)
        w, h = side * ratio**0.5, side / ratio**0.5
        if w > width or h > height:
            continue
        across, down = int((width - w) / w * 4) + 1, int((height - h) / h * 4) + 1
        for i, j in product(range(across), range(down)):
            x = (width - w) * i / max(across - 1, 1)
            y = (height - h) * j / max(down - 1, 1)
            yield x, y, x + w, y + h


def with_boxes_as_masks(found: Instances) -> Instances:
    """Proposals whose masks are their rectangles."""
    found = found.to("cpu")
    boxes = found.proposal_boxes.tensor.double()
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).numpy()
    rles = mask_util.frPyObjects(xywh, *found.image_size) if len(xywh) else []
    found.pred_masks = RLEMasks(
        [{**rle, "counts": rle["counts"].decode("ascii")} for rle in rles], found.image_size
    )
    return found


def table(rows: dict[str, list[dict[str, Any]]], counts: list[int]) -> str:
    """Means of the runs, and their standard deviation."""
    lines = []
    some = next(iter(rows.values()))[0]
    sets = [s for s in "ABC" if f"mask_proposals_{s}" in some]
    columns = [(suffix, f"AR@{n}") for suffix, n in product(sets, counts)]
    for name, runs in rows.items():
        for task in ("mask_proposals", "box_proposals"):
            line = [name, task.split("_")[0]]
            for suffix, figure in columns:
                values = [run[f"{task}_{suffix}"][figure] for run in runs]
                spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
                line.append(f"{mean(values):.1f}{spread}")
            lines.append(line)
    headers = ["proposals", "of", *(f"{figure}, {suffix}" for suffix, figure in columns)]
    return tabulate(lines, headers, tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    main()
