"""The packaged configs, found by name as in detectron2's ``model_zoo``."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig

from ..config import add_maskx_config

__all__ = ["get_config", "get_config_file", "list_configs"]

_ROOT = Path(__file__).parent / "configs"


def list_configs() -> list[str]:
    """The names of all packaged configs that can be trained."""
    return sorted(
        str(path.relative_to(_ROOT))
        for path in _ROOT.rglob("*")
        if path.suffix in (".yaml", ".py")
        and not path.name.startswith(("Base-", "_", "common."))
        and path.parent.name != "grids"  # which are about many configs, see `maskx experiments`
    )


def get_config_file(config_path: str) -> str:
    """
    The path of a packaged config.

    Args:
        config_path: its name, such as ``coco/voc2nonvoc/maskx_rcnn_R_50_FPN_1x.yaml``.

    Raises:
        FileNotFoundError: if there is no such config; the sentence lists those there are.
    """
    path = _ROOT / config_path
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no config '{config_path}'; available are: {', '.join(list_configs())}."
        )
    return str(path)


def get_config(config_path: str) -> CfgNode | DictConfig:
    """
    A packaged config as an object: a ``CfgNode`` for ``.yaml``, a ``DictConfig`` for ``.py``.

    Raises:
        FileNotFoundError: see :func:`get_config_file`.
    """
    path = get_config_file(config_path)
    if path.endswith(".py"):
        return LazyConfig.load(path)
    cfg = get_cfg()
    add_maskx_config(cfg)
    cfg.merge_from_file(path)
    return cfg
