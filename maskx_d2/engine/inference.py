"""A trained model, from its config file and checkpoint, ready for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Callable

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, Metadata, MetadataCatalog
from detectron2.modeling import ProposalNetwork, build_model
from detectron2.structures import Instances
from omegaconf import OmegaConf
from torch import nn

from ..deepmask import DeepMask
from ..image_labels import PeakResponseClassifier
from .exact_loading import load_exactly
from .lazy_main import as_text, dataset_names, is_lazy, load_lazy
from .model_card import card_split
from .yaml_main import load_config

__all__ = [
    "PROPOSAL_NETWORKS",
    "LoadedModel",
    "check_detector",
    "load_model",
    "settings_hash",
    "tested_on",
]

#: Models that find objects and not of which category.
PROPOSAL_NETWORKS = (DeepMask, ProposalNetwork)
# Keys under MODEL that are settings of one architecture alone
_KEYS_OF = {"DEEPMASK": "DeepMask", "IMAGE_LABELS": "PeakResponseClassifier"}


@dataclass(frozen=True)
class LoadedModel:
    """
    A model in evaluation mode with what it takes to use it.

    Attributes:
        model: a detectron2 model.
        mapper: turns a dataset dict into the model's input, resizing as the config says.
        metadata: of the data set that the config tests on: category names and split; if it isn't
            registered, what the checkpoint says of them.
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


def load_model(
    config_file: str, weights: str, opts: Sequence[str] = (), *, detector: bool = True
) -> LoadedModel:
    """
    Build the model of a config and load its checkpoint. A GPU is used where there is one.

    Args:
        config_file: ``.yaml`` or ``.py``; the ``config.yaml`` that a run leaves does as well.
        weights: the checkpoint.
        opts: overrides of the config, as on the command line of ``train_net.py``.
        detector: whether it is to be one, which finds instances of categories.

    Raises:
        FileNotFoundError: if the config file or the checkpoint does not exist.
        ValueError: if the checkpoint lacks parameters of the config's model, has them in other
            shapes, or is no checkpoint; if the config file or an override can't be used; if the
            model should be a detector and is none.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for path in (config_file, weights):
        if "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(f"file '{path}' does not exist.")
    if is_lazy(config_file):
        lazy = load_lazy(config_file, opts)
        model = instantiate(lazy.model).to(device)
        mapper = instantiate(lazy.dataloader.test.mapper)
        datasets = dataset_names(lazy)
    else:
        cfg = load_config(config_file, ["MODEL.DEVICE", device, *opts])
        model = build_model(cfg)
        mapper = DatasetMapper(cfg, is_train=False)
        datasets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    if detector:
        check_detector(model, config_file)
    metadata = MetadataCatalog.get(datasets[0]) if datasets else Metadata()
    if datasets and not metadata.get("thing_classes") and datasets[0] in DatasetCatalog.list():
        DatasetCatalog.get(datasets[0])  # a COCO JSON names its categories when it is loaded
    card = load_exactly(model, weights, datasets=datasets, allow_more=True)
    if not metadata.get("thing_classes") and card is not None:
        metadata = _metadata_of(card)
    return LoadedModel(model.eval(), mapper, metadata)


def check_detector(model: nn.Module, config_file: str, *, proposals: bool = False) -> None:
    """
    Check that a model finds instances.

    Args:
        model: of the config.
        config_file: for the message.
        proposals: whether those of no category will do.

    Raises:
        ValueError: if it finds none.
    """
    others = (
        (PeakResponseClassifier,) if proposals else (PeakResponseClassifier, *PROPOSAL_NETWORKS)
    )
    if isinstance(model, others):
        raise ValueError(
            f"'{config_file}' is a {type(model).__name__}, which finds no instances"
            f"{'' if proposals else ' of categories'}; "
            "name the config of a detector. train_net.py --eval-only measures this one."
        )


def tested_on(config_file: str) -> str | None:
    """The first data set that a config is tested on, if it names one."""
    if is_lazy(config_file):
        names = dataset_names(load_lazy(config_file), "test")
    else:
        names = load_config(config_file).DATASETS.TEST
    return next(iter(names), None)


def settings_hash(config_file: str, opts: Sequence[str] = ()) -> str:
    """A hash of what :func:`load_model`'s predictions depend on, but for the checkpoint."""
    if is_lazy(config_file):
        lazy = load_lazy(config_file, opts)
        parts = (lazy.model, lazy.dataloader.test.mapper)
        text = as_text([OmegaConf.to_container(part, resolve=True) for part in parts])
    else:
        cfg = load_config(config_file, list(opts))
        cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = ""
        for key, architecture in _KEYS_OF.items():
            if cfg.MODEL.META_ARCHITECTURE != architecture:
                cfg.MODEL.pop(key)
        text = "\n".join(part.dump() for part in (cfg.MODEL, cfg.INPUT, cfg.TEST))
    return sha256(text.encode()).hexdigest()


def _metadata_of(card: dict[str, Any]) -> Metadata:
    """What a checkpoint says of its categories, for data sets that nobody has registered here."""
    said = {"thing_classes": card.get("thing_classes"), "class_split": card_split(card)}
    return Metadata(**{key: value for key, value in said.items() if value is not None})
