"""
Make an "emoji" data set: COCO-format scenes of drawn things, with a large vocabulary.

    python datasets/make_emoji.py [--categories 40|120|600] [--root DIR] [--sources DIR] [--seed 0]
                                  [--num-train 4000] [--num-val 500] [--num-test 500]
                                  [--num-test-seen 500] [--size 128] [--held-out twitter]
                                  [--backgrounds DIR] [--random-a M ...] [--split-seed S ...]
                                  [--contact-sheet FILE] [--category-sheet FILE]

It writes ``ROOT/emoji<N>/{train,val,test,test_seen}/00000000.png``, the real masks of all
categories in ``ROOT/emoji<N>/annotations/instances_<part>.json``, and category splits in
``ROOT/emoji<N>/splits``. The drawings come from three packages of npm and PyPI, which are
downloaded once into ``--sources``, see docs/EMOJI.md for them and their licences.

A category is an emoji of a concrete thing ("guitar"), drawn in three styles. The style that is
held out is seen in the part "test" alone. As in the shapes data set, many objects come in pairs on
nearly the same box, so that only the category says which pixels belong.

The same arguments and sources give the same bytes. Image i of a part depends on the seed, the part,
i and the other options alone, so a longer data set begins with the images of a shorter one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from emoji_scenes.dataset import HELD_OUT, NUM_IMAGES, make_emoji
from emoji_scenes.parts import PARTS
from emoji_scenes.rules import MIN_IMAGE_SIZE
from emoji_scenes.sheets import draw_category_sheet, draw_scene_sheet
from emoji_scenes.sources import STYLES


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Make the data set 'emoji<N>'.")
    parser.add_argument(
        "--categories",
        type=int,
        default=40,
        help="40, 120, 600, or any other number; a smaller data set's are the first ones of a "
        "larger one (default: %(default)s)",
    )
    parser.add_argument(
        "--root",
        default=os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="directory of the data sets (default: $DETECTRON2_DATASETS, or 'datasets')",
    )
    parser.add_argument(
        "--sources",
        help="directory of the drawings, which are downloaded if they are not there "
        "(default: ROOT/emoji_sources)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    for part in PARTS:
        parser.add_argument(
            f"--num-{part.replace('_', '-')}",
            type=int,
            default=NUM_IMAGES[part],
            help=f"number of {part} images (default: %(default)s)",
        )
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        help=f"side of the images in pixels, at least {MIN_IMAGE_SIZE} (default: %(default)s)",
    )
    parser.add_argument(
        "--held-out",
        choices=STYLES,
        default=HELD_OUT,
        help="the style that only 'test' shows (default: %(default)s)",
    )
    parser.add_argument("--backgrounds", metavar="DIR", help="directory of photographs")
    parser.add_argument(
        "--random-a",
        type=int,
        nargs="+",
        metavar="M",
        help="sizes of set A of the random splits (default: a quarter, half and three quarters)",
    )
    parser.add_argument(
        "--split-seed",
        type=int,
        nargs="+",
        metavar="S",
        default=[0, 1, 2],
        help="seeds of the random splits (default: 0 1 2)",
    )
    parser.add_argument("--contact-sheet", metavar="FILE", help="draw scenes and masks to this PNG")
    parser.add_argument("--category-sheet", metavar="FILE", help="draw all categories to this PNG")
    return parser


def main() -> None:
    """The command line."""
    parser = make_parser()
    args = parser.parse_args()
    try:
        directory = make_emoji(
            args.root,
            sources=args.sources,
            categories=args.categories,
            seed=args.seed,
            num_images={part: getattr(args, f"num_{part}") for part in PARTS},
            image_size=args.size,
            held_out=args.held_out,
            backgrounds=args.backgrounds,
            random_a=args.random_a,
            split_seeds=args.split_seed,
        )
        if args.contact_sheet:
            draw_scene_sheet(directory, args.contact_sheet)
        if args.category_sheet:
            sources = Path(args.sources or Path(args.root) / "emoji_sources")
            draw_category_sheet(sources, args.categories, args.category_sheet)
    except (ValueError, RuntimeError, ImportError) as e:
        parser.error(str(e))


if __name__ == "__main__":
    main()
