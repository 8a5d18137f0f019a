"""``maskx predict``: draw a trained model's predictions on images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from PIL import Image
from tqdm import tqdm

from ..engine.inference import load_model
from ..postprocessing import rle_masks
from ..visualization import draw_annotations, draw_instances

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx predict --config-file output/config.yaml --weights output/model_final.pth \\
      --output pictures street.jpg kitchen.jpg
  maskx predict --config-file output/config.yaml --weights output/model_final.pth \\
      --output pictures --dataset coco_2017_val_voc2nonvoc --limit 20
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="draw predictions on images",
        description="Draw a trained model's predictions: categories with masks (A) in green, with "
        "boxes only (B) in red. With --dataset, ground truth stands on the right of each picture.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="*", help="image files")
    parser.add_argument("--config-file", required=True, help="the model's config, .yaml or .py")
    parser.add_argument("--weights", required=True, help="the model's checkpoint, .pth or .pkl")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--dataset", help="a registered data set to draw, in place of image files")
    parser.add_argument("--limit", type=int, help="only the first so many images of --dataset")
    parser.add_argument("--confidence", type=float, default=0.5, help="lowest score drawn (0.5)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the pictures (1.0)")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if bool(args.images) == bool(args.dataset):
        args.parser.error("give either image files or --dataset")
    for path in (args.config_file, args.weights, *args.images):
        if "://" not in path and not Path(path).is_file():
            args.parser.error(f"file '{path}' does not exist")
    records = list(_records(args))
    loaded = load_model(args.config_file, args.weights)
    metadata = MetadataCatalog.get(args.dataset) if args.dataset else loaded.metadata
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(tqdm(records, desc="predict", unit="image")):
        image = read_image(record["file_name"], format="RGB")
        with rle_masks(loaded.model):  # only those that are drawn become bitmaps
            instances = loaded.predict(record)
        picture = draw_instances(
            image,
            instances,
            metadata,
            min_score=args.confidence,
            scale=args.scale,
        )
        if "annotations" in record:
            truth = draw_annotations(image, record["annotations"], metadata, scale=args.scale)
            picture = np.concatenate([picture, truth], axis=1)
        # Images of different folders may share a name.
        Image.fromarray(picture).save(output / f"{i:06d}_{Path(record['file_name']).stem}.png")
    print(f"{len(records)} pictures in {output}")
    return 0


def _records(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if not args.dataset:
        return iter([{"file_name": path} for path in args.images])
    if args.dataset not in DatasetCatalog.list():
        args.parser.error(f"data set '{args.dataset}' is not registered")
    return iter(DatasetCatalog.get(args.dataset)[: args.limit])
