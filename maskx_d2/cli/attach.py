"""``maskx attach``: masks for a detector of boxes that is trained already."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..attach import attached_config, check_output, is_evaluated, write_attached_config
from ..data.datasets import NotRegisteredError

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx attach --config-file faster_rcnn.yaml --weights faster_rcnn.pth --output with_masks \\
      --train coco_2017_train_voc2nonvoc --test coco_2017_val_voc2nonvoc SOLVER.MAX_ITER 20000
  maskx attach --config-file faster_rcnn.yaml --weights faster_rcnn.pth --output with_masks \\
      --train fruit_train --learn-from-boxes --roi-cache SOLVER.MAX_ITER 2000
A run that was stopped goes on when the same command is given again.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "attach",
        help="give a trained detector of boxes a mask branch",
        description="Train a mask branch and its weight transfer function on a detector of "
        "detectron2 that is trained already. The detector stays as it is, to the bit; the "
        "checkpoint that is written has both.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--config-file", required=True, help="the detector's config, .yaml or .py")
    parser.add_argument("--weights", required=True, help="the detector's checkpoint")
    parser.add_argument("--output", required=True, help="folder for the results")
    for part, what in (("train", "with masks"), ("test", "to test on")):
        parser.add_argument(
            f"--{part}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"a registered data set {what}; may be given several times (the config's)",
        )
    parser.add_argument(
        "--transfer-input",
        choices=("cls", "box", "cls+box"),
        help="what the weight transfer function sees of each category (all there is)",
    )
    parser.add_argument(
        "--learn-from-boxes",
        action="store_true",
        help="objects without a mask teach the mask branch that a mask reaches the sides of its "
        "box: far better masks on photographs (docs/BEYOND.md)",
    )
    parser.add_argument(
        "--roi-cache",
        action="store_true",
        help="run the detector over the training set once and keep its RoI features: many times "
        "faster, for data sets that fit on the disk",
    )
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument(
        "--config-only",
        action="store_true",
        help="write attached.yaml for train_net.py, and train nothing",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides of the config")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_folder("--output", args.output)
    try:
        cfg = attached_config(
            args.config_file,
            args.weights,
            args.output,
            train=args.train,
            test=args.test,
            transfer_input=args.transfer_input,
            learn_from_boxes=args.learn_from_boxes,
            roi_cache=args.roi_cache,
            opts=args.opts,
        )
        path = Path(args.output, "attached.yaml")
        before = path.read_bytes() if path.is_file() else None
        check_output(cfg, args.weights, args.output)
        write_attached_config(cfg, args.output)
    except (FileNotFoundError, NotRegisteredError) as e:
        args.parser.error(str(e).rstrip("."))
    except (KeyError, ValueError) as e:
        print(f"maskx attach: {e.args[0]}", file=sys.stderr)
        return 1
    if args.config_only:
        print(f"{path}: train it with train_net.py --config-file {path} --resume")
        return 0
    if path.read_bytes() == before and is_evaluated(args.output):
        print(
            f"{args.output}/model_final.pth is trained and evaluated already; to evaluate it "
            f"again: train_net.py --config-file {path} --eval-only --resume"
        )
        return 0
    from ..engine import run

    run(["--config-file", str(path), "--resume", "--num-gpus", str(args.num_gpus)])
    print(f"{args.output}/model_final.pth: the detector of {args.weights}, with masks.")
    return 0
