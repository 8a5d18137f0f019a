"""Training a mask branch on kept RoIs, and measuring its masks."""

from __future__ import annotations

import contextlib
import io
from itertools import islice
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools import mask as mask_util
from torch import Tensor, nn
from tqdm import tqdm

from maskx_d2 import ClassSplit
from maskx_d2.data.partial_masks import encode_mask
from maskx_d2.engine.roi_cache import CachedBatch, CachedRoIs
from maskx_d2.engine.roi_training import CachedMaskBranch
from maskx_d2.evaluation import SplitCOCOEvaluator
from maskx_d2.modeling.box_supervision import BoxTargets
from maskx_d2.postprocessing import paste_masks_as_rles

from .methods import Method
from .rois import TestImage, TrainRoIs, shuffled
from .transfers import ObjectPrior, PixelContrast


class Branch:
    """A model whose mask branch is made and trained as a method says."""

    def __init__(self, model: Any, method: Method, seed: int) -> None:
        """
        Args:
            model: a Mask^X model with a trained detector, whose mask head is new.
        """
        self.model, self.method, self.seed = model, method, seed
        heads = model.roi_heads
        if method.vectors == "random":
            generator = torch.Generator().manual_seed(seed)
            learnt = heads.box_predictor.cls_score.weight[: heads.num_classes]
            vectors = torch.randn(*learnt.shape, generator=generator)
            # As long as those of the classifier: T has one initialisation and one learning rate.
            length = learnt.norm(dim=1).mean()
            heads.class_embedding = nn.functional.normalize(vectors, dim=1) * length.detach()
        dim = heads._class_vectors().shape[1]
        heads.weight_transfer = method.transfer(dim, heads.mask_head.out_channels)
        self.front: ObjectPrior | PixelContrast | None = None  # of the mask head
        if method.prior and method.contrast:
            raise ValueError("a method has an object prior or contrast, not both")
        if method.prior:
            self.front = ObjectPrior(heads)
        elif method.contrast:
            self.front = PixelContrast(heads)

    def train(
        self, rois: TrainRoIs, has_mask: Any, known: Any, iterations: int, cfg: Any, name: str
    ) -> None:
        """
        Args:
            rois: to train on.
            has_mask, known: see :meth:`TrainRoIs.batch`.
            iterations: of as many RoIs as the config's number of images has.
            cfg: a LazyConfig, for its optimizer, schedule and batches.
            name: for the progress bar.
        """
        model, decay = self.model.train(), cfg.optimizer.weight_decay
        others = [*model.roi_heads.mask_head.parameters()]
        others += self.front.parameters() if self.front is not None else ()
        of_transfer = self.method.weight_decay
        optimizer = torch.optim.AdamW(
            [
                {"params": others},
                {
                    "params": model.roi_heads.weight_transfer.parameters(),
                    "weight_decay": decay if of_transfer is None else of_transfer,
                },
            ],
            lr=cfg.optimizer.lr,
            weight_decay=decay,
        )
        schedule = instantiate(cfg.lr_multiplier)
        size = round(len(rois) / rois.num_images * cfg.dataloader.train.total_batch_size)
        batches = (
            rois.batch(rows, has_mask, known) for rows in shuffled(len(rois), size, self.seed)
        )
        branch = CachedMaskBranch(model)
        with EventStorage() as storage:
            for i, batch in enumerate(tqdm(islice(batches, iterations), name, iterations)):
                for group in optimizer.param_groups:
                    group["lr"] = cfg.optimizer.lr * schedule(i / iterations)
                lesson = self._lesson(batch)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    if self.front is not None:
                        lesson = CachedBatch(
                            *map(self._through_front, (lesson.masks, lesson.boxes))
                        )
                    losses = branch(lesson)
                    if isinstance(self.front, PixelContrast):
                        losses["contrast"] = self.method.contrast * self.front.loss(
                            batch.masks, batch.boxes
                        )
                    loss = sum(losses.values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                storage.step()
        model.eval()

    def _lesson(self, batch: CachedBatch) -> CachedBatch:
        """What is learnt of a batch; ``boxes`` are without masks."""
        return CachedBatch(batch.masks, batch.boxes if self.method.boxes else None)

    def _through_front(self, rois: CachedRoIs | None) -> CachedRoIs | None:
        """As the mask head sees them: features (R, C, H, W) → (R, C, H, W)."""
        if rois is None or self.front is None:
            return rois
        return CachedRoIs(self.front(rois.features, rois.classes), rois.targets, rois.classes)

    @torch.no_grad()
    def probabilities(self, features: Tensor, classes: Tensor) -> Tensor:
        """Of the masks of R RoIs: (R, M, M)."""
        features = features.float()
        if self.front is not None:
            features = self.front(features, classes)
        masks: Tensor = self.model.roi_heads.mask_logits(features, classes).sigmoid()
        return masks


class Fixed:
    """A floor: the same mask for every box."""

    def __init__(self, mask: Tensor) -> None:
        """
        Args:
            mask: (M, M), probabilities.
        """
        self.mask = mask

    def probabilities(self, features: Tensor, _classes: Tensor) -> Tensor:
        """As :meth:`Branch.probabilities`."""
        return self.mask.expand(len(features), -1, -1)


class Taught(Branch):
    """A branch that learns B's masks of a teacher, as often as that is sure of them."""

    def __init__(self, model: Any, method: Method, seed: int, teacher: Branch) -> None:
        super().__init__(model, method, seed)
        self.teacher = teacher
        self.generator = torch.Generator().manual_seed(seed)

    def _lesson(self, batch: CachedBatch) -> CachedBatch:
        assert batch.masks is not None and batch.boxes is not None
        masks, boxes = batch.masks, batch.boxes
        found = self.teacher.probabilities(boxes.features, boxes.classes)
        targets = BoxTargets.unpacked(boxes.targets)
        if self.method.boxes.get("background_weight"):
            found = found * ~targets.background
        inside = found >= 0.5
        # As `maskx label --score-as-weight` has it: the mean probability of the mask's pixels.
        score = (found * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        sure = torch.rand(len(score), generator=self.generator) < score
        taught = CachedBatch(
            CachedRoIs(
                torch.cat([masks.features, boxes.features[sure]]),
                torch.cat([masks.targets, inside[sure]]),
                torch.cat([masks.classes, boxes.classes[sure]]),
            ),
            CachedRoIs(boxes.features[~sure], boxes.targets[~sure], boxes.classes[~sure]),
        )
        return super()._lesson(taught)


def measured(
    branch: Branch | Fixed,
    images: list[TestImage],
    records: dict[int, Any],
    dataset: str,
    split: ClassSplit,
) -> dict[str, Any]:
    """
    Masks of true boxes and of detections, pasted into their images.

    Returns:
        ``segm_A`` and ``segm_B``, figures of :class:`SplitCOCOEvaluator`, and ``rows``: of each
        true box its image's id, its category and its mask's IoU.
    """
    evaluator = SplitCOCOEvaluator(dataset, tasks=("segm",), class_split=split)
    evaluator.reset()
    rows: list[tuple[int, int, float]] = []
    for image in images:
        masks = branch.probabilities(image.features, image.classes)
        pasted = paste_masks_as_rles(masks, image.boxes, image.size)
        n = len(image.true)
        annotations = [records[image.image_id]["annotations"][i] for i in image.true]
        for annotation, rle in zip(annotations, pasted.rles):
            truth = encode_mask(annotation["segmentation"], *image.size)
            iou = float(mask_util.iou([rle], [truth], [0])[0, 0])
            rows.append((image.image_id, annotation["category_id"], iou))
        detected = Instances(
            image.size,
            pred_boxes=Boxes(image.boxes[n:]),
            pred_classes=image.classes[n:],
            scores=image.scores[n:],
            pred_masks=pasted[n:],
        )
        evaluator.process([{"image_id": image.image_id}], [{"instances": detected}])
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluator.evaluate()
    return {key: results[key] for key in ("segm_A", "segm_B")} | {"rows": rows}
