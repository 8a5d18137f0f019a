"""``maskx surgery``: a checkpoint for other categories than it was trained on."""

from __future__ import annotations

import argparse
import json
import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from ..data.datasets import thing_classes_of
from ..vocabulary import Surgery, operate

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  maskx surgery --weights coco_model.pkl --from coco_2017_train --to fruit_train --output start.pth
  maskx surgery --weights model_final.pth --to 'person,car,scooter' --rename motorcycle=scooter \\
      --output start.pth
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "surgery",
        help="keep, drop, reorder and add categories of a checkpoint",
        description="Write a checkpoint for other categories: rows of the classifier, the box "
        "regression, a class-specific mask predictor and of embeddings are matched by name. The "
        "weight transfer function needs none.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--weights", required=True, help="the checkpoint, .pth or .pkl")
    parser.add_argument("--output", required=True, help="the checkpoint to write, .pth")
    where = "a data set's name, a file with a name a line or a JSON list, 'name,name' or 'name,'"
    parser.add_argument("--to", required=True, metavar="NAMES", help=f"new categories: {where}")
    parser.add_argument(
        "--from",
        dest="old",
        metavar="NAMES",
        help="categories of the checkpoint, in the same ways (what it says itself)",
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="two names of the same thing; may be given several times",
    )
    parser.add_argument("--embedding-file", help="vectors of the new categories, where T sees some")
    parser.add_argument("--seed", type=int, default=0, help="of the rows that are added (0)")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    args.parser.check_file("--output", args.output)
    try:
        wrong = [pair for pair in args.rename if pair.count("=") != 1]
        if wrong:
            raise ValueError(f"--rename takes OLD=NEW, not '{wrong[0]}'.")
        surgery = operate(
            args.weights,
            args.output,
            _names(args.to),
            old=None if args.old is None else _names(args.old),
            renamed=dict(pair.split("=") for pair in args.rename),
            embedding_file=args.embedding_file,
            seed=args.seed,
        )
    except FileNotFoundError as e:
        args.parser.error(str(e).rstrip("."))
    except ValueError as e:
        print(f"maskx surgery: {e}", file=sys.stderr)
        return 1
    _describe(surgery, args.output)
    return 0


def _names(said: str) -> list[str]:
    """Of a data set, in a file, or as they are."""
    if said in DatasetCatalog.list():
        return thing_classes_of(said)
    if os.path.isfile(said):  # pathlib refuses what is too long for a name
        text = Path(said).read_text(encoding="utf-8-sig")  # Windows' editors begin with a mark
        if not text.lstrip().startswith("["):
            return [line.strip() for line in text.splitlines() if line.strip()]
        try:
            names = json.loads(text)
        except ValueError as e:
            raise ValueError(f"file '{said}' is no JSON list of category names: {e}.") from None
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"file '{said}' must hold a JSON list of category names.")
        return list(names)
    if "," not in said:
        close = get_close_matches(said, DatasetCatalog.list(), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise ValueError(
            f"'{said}' is no registered data set and no file{hint} A single category is written "
            f"'{said},'."
        )
    return [name.strip() for name in said.removesuffix(",").split(",")]


def _describe(surgery: Surgery, output: str) -> None:
    print(
        f"{output}: {len(surgery.kept) + len(surgery.added)} categories, of which "
        f"{len(surgery.kept)} keep their rows and {len(surgery.added)} are new; "
        f"{len(surgery.dropped)} of the checkpoint's are dropped."
    )
    for what, names in (("new", surgery.added), ("dropped", surgery.dropped)):
        if names:
            print(f"{what}: {', '.join(names)}")
    for name in surgery.added:
        close = get_close_matches(name, surgery.dropped, n=1)
        if close:
            print(
                f"If '{name}' is the checkpoint's '{close[0]}', add --rename '{close[0]}={name}'.",
                file=sys.stderr,
            )
