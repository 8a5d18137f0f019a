"""What to watch while a model trains: pictures of its masks, and which checkpoint was the best."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import HookBase, hooks
from detectron2.evaluation.evaluator import inference_context
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import nn

from .._files import written_whole
from ..data import class_split_of
from ..deepmask import DeepMask
from ..image_labels import PeakResponseClassifier
from ..modeling import given_instances
from ..panels import side_by_side
from ..postprocessing import rle_inference
from ..visualization import draw_annotations, draw_instances
from .roi_training import CachedMaskBranch

__all__ = ["BestCheckpointer", "PredictionImages"]

logger = logging.getLogger(__name__)

_IMAGES = 4
_NO_DETECTIONS = {
    DeepMask: "DeepMask gives proposals",
    ProposalNetwork: "ProposalNetwork gives proposals",
    PeakResponseClassifier: "PeakResponseClassifier gives labels of images",
}
_MIN_SCORE = 0.3


class PredictionImages(HookBase):
    """
    Draws what the model makes of a few images, for TensorBoard.

    Each picture shows its detections, its masks on the true boxes, and the truth: the second tells
    how the masks of B come along long before there are detections. Colours are those of
    :mod:`~maskx_d2.visualization`.
    """

    def __init__(
        self,
        period: int,
        model: nn.Module,
        dataset: str,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        """
        Args:
            period: iterations from one drawing to the next.
            model: the model that is trained, or its DistributedDataParallel.
            dataset: a registered data set; of its images, some with all sets are taken.
            mapper: turns a dataset dict into the model's input for inference.

        Raises:
            TypeError: if the model gives no detections, such as proposals, which are not drawn.
        """
        for kind, given in _NO_DETECTIONS.items():
            if isinstance(getattr(model, "module", model), kind):
                raise TypeError(
                    f"pictures show detections, but {given}; set VIS_PERIOD (train.vis_period) "
                    "to 0."
                )
        self._period, self._model = period, model
        self._dataset, self._mapper = dataset, mapper
        self._records: list[dict[str, Any]] | None = None

    def after_step(self) -> None:
        """See :meth:`HookBase.after_step`."""
        if (self.trainer.iter + 1) % self._period or not comm.is_main_process():
            return
        if self._records is None:
            self._records = _with_all_sets(self._dataset)
        model = getattr(self._model, "module", self._model)
        model = model.whole if isinstance(model, CachedMaskBranch) else model
        with inference_context(model), torch.no_grad():
            for i, record in enumerate(self._records):
                picture = self._picture(model, record)
                name = f"predictions/{i}_{Path(record['file_name']).name}"
                self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))

    def _picture(self, model: nn.Module, record: dict[str, Any]) -> NDArray[np.uint8]:
        image = read_image(record["file_name"], format="RGB")
        metadata = MetadataCatalog.get(self._dataset)
        keys = ("file_name", "height", "width", "image_id")
        model_input = self._mapper({key: record[key] for key in keys if key in record})
        detected = model([model_input])[0]["instances"].to("cpu")
        panels = {
            "detections": draw_instances(
                image, detected, metadata, min_score=_MIN_SCORE, scale=None
            )
        }
        annotations = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        if annotations and isinstance(model, GeneralizedRCNN) and detected.has("pred_masks"):
            given = _on_true_boxes(model, model_input, annotations)
            panels["masks on true boxes"] = draw_instances(image, given, metadata, scale=None)
        panels["truth"] = draw_annotations(image, annotations, metadata, scale=None)
        return side_by_side(panels)


class BestCheckpointer(hooks.BestCheckpointer):
    """
    Detectron2's hook that keeps the best checkpoint, for trainings that are killed and resumed.

    A resumed training remembers the best figure, and goes on from its last checkpoint; with the
    parent's it would go back to the best. Figure and iteration stand in ``model_best.json``.
    """

    def before_train(self) -> None:
        """See :meth:`HookBase.before_train`."""
        if self.trainer.start_iter > 0 and self._state.is_file():
            said = json.loads(self._state.read_text())
            if said["metric"] == self._val_metric:
                self.best_metric, self.best_iter = said["value"], said["iteration"]

    def _best_checking(self) -> None:
        last = self._state.with_name("last_checkpoint")
        before, best = last.read_text() if last.is_file() else None, self.best_metric
        super()._best_checking()
        if self.best_metric == best or not comm.is_main_process():
            return
        said = {
            "metric": self._val_metric,
            "value": self.best_metric,
            "iteration": self.best_iter,
        }
        if before is None:
            last.unlink(missing_ok=True)
        else:
            _write(last, before)
        _write(self._state, json.dumps(said))

    @property
    def _state(self) -> Path:
        return Path(self._checkpointer.save_dir, f"{self._file_prefix}.json")


def _write(path: Path, text: str) -> None:
    with written_whole(path) as incomplete:
        incomplete.write_text(text, encoding="utf-8")


def _with_all_sets(dataset: str) -> list[dict[str, Any]]:
    """The first images with instances of each set; if these are few, others after them."""
    records: Sequence[dict[str, Any]] = DatasetCatalog.get(dataset)
    split, names = class_split_of(dataset), MetadataCatalog.get(dataset).get("thing_classes")
    sets = split.indices_of_sets(names) if split is not None else {}
    set_of = {i: letter for letter, ids in sets.items() for i in ids}

    def how_many_sets(record: dict[str, Any]) -> int:
        return len({set_of.get(a["category_id"]) for a in record.get("annotations", ())})

    return sorted(records, key=how_many_sets, reverse=True)[:_IMAGES]  # stable


def _on_true_boxes(
    model: GeneralizedRCNN, model_input: dict[str, Any], annotations: Sequence[dict[str, Any]]
) -> Instances:
    boxes = [
        BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
    ]
    classes = torch.tensor([a["category_id"] for a in annotations])
    given = given_instances(model_input, torch.tensor(boxes), classes)
    return rle_inference(model, [model_input], [given])[0]["instances"].to("cpu")
