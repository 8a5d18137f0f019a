"""
Turn Visual Genome's boxes into COCO-format data sets with 3,001 categories, COCO's 80 first.

    python datasets/make_visual_genome.py [--root DIR] [--coco-val FILE] [--exclude FILE ...]
                                          [--classes FILE | --num-categories 3001]
                                          [--num-test 5000]

It reads ``ROOT/visual_genome/{objects,image_data}.json`` (version 1.2 or 1.4) and writes
``ROOT/visual_genome/annotations/instances_{train,val,test}.json``, and ``categories.json`` with
the categories and an account of every object that was dropped. docs/VISUAL_GENOME.md says what to
download, and what was decided how.

The same input gives the same bytes. The files appear together when all are complete.
"""

from __future__ import annotations

import argparse
import os

from vg_conversion.conversion import NUM_TEST, describe, make_visual_genome
from vg_conversion.vocabulary import NUM_CATEGORIES


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Make the data set 'visual_genome'.")
    parser.add_argument(
        "--root",
        default=os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="directory of the data sets (default: $DETECTRON2_DATASETS, or 'datasets')",
    )
    parser.add_argument(
        "--coco-val",
        metavar="FILE",
        help="COCO's file with the images that are for validation, never for training (default: "
        "ROOT/coco/annotations/instances_val2017.json)",
    )
    parser.add_argument(
        "--exclude",
        metavar="FILE",
        nargs="+",
        default=[],
        help="COCO files whose images are left out altogether, such as image_info_test2017.json",
    )
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--classes",
        metavar="FILE",
        help="a JSON list of the categories' names, COCO's first, in place of the most frequent",
    )
    vocabulary.add_argument(
        "--num-categories",
        type=int,
        default=NUM_CATEGORIES,
        help="number of categories, COCO's 80 included (default: %(default)s)",
    )
    parser.add_argument(
        "--num-test",
        type=int,
        default=NUM_TEST,
        help="number of test images, which COCO does not have (default: %(default)s)",
    )
    return parser


def main() -> None:
    """The command line."""
    parser = make_parser()
    args = parser.parse_args()
    try:
        account = make_visual_genome(
            args.root,
            coco_val=args.coco_val,
            exclude=args.exclude,
            classes=args.classes,
            num_categories=args.num_categories,
            num_test=args.num_test,
        )
    except (ValueError, OSError) as e:
        parser.error(str(e))
    print(describe(account))


if __name__ == "__main__":
    main()
