"""A grid of trainings: what its yaml file may say, and the cells that it makes."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from .._yaml import load_yaml
from ..engine.overrides import lazy_override
from .config_files import contents_hash

__all__ = ["Cell", "Grid", "load_grid"]

# ``train_net.py``, also where only the package is installed.
_TRAIN_NET = ("python", "-c", "from maskx_d2.engine import run; run()")

_KEYS = [
    *("output", "seeds", "command", "common", "splits", "shared", "methods"),
    *("table", "published"),
]


@dataclass(frozen=True)
class Cell:
    """
    One training run of a grid.

    Attributes:
        name: such as ``voc2nonvoc/class-agnostic/seed1``.
        folder: of its log, checkpoints and metrics.
        split: name of the split, "" in a grid without splits.
        method: name of the method, or of the shared run.
        seed: of its random numbers.
        command: what starts a training, such as ``python train_net.py``.
        config: its config file.
        contents: a hash of what the config file and those below it say.
        opts: overrides, without seed, folder and initial weights.
        after: the shared run whose final checkpoint it starts from.
        is_shared: whether it is such a run.
    """

    name: str
    folder: Path
    split: str
    method: str
    seed: int
    command: tuple[str, ...]
    config: str
    contents: str
    opts: tuple[str, ...]
    after: Cell | None = None
    is_shared: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """All that its results depend on, to compare with what a folder was made with."""
        return {
            "command": list(self.command),
            "config": self.config,
            "contents of the config files": self.contents,
            "opts": list(self.opts),
            "seed": self.seed,
            "after": None if self.after is None else self.after.settings,
        }

    def command_line(self, weights: str | None = None) -> list[str]:
        """
        The words of the command that trains it, and goes on where it was stopped.

        Args:
            weights: initial weights in place of the config's.
        """
        command = self.command
        if command[0] == "python":
            command = (sys.executable, *command[1:])
        values = {"seed": str(self.seed), "output": str(self.folder), "weights": weights}
        return [
            *command,
            *("--config-file", self.config, "--resume", *self.opts),
            *(word for key, value in values.items() for word in self._override(key, value)),
        ]

    def _override(self, key: str, value: str | None) -> list[str]:
        if value is None:
            return []
        if not _is_lazy(self.config):
            return [
                {"seed": "SEED", "output": "OUTPUT_DIR", "weights": "MODEL.WEIGHTS"}[key],
                value,
            ]
        name = {"seed": "seed", "output": "output_dir", "weights": "init_checkpoint"}[key]
        if key == "seed":
            return [f"train.{name}={value}"]
        return [lazy_override(f"train.{name}", value)]


@dataclass(frozen=True)
class Grid:
    """
    What a grid's file says.

    Attributes:
        output: the folder for everything.
        cells: the methods' runs, in the order of splits, methods and seeds.
        shared: the runs that others start from.
        splits, methods: names; a grid without splits has the one split "".
        columns: label → metric, such as ``segm_B/AP``; the first is the main one.
        reference: the method that the others are compared with in the main column, or "".
        published: (split, method, metric) → a paper's figure.
        source: the paper.
    """

    output: Path
    cells: tuple[Cell, ...]
    shared: tuple[Cell, ...]
    splits: tuple[str, ...]
    methods: tuple[str, ...]
    columns: Mapping[str, str]
    reference: str
    published: Mapping[tuple[str, str, str], float]
    source: str

    def select(self, pattern: str | None = None) -> list[Cell]:
        """
        The cells to run, those first that others start from.

        Args:
            pattern: only cells whose name contains it (``*`` and ``?`` as in file names), and what
                they start from.

        Raises:
            ValueError: if no cell has such a name.
        """
        every = (*self.shared, *self.cells)
        chosen = [c for c in every if pattern is None or fnmatchcase(c.name, f"*{pattern}*")]
        if not chosen:
            raise ValueError(
                f"no cell's name contains '{pattern}'; the last of {len(every)} is "
                f"'{every[-1].name}'."
            )
        names = {c.name for c in chosen} | {c.after.name for c in chosen if c.after is not None}
        return [c for c in every if c.name in names]


def load_grid(path: str | Path, output: str | Path | None = None) -> Grid:
    """
    Read a grid's file. Config files and the output folder are relative to the working directory.

    Args:
        path: of the file, such as ``configs/grids/shapes.yaml``. Its ``_BASE_`` is another one,
            as in detectron2's configs: what the file says goes over it, and a method, split or
            shared run that is ``null`` is taken away.
        output: in place of the file's.

    Raises:
        FileNotFoundError: if it, or a config file, does not exist.
        ValueError: if something in it is not as it should be.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"grid '{path}' does not exist.")
    try:
        return _Reader(_read(path, ()), output).grid()
    except (ValueError, AssertionError, yaml.YAMLError) as e:
        raise ValueError(f"grid '{path}': {e}") from None


def _read(path: Path, above: tuple[Path, ...]) -> Any:
    """What the file says, on top of its ``_BASE_``."""
    if path.resolve() in above:
        raise ValueError(f"'{path}' is its own _BASE_.")
    content = load_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "_BASE_" not in content:
        return content
    base = path.parent / _text(content["_BASE_"], "_BASE_")
    if not base.is_file():
        raise ValueError(f"_BASE_ '{base}' does not exist.")
    _read(base, (*above, path.resolve()))  # for mistakes in it
    return CfgNode.load_yaml_with_base(str(path))


class _Reader:
    """From what yaml gives to a grid, or one sentence about what is wrong."""

    def __init__(self, content: Any, output: str | Path | None) -> None:
        self.raw = raw = _mapping(content, "the grid", _KEYS, required=("output", "seeds"))
        _mapping(raw, "the grid", required=("methods", "table"))
        self.output = Path(output if output is not None else _text(raw["output"], "output"))
        self.seeds = _seeds(raw["seeds"])
        self.command = (
            _TRAIN_NET if raw.get("command") is None else _words(raw["command"], "command")
        )
        if not self.command:
            raise ValueError("command is empty; leave it out for train_net.py.")
        self.splits = _named(raw.get("splits") or {"": []}, "splits")
        self.methods = _inherit(_named(raw["methods"], "methods"))
        self.shared = _named(raw.get("shared") or {}, "shared")
        if "shared" in {**self.splits, **self.methods}:
            raise ValueError("'shared' is the folder of shared runs; give the method another name.")
        self.hashes: dict[str, str] = {}

    def grid(self) -> Grid:
        shared: dict[str, Cell] = {}
        cells = []
        for split in self.splits:
            for method, said in self.methods.items():
                for seed in self.seeds:
                    after = self._shared(method, said.get("after"), split, seed)
                    if after is not None:
                        shared.setdefault(after.name, after)
                    cells.append(self._cell((split, method), split, method, said, seed, after))
        for name in self.shared:
            if name not in {cell.method for cell in shared.values()}:
                raise ValueError(f"no method comes after shared run '{name}'; remove it.")
        columns = self._columns()
        published, source = self._published(columns)
        return Grid(
            self.output,
            tuple(cells),
            tuple(shared.values()),
            tuple(self.splits),
            tuple(self.methods),
            columns,
            self._reference(),
            published,
            source,
        )

    def _cell(
        self,
        parts: Iterable[str],
        split: str | None,
        method: str,
        said: Mapping[str, Any],
        seed: int,
        after: Cell | None = None,
    ) -> Cell:
        where = f"'{method}'"
        config = _text(said["config"], f"config of {where}")
        if config not in self.hashes:
            self.hashes[config] = contents_hash(config)
        opts: list[str] = []
        for owner, words in (
            ("common", self.raw.get("common") or ()),
            (f"split '{split}'", () if split is None else self.splits[split] or ()),
            (f"opts of {where}", said.get("opts") or ()),
        ):
            opts += (
                word.replace("{seed}", str(seed)).replace("{split}", split or "")
                for word in _overrides(words, owner, config)
            )
        names = [*(part for part in parts if part), f"seed{seed}"]
        return Cell(
            name="/".join(names),
            folder=self.output.joinpath(*map(_folder, names)),
            split=split or "",
            method=method,
            seed=seed,
            command=tuple(self.command),
            config=config,
            contents=self.hashes[config],
            opts=tuple(opts),
            after=after,
            is_shared="shared" in names,
        )

    def _shared(self, method: str, name: Any, split: str, seed: int) -> Cell | None:
        """The run that a method's cell starts from."""
        if name is None:
            return None
        _known(name, self.shared, f"shared run, which method '{method}' comes after")
        where = f"shared run '{name}'"
        said = _mapping(self.shared[name], where, ("config", "opts", "per"), ("config",))
        per = _words(said.get("per", ["split", "seed"]), f"per of {where}")
        for word in per:
            _known(word, ("split", "seed"), f"word in per of {where}")
        each_split = "split" in per
        return self._cell(
            ("shared", name, split if each_split else ""),
            split if each_split else None,
            name,
            said,
            seed if "seed" in per else self.seeds[0],
        )

    def _columns(self) -> dict[str, str]:
        table = _mapping(self.raw["table"], "table", ("columns", "reference"), ("columns",))
        columns = _mapping(table["columns"], "columns of table")
        if not columns:
            raise ValueError("columns of table is empty.")
        return {str(k): _text(v, f"column '{k}'") for k, v in columns.items()}

    def _reference(self) -> str:
        """The method that others are compared with, if the table names one."""
        reference = self.raw["table"].get("reference")
        if reference is None:
            return ""
        _known(reference, self.methods, "method in reference of table")
        return str(reference)

    def _published(
        self, columns: Mapping[str, str]
    ) -> tuple[dict[tuple[str, str, str], float], str]:
        """A paper's figures, and the paper."""
        said = self.raw.get("published")
        if said is None:
            return {}, ""
        said = {**_mapping(said, "published", required=("source",))}
        source = _text(said.pop("source"), "source of published")
        by_split = {"": said} if list(self.splits) == [""] else said
        published = {}
        for split, methods in by_split.items():
            _known(split, self.splits, "split in published")
            for method, figures in _mapping(methods, f"published of '{split}'").items():
                _known(method, self.methods, "method in published")
                for metric, value in _mapping(figures, f"published of '{method}'").items():
                    _known(metric, columns.values(), "metric of the table in published")
                    if not isinstance(value, (int, float)):
                        raise ValueError(f"published {metric} of '{method}' is no number: {value}.")
                    published[split, method, metric] = float(value)
        return published, source


# ------------------------------------------------------------------------------ what may be where


def _mapping(
    said: Any, where: str, allowed: Sequence[str] | None = None, required: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise ValueError(f"{where} must be a mapping of keys to values, not {said!r}.")
    for key in said if allowed is not None else ():
        _known(key, allowed or (), f"key of {where}")
    for key in required:
        if key not in said:
            raise ValueError(f"{where} lacks the key '{key}'.")
    mapping: dict[str, Any] = said
    return mapping


def _known(name: Any, names: Iterable[str], what: str) -> None:
    names = list(names)
    if name in names:
        return
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(names) or 'none'}."
    raise ValueError(f"'{name}' is no {what}; {hint}")


def _named(said: Any, where: str) -> dict[str, Any]:
    """A mapping whose keys are names, which become folders."""
    said = {name: value for name, value in _mapping(said, where).items() if value is not None}
    folders: dict[str, str] = {}
    for name in said:
        if not isinstance(name, str):
            raise ValueError(f"name {name!r} in {where} is not text; put it in quotes.")
        other = folders.setdefault(_folder(name), name)
        if other != name:
            raise ValueError(f"'{other}' and '{name}' in {where} make the same folder; rename one.")
    if not said and where != "shared":
        raise ValueError(f"{where} is empty.")
    named: dict[str, Any] = said
    return named


def _inherit(methods: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Methods that say all of theirs; "like" names one before, to which opts are added."""
    resolved: dict[str, dict[str, Any]] = {}
    for name, said in methods.items():
        where = f"method '{name}'"
        said = _mapping(said, where, ("config", "opts", "after", "like"))
        if "like" in said:
            _known(said["like"], resolved, f"method before '{name}', which is like it")
            other = resolved[said["like"]]
            opts = [*(other.get("opts") or ()), *_list(said.get("opts") or (), f"opts of {where}")]
            said = {**other, **said, "opts": opts}
        resolved[name] = _mapping(said, where, required=("config",))
    return resolved


def _folder(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w.+-]+", "_", name)


def _text(said: Any, where: str) -> str:
    if not isinstance(said, str):
        raise ValueError(f"{where} must be text, not {said!r}.")
    return said


def _seeds(said: Any) -> list[int]:
    numbers = isinstance(said, list) and all(type(s) is int and s >= 0 for s in said)
    if not numbers or not said or len(set(said)) < len(said):
        raise ValueError(f"seeds must be a list of different numbers from 0 on, not {said!r}.")
    return list(said)


def _list(said: Any, where: str) -> Sequence[Any]:
    if not isinstance(said, (list, tuple)):
        raise ValueError(f"{where} must be a list, not {said!r}.")
    return said


def _words(said: Any, where: str) -> list[str]:
    return [str(word) for word in _list(said, where)]


def _overrides(said: Any, where: str, config: str) -> list[str]:
    words = _words(said, where)
    if _is_lazy(config):
        for word in words:
            if "=" not in word:
                raise ValueError(f"{where}: '{word}' is not \"key=value\", as for {config}.")
    elif len(words) % 2 or any("=" in key for key in words[::2]):
        raise ValueError(f"{where} must be pairs KEY, VALUE, as for {config}, not {words}.")
    return words


def _is_lazy(config: str) -> bool:
    return config.endswith(".py")
