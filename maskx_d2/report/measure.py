"""A model's figures on a data set, kept beside it for the next report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from numpy.typing import NDArray

from .._files import written_whole
from ..data import class_split_of
from ..data.dataset_hash import dataset_hash
from ..engine.inference import LoadedModel, settings_hash
from ..evaluation import MaskProbe, SplitCOCOEvaluator
from ..postprocessing import rle_masks
from .runs import Run

__all__ = ["Measured", "measure"]

logger = logging.getLogger(__name__)

_VERSION = 1  # of what is kept
_KEPT = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class Measured:
    """
    A model's figures.

    Attributes:
        results: task (``bbox``, ``segm_B``, ``mask_probe_A``, ...) → metric → percent.
        precision: task → (10, 101, K), COCOeval's for all areas, -1 without ground truth.
        probe: an instance each, see :class:`MaskProbe`; empty if the model can't be given boxes.
        detections: ``image_id``, ``category_id`` (contiguous), ``bbox`` (XYWH) and ``score`` each.
    """

    results: dict[str, dict[str, float]]
    precision: dict[str, NDArray[np.float32]]
    probe: list[dict[str, Any]]
    detections: list[dict[str, Any]]


class _Recorder(SplitCOCOEvaluator):
    """Also keeps the precision of every category, and the boxes."""

    precision: dict[str, NDArray[np.float32]]
    detections: list[dict[str, Any]]

    def reset(self) -> None:
        super().reset()
        self.precision, self.detections = {}, []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        super().process(inputs, outputs)
        for image in self._predictions[-len(inputs) :]:
            self.detections += [{k: found[k] for k in _KEPT} for found in image["instances"]]

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is not None:
            everything = coco_eval.eval["precision"][:, :, :, 0, -1]
            of_each = np.full((*everything.shape[:2], len(class_names or ())), -1, dtype=np.float32)
            for i, name in enumerate(class_names or ()):
                position = self._positions(coco_eval.params.catIds, frozenset([name]))
                if position:
                    of_each[..., i] = everything[..., position[0]]
            self.precision[iou_type] = of_each
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def measure(run: Run, loaded: LoadedModel, dataset: str, *, tasks: tuple[str, ...]) -> Measured:
    """
    Evaluate a model, or take what an earlier report has kept in the folder ``report`` of the run.

    Args:
        run: where the model is from.
        loaded: the model.
        dataset: a registered data set, with a ground truth.
        tasks: ``bbox`` and perhaps ``segm``.
    """
    folder = run.weights.parent / "report" / run.weights.stem / dataset
    about = {"version": _VERSION, "tasks": list(tasks), "key": _key(run, dataset)}
    if _is_kept(folder, about):
        logger.info(f"{run.name}: the figures on {dataset} are those of {folder}")
        return _read(folder)
    with contextlib.ExitStack() as stack:
        if not _can_be_written(folder):
            logger.warning(f"{run.name}: {folder} can't be written, so the figures are not kept.")
            folder = Path(stack.enter_context(TemporaryDirectory()))
        _evaluate(folder, loaded, dataset, tasks)
        with written_whole(folder / "about.json") as path:
            path.write_text(json.dumps(about), encoding="utf-8")
        return _read(folder)


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _read(folder: Path) -> Measured:
    with np.load(folder / "precision.npz") as file:
        precision = {name: file[name] for name in file.files}
    return Measured(
        json.loads((folder / "results.json").read_text()),
        precision,
        json.loads((folder / "mask_probe.json").read_text()),
        json.loads((folder / "detections.json").read_text()),
    )


def _key(run: Run, dataset: str) -> str:
    """What the figures follow from."""
    digest = hashlib.sha256(run.weights.read_bytes())
    digest.update(settings_hash(str(run.config_file)).encode())
    split = class_split_of(dataset)
    if split is not None:
        digest.update(json.dumps({s: sorted(names) for s, names in split.sets.items()}).encode())
    digest.update(dataset_hash(DatasetCatalog.get(dataset)).encode())
    return digest.hexdigest()


def _is_kept(folder: Path, about: dict[str, Any]) -> bool:
    try:
        kept: dict[str, Any] = json.loads((folder / "about.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return kept == about


def _evaluate(folder: Path, loaded: LoadedModel, dataset: str, tasks: tuple[str, ...]) -> None:
    (folder / "about.json").unlink(missing_ok=True)
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("json_file"):
        _record(folder, loaded, dataset, tasks, _Recorder(dataset, tasks=tasks))
        return
    # Detectron2 makes a COCO file of such a data set, and names it in the metadata.
    with TemporaryDirectory() as scratch:
        try:
            recorder = _Recorder(dataset, tasks=tasks, output_dir=scratch, allow_cached_coco=False)
            _record(folder, loaded, dataset, tasks, recorder)
        finally:
            metadata.__dict__.pop("json_file", None)


def _record(
    folder: Path, loaded: LoadedModel, dataset: str, tasks: tuple[str, ...], recorder: _Recorder
) -> None:
    evaluators: list[Any] = [recorder]
    (folder / "mask_probe.json").write_text("[]")
    if "segm" in tasks:
        evaluators.append(MaskProbe(dataset, loaded.model, output_dir=str(folder)))
    loader = build_detection_test_loader(
        DatasetCatalog.get(dataset), mapper=loaded.mapper, num_workers=1
    )
    with rle_masks(loaded.model):
        results = inference_on_dataset(loaded.model, loader, DatasetEvaluators(evaluators))
    (folder / "results.json").write_text(json.dumps(results))
    np.savez_compressed(folder / "precision.npz", **recorder.precision)  # type: ignore[arg-type]
    (folder / "detections.json").write_text(json.dumps(recorder.detections))
