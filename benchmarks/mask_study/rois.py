"""
What a frozen detector hands to its mask branch, with all that any split or method asks of it.

Training RoIs are kept with their own mask and with those of the objects around them, so that one
pass over the images serves every split. RoIs to measure on are the true boxes and the detections.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torchvision.ops import roi_align
from tqdm import tqdm

from maskx_d2._files import written_whole
from maskx_d2.engine.roi_cache import CachedBatch, CachedRoIs, RoIFiles, RoIWriter
from maskx_d2.modeling import given_instances
from maskx_d2.modeling.mask_rois import ground_truth_rois

FORMAT = 2  # of what is kept
SIDE = 28
OTHERS = 4  # objects around a RoI's own that are kept, those that cover most of it
_BOX = slice(1, 6)  # planes of the targets: the mask, the box and alike colours, the others
_JITTER = 0.2  # of true boxes to train on


class TrainRoIs:
    """A training set's foreground RoIs."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        _check_format(about, folder)
        self._files = RoIFiles(folder / "rois")
        # (R, OTHERS): their categories, -1 for none.
        self._others = np.load(folder / "others.npy")
        # (R,): the same number for the same object.
        self._objects = np.load(folder / "objects.npy")
        self.num_images: int = about["images"]

    def __len__(self) -> int:
        return len(self._files)

    @property
    def classes(self) -> Any:
        """int64 (R,)."""
        return self._files.classes

    def as_many(self, of_a: Any, seed: int) -> Any:
        """
        Which RoIs have a mask where as many objects have one as are of A, whatever they are of.

        Args:
            of_a: bool (K,).
            seed: of the drawing.

        Returns:
            bool (R,).
        """
        objects, first = np.unique(self._objects, return_index=True)
        count = of_a[self.classes[first]].sum()
        drawn = np.random.default_rng(seed).choice(objects, count, replace=False)
        return np.isin(self._objects, drawn)

    def batch(self, rows: Any, has_mask: Any, known: Any) -> CachedBatch:
        """
        Some RoIs as a training without some of the masks sees them.

        Args:
            rows: which.
            has_mask: bool (R,), the RoIs whose mask is there.
            known: bool (K,), the categories whose masks are background for others.
        """
        rows = np.sort(rows)
        masks = self._files.rois(rows[has_mask[rows]])
        rows = rows[~has_mask[rows]]
        boxes, others = self._files.rois(rows), self._others[rows]
        is_known = torch.from_numpy((others >= 0) & known[others])
        planes = boxes.targets[:, _BOX.stop :] & is_known[:, :, None, None]
        packed = torch.cat([boxes.targets[:, _BOX], planes.any(1, keepdim=True)], dim=1)
        return CachedBatch(
            CachedRoIs(masks.features, masks.targets[:, 0], masks.classes),
            CachedRoIs(boxes.features, packed, boxes.classes),
        )


@torch.no_grad()
def collect_training(folder: Path, model: Any, loader: Any, rois: str) -> TrainRoIs:
    """
    Run a model as in training over a data set with all masks, once.

    Args:
        folder: to keep it in; what is there already is used.
        model: with a :class:`BoxSupervision` that looks at colours.
        loader: of batches of training samples, with an end.
        rois: "proposals" or "ground_truth".
    """
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.incomplete")
        model.train()
        heads, writer, images = model.roi_heads, RoIWriter(unfinished / "rois"), 0
        others, objects, count = [], [], 0
        with EventStorage():
            for batch in tqdm(loader, f"{folder.name}: RoIs to train on"):
                inputs, features, targets = _seen(model, batch)
                for target in targets:
                    target.gt_place = torch.arange(len(target))
                    target.gt_object = target.gt_place + count
                    count += len(target)
                if rois == "proposals":
                    proposals, _ = model.proposal_generator(inputs, features, targets)
                    sampled = heads.label_and_sample_proposals(proposals, targets)
                    sampled = [s[s.gt_classes < heads.num_classes] for s in sampled]
                else:
                    sampled = ground_truth_rois(targets, _JITTER)
                masks, around, classes = zip(*map(_around, sampled, targets))
                box = heads.box_supervision.targets(inputs, sampled, targets, SIDE)
                planes = [torch.cat(masks)[:, None], box.packed()[:, :-1], torch.cat(around)]
                writer.write(
                    CachedRoIs(
                        _pooled(heads, features, [s.proposal_boxes for s in sampled]),
                        torch.cat(planes, dim=1),
                        torch.cat([s.gt_classes for s in sampled]),
                    )
                )
                others.append(torch.cat(classes))
                objects.append(torch.cat([s.gt_object for s in sampled]))
                images += len(batch)
        np.save(unfinished / "others.npy", torch.cat(others).numpy())
        np.save(unfinished / "objects.npy", torch.cat(objects).numpy())
        (unfinished / "about.json").write_text(json.dumps({"format": FORMAT, "images": images}))
        unfinished.rename(folder)
    return TrainRoIs(folder)


def _around(rois: Instances, target: Instances) -> tuple[Tensor, Tensor, Tensor]:
    """Of an image's R RoIs: their masks, those of the objects around, and these' categories."""
    all_masks = target.gt_masks.tensor.float()
    boxes = rois.proposal_boxes.tensor
    crops = roi_align(all_masks[None], [boxes], SIDE, aligned=True) >= 0.5  # (R, objects, M, M)
    row = torch.arange(len(boxes))
    own = crops[row, rois.gt_place]
    crops[row, rois.gt_place] = False
    room = crops.new_zeros(len(boxes), OTHERS, SIDE, SIDE)
    crops = torch.cat([crops, room], dim=1)
    classes = torch.cat([target.gt_classes, torch.full((OTHERS,), -1)])
    area, most = crops.sum((2, 3)).topk(OTHERS, dim=1)
    return own, crops[row[:, None], most], torch.where(area > 0, classes[most], -1)


@dataclass
class TestImage:
    """
    An image to measure on.

    Attributes:
        image_id: its own.
        size: height and width of the file.
        true: places of its annotations with a box.
        boxes, classes, scores: of these, and behind them of the detections; boxes in the file.
        features: of the same.
    """

    image_id: int
    size: tuple[int, int]
    true: list[int]
    boxes: Tensor
    classes: Tensor
    scores: Tensor
    features: Tensor


@torch.no_grad()
def collect_testing(
    folder: Path, model: Any, loader: Any, records: dict[int, Any]
) -> list[TestImage]:
    """The true boxes and the detections of a data set's images, each with its features."""
    file = folder.with_suffix(".pth")
    if not file.is_file():
        model.eval()
        heads, found = model.roi_heads, []
        heads.mask_on = False
        for (sample,) in tqdm(loader, f"{folder.name}: RoIs to measure on"):
            record = records[sample["image_id"]]
            images, features, _ = _seen(model, [sample])
            proposals, _ = model.proposal_generator(images, features, None)
            (detected,), _ = heads(images, features, proposals)
            true = [i for i, a in enumerate(record["annotations"]) if not a.get("iscrowd", 0)]
            annotations = [record["annotations"][i] for i in true]
            corners = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
            corners = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
            labels = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
            given = given_instances(sample, corners, labels)
            every = Instances.cat([_plain(given), _plain(detected)])
            size = record["height"], record["width"]
            boxes = every.pred_boxes.clone()
            boxes.scale(size[1] / every.image_size[1], size[0] / every.image_size[0])
            found.append(
                TestImage(
                    sample["image_id"],
                    size,
                    true,
                    boxes.tensor,
                    every.pred_classes,
                    every.scores,
                    _pooled(heads, features, [every.pred_boxes]).half(),
                )
            )
        heads.mask_on = True
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as unfinished:
            torch.save({"format": FORMAT, "images": found}, unfinished)
    kept = torch.load(file, weights_only=False)
    _check_format(kept, file)
    images: list[TestImage] = kept["images"]
    return images


def _check_format(kept: Any, path: Path) -> None:
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise SystemExit(f"{path} is of an earlier version of this study; remove {path.parent}.")


def _plain(instances: Instances) -> Instances:
    kept = {k: instances.get(k) for k in ("pred_boxes", "pred_classes", "scores")}
    return Instances(instances.image_size, **kept)


def _seen(model: Any, batch: list[dict[str, Any]]) -> tuple[Any, Any, list[Instances]]:
    images = model.preprocess_image(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as detectors are trained
        features = model.backbone(images.tensor)
    features = {name: level.float() for name, level in features.items()}
    return images, features, [x["instances"] for x in batch if "instances" in x]


def _pooled(heads: Any, features: dict[str, Tensor], boxes: list[Any]) -> Tensor:
    pooled: Tensor = heads.mask_pooler([features[f] for f in heads.mask_in_features], boxes)
    return pooled


def shuffled(count: int, size: int, seed: int) -> Iterator[Any]:
    """Rows of batches without end: each once, in random order, then again in another."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(0, dtype=np.int64)
    while True:
        if len(rows) < size:
            rows = np.concatenate([rows, rng.permutation(count)])
        yield rows[:size]
        rows = rows[size:]
