"""Evaluation of the demo's runs, and the page that compares them."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from numpy.typing import NDArray
from PIL import Image
from pycocotools.mask import decode
from tabulate import tabulate
from tqdm import tqdm

from maskx_d2.engine import LoadedModel, load_model
from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.visualization import draw_annotations, draw_instances

TEST_SET = "shapes_test_a27b9"
PAIR_IOU = 0.8  # of the boxes of two objects in a pair
NUM_PICTURES = 8
MIN_SCORE = 0.25  # two categories on one box share the classifier's confidence
SCALE = 1.6


def evaluate(run: Path) -> dict[str, dict[str, float]]:
    """The run's AP on the test images: tasks ``bbox``, ``segm`` and their ``_A`` and ``_B``."""
    logging.getLogger("detectron2").setLevel(logging.WARNING)  # the table comes at the end
    loaded = load_model(str(run / "config.yaml"), str(run / "model_final.pth"))
    cfg = LazyConfig.load(str(run / "config.yaml"))
    cfg.dataloader.test.dataset.names = TEST_SET
    loader = instantiate(cfg.dataloader.test)
    evaluator = SplitCOCOEvaluator(TEST_SET, tasks=("bbox", "segm"), output_dir=str(run / "test"))
    bar = tqdm(loader, desc=f"{run.name:>14}", unit="image")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        results: dict[str, dict[str, float]] = inference_on_dataset(loaded.model, bar, evaluator)
    results["given_boxes"] = _iou_on_given_boxes(loaded)
    return results


@torch.no_grad()
def _iou_on_given_boxes(loaded: LoadedModel) -> dict[str, float]:
    """Mean mask IoU in percent where box and category are the true ones: the mask branch alone."""
    metadata = MetadataCatalog.get(TEST_SET)
    ious: dict[str, list[float]] = {}
    for record in tqdm(DatasetCatalog.get(TEST_SET), desc="given boxes".rjust(14), unit="image"):
        annotations = record["annotations"]
        boxes = Boxes(
            [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        )
        given = Instances((record["height"], record["width"]), pred_boxes=boxes)
        given.pred_classes = torch.tensor([a["category_id"] for a in annotations])
        given = given.to(loaded.model.device)
        (output,) = loaded.model.inference([loaded.mapper(dict(record))], [given])
        masks = output["instances"].pred_masks.cpu().numpy()
        overlap = pairwise_iou(boxes, boxes).fill_diagonal_(0)
        for mask, annotation, nearest in zip(masks, annotations, overlap.max(dim=1).values):
            name = metadata.thing_classes[annotation["category_id"]]
            group = "B" if name in metadata.class_split.boxes_only else "A"
            group += ", pairs" if nearest > PAIR_IOU else ", singles"
            truth = decode(annotation["segmentation"]).astype(bool)
            ious.setdefault(group, []).append((mask & truth).sum() / (mask | truth).sum())
    return {group: 100 * float(np.mean(values)) for group, values in ious.items()}


def write_report(
    output: Path, results: dict[str, dict[str, dict[str, float]]], methods: dict[str, str]
) -> Path:
    """
    Write ``report.md`` and its picture into ``output``.

    Args:
        output: the folder with one run a method.
        results: method → task → metric → percent.
        methods: method → name in the table.

    Returns:
        The path of the report.
    """
    Image.fromarray(_pictures(output, methods)).save(output / "pictures.png")
    page = f"""# Masks for categories that never had one

{_table(results, methods)}

AP in percent on the 300 test images. A: the 27 categories that had masks in training; B: the 9
categories that had boxes only. The last method learns from these boxes too: masks reach the sides
of their box and stay off other objects' masks.

The mask branch alone: mean mask IoU in percent on the true boxes and categories. Where two objects
share a box, only the category tells them apart; where one stands alone, the box says it all.

{_given_boxes_table(results, methods)}

<!-- end of the tables -->

Predictions with a score of at least {MIN_SCORE}, and the ground truth, on the first test images
that show an object of B in a pair. Green: A. Red: B.

![Predictions of the methods beside the ground truth](pictures.png)
"""
    path = output / "report.md"
    path.write_text(page)
    return path


def _given_boxes_table(
    results: dict[str, dict[str, dict[str, float]]], methods: dict[str, str]
) -> str:
    groups = ["A, pairs", "A, singles", "B, pairs", "B, singles"]
    rows = [[n, *(results[m]["given_boxes"][g] for g in groups)] for m, n in methods.items()]
    return tabulate(rows, headers=["method", *groups], tablefmt="pipe", floatfmt=".1f")


def _table(results: dict[str, dict[str, dict[str, float]]], methods: dict[str, str]) -> str:
    columns = [
        ("box AP, A", "bbox_A", "AP"),
        ("box AP, B", "bbox_B", "AP"),
        ("mask AP, A", "segm_A", "AP"),
        ("mask AP50, A", "segm_A", "AP50"),
        ("mask AP, B", "segm_B", "AP"),
        ("mask AP50, B", "segm_B", "AP50"),
    ]
    rows = [[n, *(results[m][task][ap] for _, task, ap in columns)] for m, n in methods.items()]
    headers = ["method", *(title for title, _, _ in columns)]
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".1f")


def _pictures(output: Path, methods: dict[str, str]) -> NDArray[np.uint8]:
    """For each image, the methods' predictions and the ground truth side by side."""
    metadata = MetadataCatalog.get(TEST_SET)
    of_b = metadata.class_split.indices(metadata.thing_classes)[1]
    chosen = [r for r in DatasetCatalog.get(TEST_SET) if _shows_b_in_a_pair(r, of_b)]
    chosen = chosen[:NUM_PICTURES]
    images = [read_image(r["file_name"], format="RGB") for r in chosen]
    columns = {}
    for method, name in methods.items():
        run = output / method
        loaded = load_model(str(run / "config.yaml"), str(run / "model_final.pth"))
        columns[name] = [
            draw_instances(
                image,
                loaded.predict(record),
                metadata,
                min_score=MIN_SCORE,
                labels=False,
                scale=SCALE,
            )
            for image, record in zip(images, chosen)
        ]
    columns["ground truth"] = [
        draw_annotations(image, record["annotations"], metadata, labels=False, scale=SCALE)
        for image, record in zip(images, chosen)
    ]
    half = (len(chosen) + 1) // 2
    blocks = [
        np.concatenate([_column(name, p[part]) for name, p in columns.items()], axis=1)
        for part in (slice(half), slice(half, None))
    ]
    height = max(len(block) for block in blocks)
    return np.concatenate([_pad(block, bottom=height - len(block)) for block in blocks], axis=1)


def _shows_b_in_a_pair(record: dict[str, Any], of_b: list[int]) -> bool:
    boxes = Boxes(
        [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record["annotations"]
        ]
    )
    overlap = pairwise_iou(boxes, boxes).fill_diagonal_(0).max(dim=1).values
    return any(
        a["category_id"] in of_b and o > PAIR_IOU for a, o in zip(record["annotations"], overlap)
    )


def _column(title: str, pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    head = np.full((36, pictures[0].shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(head, title, (8, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2, cv2.LINE_AA)
    return np.concatenate([_pad(p, 2, 2, 2) for p in (head, *pictures)])


def _pad(picture: Any, bottom: int = 2, left: int = 0, right: int = 8) -> NDArray[np.uint8]:
    """A white margin of so many pixels."""
    return np.pad(picture, ((0, bottom), (left, right), (0, 0)), constant_values=255)
