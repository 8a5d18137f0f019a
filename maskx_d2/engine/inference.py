"""A trained model, from its config file and checkpoint, ready for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, Metadata, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from .lazy_main import is_lazy
from .yaml_main import load_config

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """
    A model in evaluation mode with what it takes to use it.

    Attributes:
        model: a detectron2 model.
        mapper: turns a dataset dict into the model's input, resizing as the config says.
        metadata: of the data set that the config tests on: category names and split, if it is
            registered.
    """

    model: nn.Module
    mapper: Callable[[dict[str, Any]], dict[str, Any]]
    metadata: Metadata

    @torch.no_grad()
    def predict(self, record: dict[str, Any]) -> Instances:
        """
        Predict the instances of one image.

        Args:
            record: a dataset dict; ``file_name`` is enough.

        Returns:
            ``pred_boxes``, ``pred_classes``, ``scores`` and ``pred_masks`` (bool, (R, H, W)) in
            the image's own size, on the CPU.
        """
        return self.model([self.mapper(dict(record))])[0]["instances"].to("cpu")


def load_model(config_file: str, weights: str, opts: Sequence[str] = ()) -> LoadedModel:
    """
    Build the model of a config and load its checkpoint. A GPU is used where there is one.

    Args:
        config_file: ``.yaml`` or ``.py``; the ``config.yaml`` that a run leaves does as well.
        weights: the checkpoint.
        opts: overrides of the config, as on the command line of ``train_net.py``.

    Raises:
        FileNotFoundError: if the config file or the checkpoint does not exist.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for path in (config_file, weights):
        if "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(f"file '{path}' does not exist.")
    if is_lazy(config_file):
        lazy = LazyConfig.apply_overrides(LazyConfig.load(config_file), list(opts))
        model = instantiate(lazy.model).to(device)
        mapper = instantiate(lazy.dataloader.test.mapper)
        names = lazy.dataloader.test.dataset.names
        datasets = [names] if isinstance(names, str) else list(names)
    else:
        cfg = load_config(config_file, ["MODEL.DEVICE", device, *opts])
        model = build_model(cfg)
        mapper = DatasetMapper(cfg, is_train=False)
        datasets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    DetectionCheckpointer(model).load(weights)
    metadata = MetadataCatalog.get(datasets[0])
    if not metadata.get("thing_classes") and datasets[0] in DatasetCatalog.list():
        DatasetCatalog.get(datasets[0])  # a COCO JSON names its categories when it is loaded
    return LoadedModel(model.eval(), mapper, metadata)
