"""Objects of Visual Genome as annotations of COCO's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

# Why an object is not an annotation, in the order in which they are looked at. The first three
# are those of the paper's data, the next two what its training skips when it loads a box.
NO_SYNSET = "no synset"
SEVERAL_SYNSETS = "several synsets"
NO_CATEGORY = "synset is not a category"
NO_AREA = "box without width or height"
OUTSIDE = "box outside of the image"
REPEATED = "same category and box as another of the image"
CLIPPED = "clipped to the image"


def annotate(
    objects: Iterable[Mapping[str, Any]],
    category_ids: Mapping[str, int],
    width: int,
    height: int,
    tally: Counter[str],
) -> list[dict[str, Any]]:
    """
    The annotations of one image, without ``id`` and ``image_id``, and with the object's own id.

    Args:
        objects: see :func:`~vg_conversion.reader.read_objects`.
        category_ids: by synset.
        width, height: the image's, in pixels.
        tally: what was dropped, and why, and how many boxes were clipped, is added to it.
    """
    annotations = []
    seen = set()
    for thing in objects:
        synsets = thing["synsets"]
        if not synsets:
            tally[NO_SYNSET] += 1
        elif len(synsets) > 1:
            tally[SEVERAL_SYNSETS] += 1
        elif synsets[0] not in category_ids:
            tally[NO_CATEGORY] += 1
        elif thing["w"] <= 0 or thing["h"] <= 0:
            tally[NO_AREA] += 1
        else:
            x0, y0 = max(thing["x"], 0), max(thing["y"], 0)
            x1 = min(thing["x"] + thing["w"], width)
            y1 = min(thing["y"] + thing["h"], height)
            found = (category_ids[synsets[0]], x0, y0, x1 - x0, y1 - y0)
            if x1 <= x0 or y1 <= y0:
                tally[OUTSIDE] += 1
            elif found in seen:
                tally[REPEATED] += 1
            else:
                seen.add(found)
                category_id, *box = found
                tally[CLIPPED] += box != [thing[k] for k in "xywh"]
                annotations.append(
                    {
                        "category_id": category_id,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                        "object_id": thing.get("object_id"),
                    }
                )
    return annotations
