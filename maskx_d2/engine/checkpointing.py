"""Checkpoints that say what they are, and are there completely or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from .model_card import CARD, differences, model_card
from .resuming import AtomicWrites

__all__ = ["MaskXCheckpointer"]

logger = logging.getLogger(__name__)


class MaskXCheckpointer(DetectionCheckpointer):
    """
    :class:`DetectionCheckpointer` that adds a :func:`model_card` and compares it when it loads.

    Stock detectron2 loads its files too: it leaves alone what it doesn't know.

    Attributes:
        card: of the checkpoint that was loaded last; None if it had none.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        datasets: Iterable[str] = (),
        dump_config: Callable[[], str] = str,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model, save_dir, **checkpointables: see :class:`DetectionCheckpointer`.
            datasets: names of the data sets that the model is trained or evaluated on, see
                :func:`model_card`.
            dump_config: gives the config as yaml.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.path_manager = AtomicWrites(self.path_manager)
        self._datasets = tuple(datasets)
        self._dump_config = dump_config
        self.card: dict[str, Any] | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """See :meth:`Checkpointer.save`."""
        card = model_card(self.model, self._datasets, self._dump_config())
        super().save(name, **{CARD: card}, **kwargs)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See :meth:`Checkpointer.load`. It warns of a checkpoint of another kind of model."""
        rest: dict[str, Any] = super().load(path, *args, **kwargs)
        card = rest.pop(CARD, None)
        self.card = card if isinstance(card, dict) else None
        if self.card is not None:
            for name in self._datasets[:1]:
                if name in DatasetCatalog.list() and not MetadataCatalog.get(name).get(
                    "thing_classes"
                ):
                    DatasetCatalog.get(name)  # a COCO JSON names its categories when it is loaded
            for difference in differences(self.card, model_card(self.model, self._datasets)):
                logger.warning(f"Checkpoint '{path}' is of another model: {difference}.")
        return rest
