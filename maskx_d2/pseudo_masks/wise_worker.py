"""The instances of an image's labels, in this process or in a worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from numpy.typing import NDArray
from pycocotools import mask as mask_util
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.inference import LoadedModel, load_model
from ..image_labels import PeakResponseClassifier
from .boxes import whole_box
from .grabcut import grabcut_mask
from .matching import best_covering, response_box, unlike
from .task import LabelTask, Mask, Result, why_unusable
from .worker import Parameters

__all__ = ["InstanceFinder", "WiseParameters", "check_is_classifier"]

_SEEDS = 2**31
# A response is strongest in the middle of its object, and GrabCut takes what is around its box for
# background: measured in docs/IMAGE_LABELS.md.
_OBJECT_PER_RESPONSE = 2.0


@dataclass(frozen=True)
class WiseParameters:
    """
    How instances are found.

    Attributes:
        min_response: the logit from which on a peak is an instance. An image's label has its
            largest peak at any rate.
        max_iou: of two masks of a category in an image, above which they are of one instance.
        proposals_per_image: how many are looked at, the best.
        grabcut: where no proposal covers a peak.

    Raises:
        ValueError: if one is out of its range.
    """

    min_response: float = 4.0
    max_iou: float = 0.3
    proposals_per_image: int = 100
    grabcut: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        for name, fits, range_ in (
            ("min_response", np.isfinite(self.min_response), "a number"),
            ("max_iou", 0 <= self.max_iou <= 1, "between 0 and 1"),
            ("proposals_per_image", self.proposals_per_image >= 1, "at least 1"),
        ):
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {range_}.")


class _Found(NamedTuple):
    """A peak's mask: its RLE with ``counts`` in bytes, what it is of, and its score."""

    rle: dict[str, Any]
    source: str
    score: float


@dataclass(frozen=True)
class InstanceFinder:
    """
    Finds an image's instances: called with a task, it returns what became of it.

    A peak of a label's response map is an instance. Its mask is a proposal, see
    :func:`~maskx_d2.pseudo_masks.matching.best_covering`, and ``mask_source`` says ``"wise"``.
    Where no proposal covers the peak, it is GrabCut's of a box twice as large as the peak's
    response, ``"wise+grabcut"``; and where that finds nothing, the whole box, ``"wise+box"``. Of
    masks that are much alike only that of the largest peak stays.

    ``score`` is the probability that the classifier gives the label at the peak, and
    ``mask_weight`` as much, but 0 of a whole box, which then counts as a box. A proposal's own
    score says nothing of the label.

    It can be pickled, and loads the classifier once in each process.

    Attributes:
        config_file, weights, opts: see :func:`load_model`.
        model_sha256: of the weights.
        classes: category id of the JSON file → contiguous id of the classifier.
        parameters: how instances are found.
    """

    config_file: str
    weights: str
    opts: tuple[str, ...]
    model_sha256: str
    classes: dict[int, int]
    parameters: WiseParameters

    def __call__(self, task: LabelTask) -> Result:
        """The instances of one image."""
        loaded = _load(self.config_file, self.weights, self.opts)
        record = {"file_name": task.file_name, "height": task.height, "width": task.width}
        try:
            model_input = loaded.mapper(record)
            image = np.ascontiguousarray(read_image(task.file_name, format="BGR"))
        except Exception as e:  # image decoders raise what they like
            return Result(task, [], why_unusable(task, e))
        classes = [self.classes[category_id] for category_id in task.categories]
        peaks = loaded.model.peaks(model_input, classes, self.parameters.min_response)
        _, height, width = model_input["image"].shape
        points = peaks.points * torch.tensor([task.width / width, task.height / height])
        reach = loaded.model.stride / 2 * task.height / height
        masks, scores = _decoded(task), [p.score for p in task.proposals]
        found = []
        for category_id, class_id in zip(task.categories, classes):
            of_class = []
            for i in (peaks.classes == class_id).nonzero()[:, 0].tolist():
                number = best_covering(masks, scores, points[i].tolist(), reach)
                if number is None:
                    response = _in_size(peaks.map(i), image.shape[:2])
                    rle, source = self._by_grabcut(image, response, task.image)
                else:
                    counts = task.proposals[number].counts.encode("ascii")
                    rle = {"size": [task.height, task.width], "counts": counts}
                    source = "wise"
                of_class.append(_Found(rle, source, float(peaks.responses[i].sigmoid())))
            found += [self._instance(category_id, one) for one in self._distinct(of_class)]
        return Result(task, [Mask(i, *one) for i, one in enumerate(found)])

    def _by_grabcut(
        self, image: NDArray[np.uint8], response: NDArray[np.float32], seed: int
    ) -> tuple[dict[str, Any], str]:
        """The RLE of what GrabCut finds in a response's box, and what it is of."""
        box = response_box(response, _OBJECT_PER_RESPONSE)
        grabcut = asdict(self.parameters.grabcut)
        mask, source = grabcut_mask(image, box, **grabcut, seed=seed % _SEEDS), "wise+grabcut"
        if mask is None:
            mask, source = whole_box(box, *image.shape[:2]), "wise+box"
        return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)), source

    def _distinct(self, found: list[_Found]) -> list[_Found]:
        """One for each object; they come by falling response, as the classifier gives them."""
        rles = [one.rle for one in found]
        ious = np.asarray(mask_util.iou(rles, rles, [0] * len(rles)))
        return [found[i] for i in unlike(ious, self.parameters.max_iou)]

    def _instance(self, category_id: int, found: _Found) -> tuple[str, dict[str, Any]]:
        """A mask's RLE counts, and what its annotation says beside them."""
        score = round(found.score, 4)
        return found.rle["counts"].decode("ascii"), {
            "category_id": category_id,
            "bbox": mask_util.toBbox(found.rle).tolist(),
            "area": float(mask_util.area(found.rle)),
            "score": score,
            "mask_source": found.source,
            "mask_weight": 0.0 if found.source == "wise+box" else score,
            "mask_model": self.model_sha256[:12],
        }


def check_is_classifier(model: nn.Module) -> None:
    """
    Raises:
        TypeError: if a model is not what finds peaks.
    """
    if not isinstance(model, PeakResponseClassifier):
        raise TypeError(
            f"finding labels in images needs a PeakResponseClassifier, not {type(model).__name__}; "
            "see docs/IMAGE_LABELS.md."
        )


@lru_cache(1)
def _load(config_file: str, weights: str, opts: tuple[str, ...]) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(config_file, weights, opts, detector=False)


def _in_size(response: Tensor, size: tuple[int, ...]) -> NDArray[np.float32]:
    """A map of an image in the image's own size."""
    if response.shape != size:
        response = F.interpolate(response[None, None], size, mode="bilinear", antialias=True)[0, 0]
    return response.numpy()


def _decoded(task: LabelTask) -> NDArray[np.bool_]:
    """The proposals, (S, H, W)."""
    size = [task.height, task.width]
    if not task.proposals:
        return np.zeros((0, *size), dtype=np.bool_)
    rles = [{"size": size, "counts": p.counts.encode("ascii")} for p in task.proposals]
    return mask_util.decode(rles).transpose(2, 0, 1).view(np.bool_)  # they are 0 and 1
