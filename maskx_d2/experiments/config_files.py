"""What a config file says, comments aside, together with the files it is based on."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import yaml

__all__ = ["contents_hash"]


def contents_hash(config_file: str | Path) -> str:
    """
    A hash that changes with the settings of a config file or of a file below it.

    Below it are ``_BASE_`` of a yaml config, and the relative imports of a LazyConfig ``.py`` file.
    Comments and layout do not count.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file can't be parsed.
    """
    digest = hashlib.sha256()
    for text in _texts(Path(config_file)):
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def _texts(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise FileNotFoundError(f"config file '{path}' does not exist.")
    source = path.read_text(encoding="utf-8")
    try:
        text, below = (_python if path.suffix == ".py" else _yaml)(source, path.parent)
    except (SyntaxError, yaml.YAMLError) as e:
        raise ValueError(f"config file '{path}' can't be parsed: {e}") from None
    yield text
    for other in below:
        yield from _texts(other)


def _python(source: str, folder: Path) -> tuple[str, list[Path]]:
    tree = ast.parse(source)
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    below = [
        Path(folder, *[".."] * (node.level - 1), *(node.module or "__init__").split("."))
        for node in imports
    ]
    if tree.body and isinstance(tree.body[0], ast.Expr):
        del tree.body[0]  # the docstring
    return ast.dump(tree), [path.with_name(f"{path.name}.py") for path in below]


def _yaml(source: str, folder: Path) -> tuple[str, list[Path]]:
    # Nodes, not values: some of detectron2's configs have tags that run code.
    root = yaml.compose(source, Loader=yaml.SafeLoader)
    if root is None:
        return "", []
    bases: list[str] = []
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        if key.value == "_BASE_":
            bases = (
                [value.value] if isinstance(value.value, str) else [v.value for v in value.value]
            )
    local = [folder / Path(base).expanduser() for base in bases if "://" not in base]
    return yaml.serialize(root), local
