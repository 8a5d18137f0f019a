"""Yaml files in which a key that is there twice is a mistake."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["load_yaml"]


def load_yaml(text: str) -> Any:
    """
    What a yaml text says.

    Raises:
        yaml.YAMLError: if it is no yaml.
        ValueError: if a mapping has a key twice, of which yaml would silently take the last.
    """
    _refuse_duplicates(yaml.compose(text, Loader=yaml.SafeLoader), set())
    return yaml.safe_load(text)


def _refuse_duplicates(node: yaml.Node | None, gone_through: set[int]) -> None:
    if id(node) in gone_through:  # an alias
        return
    gone_through.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            _refuse_duplicates(value, gone_through)
            if not isinstance(key, yaml.ScalarNode):
                continue  # which safe_load can't make a key of, and says so
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"key '{key.value}' is there twice, again in line {line}.")
            seen.add(key.value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, gone_through)
