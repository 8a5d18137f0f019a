"""``maskx samples``: draw training samples as the model will see them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from PIL import Image
from tqdm import tqdm

from .._counted import counted
from ..data.datasets import NotRegisteredError, check_registered
from ..engine import MaskXTrainer
from ..engine.lazy_main import build_train_loader, is_lazy, load_lazy
from ..engine.yaml_main import load_config
from ..visualization import draw_instances

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx samples --config-file configs/coco/voc2nonvoc/maskx_rcnn_R_50_FPN_1x.yaml --output samples
  maskx samples --config-file config.yaml --output samples --limit 50 INPUT.CROP.ENABLED True

With a fixed seed in the config they are the first samples that its training will see.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "samples",
        help="draw training samples after augmentation",
        description="Draw what a training will see: images and instances after augmentation. "
        "Instances that teach the mask head have their mask drawn; the others are boxes, labelled "
        '"no mask". Categories with masks (A) are green, with boxes only (B) red and '
        "dashed.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--config-file", required=True, help="the config, .yaml or .py")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--limit", type=int, default=20, help="how many samples (20)")
    parser.add_argument(
        "--scale",
        type=float,
        help="size of the pictures; small images are enlarged until labels can be read",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides of the config")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if not Path(args.config_file).is_file():
        args.parser.error(f"config file '{args.config_file}' does not exist")
    if args.limit < 1:
        args.parser.error("--limit must be at least 1")
    if args.scale is not None and not args.scale > 0:
        args.parser.error("--scale must be more than 0")
    args.parser.check_folder("--output", args.output)
    setup_logger(name="maskx_d2")  # which says how many boxes have masks
    try:
        loader, metadata, image_format = (_lazy if is_lazy(args.config_file) else _yaml)(args)
    except (FileNotFoundError, NotRegisteredError) as e:
        args.parser.error(str(e).rstrip("."))
    except (ValueError, AssertionError) as e:  # detectron2 asserts that there is some image
        print(f"maskx samples: {e}", file=sys.stderr)
        return 1
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    samples: Iterator[dict[str, Any]] = islice(chain.from_iterable(loader), args.limit)
    count = masks = boxes = 0
    try:
        for i, sample in enumerate(tqdm(samples, "samples", args.limit, unit="image")):
            image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
            instances = sample["instances"]
            picture = draw_instances(image, instances, metadata, scale=args.scale)
            name = Path(sample["file_name"]).stem
            Image.fromarray(picture).save(output / f"{i:06d}_{name}.png")
            count += 1
            boxes += len(instances)
            if instances.has("gt_has_mask"):
                masks += int(instances.gt_has_mask.sum())
    except (ValueError, OSError) as e:  # an image that can't be read, or is of another size
        print(f"maskx samples: {e} `maskx check` finds all such images.", file=sys.stderr)
        return 1
    print(
        f"{counted(count, 'picture')} in {output}: {counted(boxes, 'box', 'boxes')}, {masks} of "
        "them with a mask."
    )
    return 0


def _yaml(args: argparse.Namespace) -> tuple[Any, Metadata, str]:
    cfg = load_config(args.config_file, args.opts)
    cfg.DATALOADER.NUM_WORKERS = 0
    for name in cfg.DATASETS.TRAIN:
        check_registered(name)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    loader = MaskXTrainer.build_train_loader(cfg)
    return loader, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]), cfg.INPUT.FORMAT


def _lazy(args: argparse.Namespace) -> tuple[Any, Metadata, str]:
    cfg = load_lazy(args.config_file, args.opts)
    cfg.dataloader.train.num_workers = 0
    seed = cfg.train.get("seed", -1)
    seed_all_rng(None if seed is None or seed < 0 else seed)
    names = cfg.dataloader.train.dataset.names
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        check_registered(name)
    loader = build_train_loader(cfg)
    metadata = MetadataCatalog.get(names[0])
    return loader, metadata, instantiate(cfg.dataloader.train.mapper).image_format
