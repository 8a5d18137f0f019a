"""Overrides of a config on a command line; a mistake in one is said in a sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from detectron2.config import CfgNode, LazyConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

__all__ = ["lazy_override", "merge_lazy_overrides", "merge_overrides", "no_such_key"]

logger = logging.getLogger(__name__)

#: What ``train`` may have beside detectron2's own keys, which some configs leave out.
_OWN_KEYS = {
    *("train.best_checkpoint", "train.freeze_detector", "train.mask_probe", "train.roi_cache"),
    *("train.seed", "train.trained_modules", "train.vis_period"),
}


def merge_overrides(cfg: CfgNode, opts: Sequence[str]) -> None:
    """
    Merge ``KEY VALUE ...`` into a yaml config.

    Raises:
        ValueError: if there is no such key, a value is of another type, or one is missing.
    """
    if len(opts) % 2:
        raise ValueError(
            f"overrides of a yaml config are KEY VALUE, such as SOLVER.MAX_ITER 2000, but "
            f"'{' '.join(map(str, opts))}' has an odd number of words."
        )
    known = set(_keys(cfg))
    for key in opts[::2]:
        if key not in known and not cfg.key_is_deprecated(key) and not cfg.key_is_renamed(key):
            raise ValueError(no_such_key(cfg, key))
    cfg.merge_from_list(list(opts))


def no_such_key(cfg: CfgNode, key: str) -> str:
    """The sentence for a key that a yaml config does not have."""
    if "=" in key:
        return f"overrides of a yaml config are KEY VALUE, with a space, not '{key}'."
    close = get_close_matches(key, list(_keys(cfg)), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"the config has no key '{key}'{hint}"


def lazy_override(key: str, path: str) -> str:
    """``key=value`` of a path, which may hold what the syntax of overrides takes for its own."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'


def merge_lazy_overrides(cfg: DictConfig, opts: Sequence[str]) -> DictConfig:
    """
    Merge ``key=value ...`` into a LazyConfig.

    LazyConfig makes a key that is not there, and so takes a typing mistake without a word. Here
    it is an error if a key beside it has almost the same name; ``+key=value`` makes it all the
    same.

    Raises:
        ValueError: if it can't be read, or is taken for a typing mistake.
    """
    for opt in opts:
        if "=" not in opt:
            raise ValueError(
                "overrides of a LazyConfig are key=value, such as train.max_iter=2000, "
                f"not '{opt}'."
            )
    try:
        parsed = OverridesParser.create().parse_overrides(list(opts))
    except OverrideParseException as e:
        reason = str(e).splitlines()[0]
        raise ValueError(f"'{e.override}' is not an override that can be read: {reason}") from e
    for override in parsed:
        if not override.is_add():
            _check_is_there(cfg, override.key_or_group)
    try:
        merged: DictConfig = LazyConfig.apply_overrides(cfg, list(opts))
    except (KeyError, NotImplementedError) as e:
        raise ValueError(f"{e.args[0]}") from e
    return merged


def _check_is_there(cfg: DictConfig, key: str) -> None:
    if key in _OWN_KEYS:
        return
    node: Any = cfg
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            return  # of a list, or not a section: the merge says it
        if part not in node:
            if "_target_" in node:  # an argument, which the call takes or refuses
                return
            close = get_close_matches(part, [str(k) for k in node], n=1, cutoff=0.75)
            if close:
                meant = ".".join([*parts[:i], close[0], *parts[i + 1 :]])
                raise ValueError(
                    f"the config has no key '{key}'; did you mean '{meant}'? (+{key}=... adds it)"
                )
            logger.warning(f"The config had no key '{key}'; it was added.")
            return
        node = OmegaConf.select(node, part)


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
