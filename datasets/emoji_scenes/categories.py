"""Which emojis are categories, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .sources import STYLES, find_drawing

GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
_NOT_THINGS = frozenset({"sky & weather", "place-map", "sound", "music"})  # sub-groups
# Pictures in a frame, which a square is the mask of.
_PICTURES = """
bridge_at_night city_sunrise city_sunset cityscape desert elevator fireworks foggy
frame_with_picture motorway national_park night_with_stars railway_track rice_scene sparkler
statue_of_liberty sunrise sunrise_over_mountains x-ray
"""
# Signs, parts of an animal, and what is mostly air.
_SIGNS = """
bubbles chart chart_with_downwards_trend chart_with_upwards_trend clubs diamonds feet goal_net
hearts hotsprings pig_nose smoking spades sparkles
"""
_TWINS = """
airplane_arriving airplane_departure blue_book broken_chain calendar calling camera_with_flash
closed_lock_with_key dromedary_camel dvd e-mail empty_nest envelope_with_arrow euro
first_place_medal green_book guide_dog hammer_and_pick hammer_and_wrench hourglass_flowing_sand
house_buildings house_with_garden inbox_tray incoming_envelope linked_paperclips lock_with_ink_pen
low_battery mag_right mailbox_closed mailbox_with_mail mailbox_with_no_mail mount_fuji mountain
open_file_folder orange_book outbox_tray pound second_place_medal service_dog softball sports_medal
third_place_medal unlock whale2 white_flower yen
"""
_LEFT_OUT = frozenset(f"{_PICTURES} {_SIGNS} {_TWINS}".split())


def is_thing(emoji: Mapping[str, Any]) -> bool:
    """Whether an entry of emoji.json shows a concrete thing that no other entry shows."""
    name = emoji["short_name"]
    return (
        emoji["category"] in GROUPS
        and emoji["subcategory"] not in _NOT_THINGS
        and name not in _LEFT_OUT
        and not (name.startswith("clock") and name[5:].isdigit())
    )


def rank_categories(emojis: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """
    The order of which every data set takes the first N categories, so that small ones are nested.

    The groups take turns, and within a group its sub-groups. Within a sub-group older emojis come
    first, which are the more common things, then Unicode's own order decides.
    """
    ordered = sorted(
        emojis, key=lambda e: ([int(n) for n in e["added_in"].split(".")], e["sort_order"])
    )
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {group: {} for group in GROUPS}
    for emoji in sorted(emojis, key=lambda e: e["sort_order"]):
        groups[emoji["category"]][emoji["subcategory"]] = []
    for emoji in ordered:
        groups[emoji["category"]][emoji["subcategory"]].append(emoji)
    return list(_take_turns([list(_take_turns(list(g.values()))) for g in groups.values()]))


def _take_turns(queues: Sequence[Sequence[Any]]) -> Iterator[Any]:
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def choose_categories(sources: Path, count: int) -> list[dict[str, Any]]:
    """
    The first ``count`` categories of which every style has a drawing.

    Returns:
        COCO categories, with the name of the drawing's file under "image".
    """
    emojis = [
        e
        for e in json.loads((sources / "emoji.json").read_text())
        if is_thing(e) and all(find_drawing(sources, style, e["image"]) for style in STYLES)
    ]
    if not 2 <= count <= len(emojis):
        raise ValueError(f"categories must be between 2 and {len(emojis)}, got {count}.")
    return [
        {
            "id": i + 1,
            "name": e["short_name"],
            "supercategory": e["category"],
            "image": e["image"],
        }
        for i, e in enumerate(rank_categories(emojis)[:count])
    ]
