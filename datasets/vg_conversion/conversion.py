"""From Visual Genome's files to COCO's, with an account of what was dropped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .boxes import (
    CLIPPED,
    NO_AREA,
    NO_CATEGORY,
    NO_SYNSET,
    OUTSIDE,
    REPEATED,
    SEVERAL_SYNSETS,
    annotate,
)
from .parts import PARTS, assign_parts
from .reader import read_coco, read_images, read_objects
from .vocabulary import (
    NUM_CATEGORIES,
    Category,
    categories_of_names,
    choose_categories,
    read_names,
)
from .writer import CocoFile, Files, dumps

# Part of each file's "info": raise it whenever the same input would give other files.
VERSION = "1"
NUM_TEST = 5000  # as in the authors' code
NO_IMAGE = "image is not in image_data.json"
EXCLUDED = "image is in a file of --exclude"
DROPPED = (
    *(NO_IMAGE, EXCLUDED, NO_SYNSET, SEVERAL_SYNSETS, NO_CATEGORY),
    *(NO_AREA, OUTSIDE, REPEATED),
)


def make_visual_genome(
    root: str | os.PathLike[str],
    *,
    coco_val: str | os.PathLike[str] | None = None,
    exclude: Sequence[str | os.PathLike[str]] = (),
    classes: str | os.PathLike[str] | None = None,
    num_categories: int = NUM_CATEGORIES,
    num_test: int = NUM_TEST,
    progress: bool = True,
) -> dict[str, Any]:
    """
    Write ``root/visual_genome/annotations`` from the JSON files in ``root/visual_genome``.

    Args:
        root: directory of the data sets.
        coco_val: COCO's JSON file with the images that are for validation, and with its
            categories; ``root/coco/annotations/instances_val2017.json`` by default.
        exclude: COCO files whose images are left out altogether.
        classes: a JSON list of names that are the categories, see :func:`categories_of_names`.
        num_categories: how many there are without such a list, see :func:`choose_categories`.
        num_test: number of test images, see :func:`assign_parts`.
        progress: show a progress bar.

    Returns:
        the account that is also the "info" of ``categories.json``: the number of objects, how
        many of them were dropped for which reason, how many boxes were clipped; of each part the
        number of images, of images without a box, and of boxes; and the categories without a
        box.

    Raises:
        ValueError: if an input is missing or is not what it should be.
    """
    folder = Path(root) / "visual_genome"
    if coco_val is None:
        coco_val = Path(root) / "coco" / "annotations" / "instances_val2017.json"
    coco, val_ids = read_coco(Path(coco_val))
    if not coco:
        raise ValueError(
            f"'{coco_val}' has no categories, but COCO's come first; use its instances."
        )
    excluded = set().union(*(read_coco(Path(path))[1] for path in exclude))
    images = read_images(folder / "image_data.json")
    parts = assign_parts(images, val_ids, excluded, num_test)
    names = None if classes is None else read_names(Path(classes))

    objects = folder / "objects.json"
    counts = _count_synsets(objects, progress)
    categories = (
        choose_categories(counts, coco, num_categories)
        if names is None
        else categories_of_names(names, counts, coco)
    )
    known = {image["id"] for image in images}
    return _write(folder, objects, parts, known, categories, progress)


def describe(account: dict[str, Any]) -> str:
    """The account as lines of text."""
    lines = [f"{account['objects']:,} objects, of which"]
    rows = [(reason, account["dropped"][reason]) for reason in DROPPED]
    lines += [f"  {count:>11,}  dropped: {reason}" for reason, count in rows]
    lines.append(f"  {sum(part['boxes'] for part in account['parts'].values()):>11,}  boxes")
    lines.append(f"  {account['clipped']:>11,}  of them {CLIPPED}")
    for name, part in account["parts"].items():
        lines.append(
            f"{name}: {part['images']:,} images ({part['images_without_boxes']:,} without a box), "
            f"{part['boxes']:,} boxes"
        )
    lines.append(f"{account['categories']:,} categories")
    empty = account["categories_without_boxes"]
    if empty:
        shown = ", ".join(f"'{name}'" for name in empty[:8])
        more = f" and {len(empty) - 8} more" if len(empty) > 8 else ""
        lines.append(f"  {len(empty)} of them without a box: {shown}{more}")
    return "\n".join(lines)


def _count_synsets(objects: Path, progress: bool) -> Counter[str]:
    """How often each synset occurs, also in objects that have several, as in the authors' code."""
    counts: Counter[str] = Counter()
    for _, things in read_objects(objects, progress=progress):
        for thing in things:
            counts.update(thing["synsets"])
    if not counts:
        raise ValueError(
            f"{objects} has no synsets; objects.json of version 1.2 or 1.4 is needed, not 1.0."
        )
    return counts


def _write(
    folder: Path,
    objects: Path,
    parts: dict[str, list[dict[str, Any]]],
    known: set[int],
    categories: Sequence[Category],
    progress: bool,
) -> dict[str, Any]:
    listed = [{"id": c.id, "name": c.name, "synset": c.synset} for c in categories]
    category_ids = {c.synset: c.id for c in categories if c.synset}
    place = {image["id"]: (part, image) for part in PARTS for image in parts[part]}
    tally: Counter[str] = Counter()
    total = 0
    boxes: Counter[int] = Counter()
    with_boxes: Counter[str] = Counter()
    info = {
        "description": "Visual Genome, made by datasets/make_visual_genome.py",
        "version": VERSION,
        "url": "https://homes.cs.washington.edu/~ranjay/visualgenome/",
        "licence": "annotations CC BY 4.0; images under their own licences at Flickr",
    }
    # The file that names the categories is the last to appear, so the others are there with it.
    names = [*(f"instances_{part}.json" for part in PARTS), "categories.json"]
    with Files(folder / "annotations", names) as files:
        outputs = {
            part: CocoFile(files[f"instances_{part}.json"], info, listed, parts[part])
            for part in PARTS
        }
        for image_id, things in read_objects(objects, progress=progress):
            total += len(things)
            if image_id not in place:
                tally[EXCLUDED if image_id in known else NO_IMAGE] += len(things)
                continue
            part, image = place[image_id]
            size = (image["width"], image["height"])
            annotations = annotate(things, category_ids, *size, tally)
            outputs[part].add(image_id, annotations)
            boxes.update(a["category_id"] for a in annotations)
            with_boxes[part] += bool(annotations)
        for output in outputs.values():
            output.close()
        account = {
            **info,
            "objects": total,
            "dropped": {reason: tally[reason] for reason in DROPPED},
            "clipped": tally[CLIPPED],
            "parts": {
                part: {
                    "images": len(parts[part]),
                    "images_without_boxes": len(parts[part]) - with_boxes[part],
                    "boxes": outputs[part].count,
                }
                for part in PARTS
            },
            "categories": len(categories),
            "categories_without_boxes": [c.name for c in categories if not boxes[c.id]],
        }
        counted = [{**asdict(c), "boxes": boxes[c.id]} for c in categories]
        files["categories.json"].write(dumps({"info": account, "categories": counted}) + "\n")
    return account
