"""
ROI heads that train their mask head on what there is: masks, and boxes where there is none.

``SupervisedMasksOnly`` works on ROI heads that call ``self.mask_head(features, instances)``, as all
of detectron2's do.
"""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from detectron2.config import CfgNode
from detectron2.layers import cat
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from .box_supervision import BoxSupervision
from .deep_mask_head import DeepConvUpsampleHead
from .exact_pooling import pool_exactly
from .mask_rois import MASK_ROIS, ground_truth_rois
from .per_roi_mask_head import PerRoIConvUpsampleHead

__all__ = ["SupervisedMasksOnly", "mask_training", "select_supervised"]


def mask_training(cfg: Any) -> dict[str, Any]:
    """Arguments of :class:`SupervisedMasksOnly` from a config, which may lack our keys."""
    ours = cfg.MODEL.get("MASKX", {})
    return {
        "mask_rois": ours.get("MASK_ROIS", "proposals"),
        "mask_roi_jitter": ours.get("MASK_ROI_JITTER", 0.0),
        "box_supervision": BoxSupervision.of_config(cfg),
    }


def _check_head(cfg: Any, mask_head: nn.Module | None) -> None:
    """That the mask head has what the config asks for, which one of detectron2's would ignore."""
    ours = cfg.MODEL.get("MASKX", {})
    if mask_head is None:
        return
    name, trunk = type(mask_head).__name__, ours.get("MASK_TRUNK", "")
    if trunk and not isinstance(mask_head, DeepConvUpsampleHead):
        raise ValueError(
            f"{name} has no place for MODEL.MASKX.MASK_TRUNK '{trunk}'; set "
            "MODEL.ROI_MASK_HEAD.NAME to DeepConvUpsampleHead, or MASK_TRUNK to ''."
        )
    if ours.get("MLP_BRANCH", False) and not hasattr(mask_head, "mlp_branch"):
        raise ValueError(
            f"{name} has no place for the branch of MODEL.MASKX.MLP_BRANCH; set "
            "MODEL.ROI_MASK_HEAD.NAME to MLPConvUpsampleHead, or MLP_BRANCH to False."
        )


def select_supervised(proposals: List[Instances], num_classes: int) -> List[Instances]:
    """
    Keep the foreground RoIs whose ground-truth instance has a mask.

    Args:
        proposals: N images' sampled RoIs with ``gt_classes``; ``gt_has_mask`` is read where it is
            (:class:`PartialMaskDatasetMapper` makes it), else an image with ``gt_masks`` is taken
            to have all of them.
        num_classes: K, the label of the background.

    Returns:
        N images' RoIs, of which each has a mask to learn from. It may be that none has.
    """
    return [p[_is_supervised(p, num_classes)] for p in proposals]


def _is_supervised(proposals: Instances, num_classes: int) -> Tensor:
    """Which of an image's R RoIs are foreground of an instance with a mask: bool (R,)."""
    foreground = _is_foreground(proposals, num_classes)
    if proposals.has("gt_has_mask"):
        return foreground & proposals.gt_has_mask
    return foreground if proposals.has("gt_masks") else torch.zeros_like(foreground)


def _is_foreground(proposals: Instances, num_classes: int) -> Tensor:
    return (proposals.gt_classes >= 0) & (proposals.gt_classes < num_classes)


def _blank_roi(instances: Instances) -> Instances:
    """The image as one RoI of category 0 with an empty mask, for a loss that is not to count."""
    height, width = instances.image_size
    blank = Instances(instances.image_size)
    blank.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, width, height]]))
    blank.gt_classes = torch.zeros(1, dtype=torch.int64)
    blank.gt_masks = BitMasks(torch.zeros(1, height, width, dtype=torch.bool))
    return blank.to(instances.gt_classes.device)


class SupervisedMasksOnly:
    """
    Mixin over ROI heads: RoIs without a mask stay out of the mask head's training.

    A batch without any mask gives a loss of zero, and a gradient of zero to every mask parameter,
    which is what distributed training needs.

    Two options, beside the arguments of the ROI heads that it is mixed into, choose what the mask
    head learns from: where its RoIs are, and whether RoIs without a mask teach it their box.
    """

    training: bool
    num_classes: int
    box_supervision: BoxSupervision | None

    def __init__(
        self,
        *args: Any,
        mask_rois: str = "proposals",
        mask_roi_jitter: float = 0.0,
        box_supervision: BoxSupervision | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            *args, **kwargs: of the ROI heads, a config for one.
            mask_rois: the RoIs that the mask head is trained on: "proposals", those that the box
                head is trained on, as in Mask R-CNN, or "ground_truth", one for each object (of an
                image with more than ``batch_size_per_image``, so many at random), which
                Deep-MAC (Birodkar et al., ICCV 2021) found to carry over to categories without
                masks better.
            mask_roi_jitter: the part of such a RoI's width and height that may be lost: each side
                moves by up to half of it, see :func:`ground_truth_rois`.
            box_supervision: losses of RoIs without a mask; None leaves them out of the training.

        Raises:
            ValueError: if ``mask_rois`` is unknown, or the ROI heads don't pool features for their
                mask head and an option asks for other RoIs than theirs.
        """
        cfg = args[0] if args else kwargs.get("cfg")
        if isinstance(cfg, CfgNode):
            options = mask_training(cfg)
        else:
            options = {
                "mask_rois": mask_rois,
                "mask_roi_jitter": mask_roi_jitter,
                "box_supervision": box_supervision,
            }
        super().__init__(*args, **kwargs)
        self.mask_rois: str = options["mask_rois"]
        self.mask_roi_jitter: float = options["mask_roi_jitter"]
        self.box_supervision = options["box_supervision"]
        self._batch: tuple[ImageList, List[Instances]] | None = None
        self._check_options()
        if isinstance(cfg, CfgNode):
            _check_head(cfg, getattr(self, "mask_head", None))
        pool_exactly(self)  # type: ignore[arg-type]
        if self.mask_on:  # type: ignore[attr-defined]
            # On the mask head and not in one of the methods that call it: whichever ROI heads
            # these are, no stand-in for a missing mask can reach a loss.
            self.mask_head.register_forward_pre_hook(self._drop_unsupervised)  # type: ignore[attr-defined]

    def _check_options(self) -> None:
        if self.mask_rois not in MASK_ROIS:
            raise ValueError(
                f"the mask head can't be trained on '{self.mask_rois}' (MODEL.MASKX.MASK_ROIS); "
                f"choose one of {', '.join(MASK_ROIS)}."
            )
        if not 0 <= self.mask_roi_jitter < 1:
            raise ValueError(
                f"the jitter of RoIs is a part of their size, from 0 to below 1, not "
                f"{self.mask_roi_jitter} (MODEL.MASKX.MASK_ROI_JITTER)."
            )
        if self.mask_roi_jitter and self.mask_rois != "ground_truth":
            raise ValueError(
                "only ground-truth boxes are jittered: set MODEL.MASKX.MASK_ROIS to ground_truth, "
                "or MASK_ROI_JITTER to 0.0."
            )
        if self.mask_rois == "proposals" and self.box_supervision is None:
            return
        head = getattr(self, "mask_head", None)
        pools = getattr(self, "mask_pooler", None) is not None and hasattr(head, "layers")
        if not pools:
            raise ValueError(
                f"{type(self).__name__} with {type(head).__name__} does not pool features for its "
                "mask head, which MODEL.MASKX.MASK_ROIS ground_truth and the box losses "
                "(BOX_…_WEIGHT) need; leave them at their defaults."
            )

    def forward(
        self,
        images: ImageList,
        features: Dict[str, Tensor],
        proposals: List[Instances],
        targets: List[Instances] | None = None,
    ) -> Any:
        """See :meth:`ROIHeads.forward`; what the mask head's options need of a batch is kept."""
        self._batch = (images, targets) if targets is not None else None
        try:
            return super().forward(images, features, proposals, targets)  # type: ignore[misc]
        finally:
            self._batch = None

    def _forward_mask(self, features: Dict[str, Tensor], instances: List[Instances]) -> Any:
        """See :meth:`StandardROIHeads._forward_mask`; what has no mask is not even pooled."""
        if not self.training or not self.mask_on:  # type: ignore[attr-defined]
            return super()._forward_mask(features, instances)  # type: ignore[misc]
        if self.mask_rois == "ground_truth":
            # No more than the box head sees of an image: some have thousands of objects.
            limit: int = self.batch_size_per_image  # type: ignore[attr-defined]
            instances = ground_truth_rois(self._of_batch()[1], self.mask_roi_jitter, limit)
        supervised = select_supervised(instances, self.num_classes)
        # PointRend samples points of RoIs itself and can't do without one.
        if getattr(self, "mask_pooler", None) is None and not any(len(i) for i in supervised):
            blank = [_blank_roi(supervised[0]), *supervised[1:]]
            with EventStorage():  # whose figures don't count either
                losses = super()._forward_mask(features, blank)  # type: ignore[misc]
            get_event_storage().put_scalar("mask_head/num_supervised_rois", 0)
            return {name: 0 * loss for name, loss in losses.items()}
        losses = super()._forward_mask(features, supervised)  # type: ignore[misc]
        if self.box_supervision is not None:
            losses = {**losses, **self._box_losses(features, instances)}
        return losses

    def _box_losses(
        self, features: Dict[str, Tensor], instances: List[Instances]
    ) -> dict[str, Tensor]:
        """Of the foreground RoIs without a mask."""
        box_only = [
            i[_is_foreground(i, self.num_classes) & ~_is_supervised(i, self.num_classes)]
            for i in instances
        ]
        pooled = self.mask_pooler(  # type: ignore[attr-defined]
            [features[f] for f in self.mask_in_features],  # type: ignore[attr-defined]
            [i.proposal_boxes for i in box_only],
        )
        logits = self.mask_logits(pooled, cat([i.gt_classes for i in box_only]))
        assert self.box_supervision is not None
        images, ground_truth = self._of_batch()
        targets = self.box_supervision.targets(images, box_only, ground_truth, logits.shape[-1])
        losses: dict[str, Tensor] = self.box_supervision(logits, targets)
        return losses

    def mask_logits(self, features: Tensor, classes: Tensor) -> Tensor:
        """
        The mask head's logits, without a loss.

        Args:
            features: (R, channels, M/2, M/2) as the mask head takes them.
            classes: int64 (R,), whose masks.

        Returns:
            (R, M, M) float.
        """
        head = self.mask_head  # type: ignore[attr-defined]
        if isinstance(head, PerRoIConvUpsampleHead):
            return head.layers(features, classes)[:, 0]
        logits: Tensor = head.layers(features)
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits[torch.arange(len(logits), device=logits.device), classes]

    def _of_batch(self) -> tuple[ImageList, List[Instances]]:
        if self._batch is None:
            raise RuntimeError(
                f"{type(self).__name__}.forward must call {SupervisedMasksOnly.__name__}.forward, "
                "which keeps the images and their ground truth for the mask head's training."
            )
        return self._batch

    def _drop_unsupervised(self, mask_head: nn.Module, args: tuple[Any, ...]) -> Any:
        features, instances = args
        if not self.training:
            return args
        keep = [_is_supervised(i, self.num_classes) for i in instances]
        num_supervised = sum(int(k.sum()) for k in keep)
        get_event_storage().put_scalar("mask_head/num_supervised_rois", num_supervised)
        if num_supervised < sum(len(i) for i in instances):
            instances = [i[k] for i, k in zip(instances, keep)]
            if isinstance(features, Tensor):  # else a dict of the images' features
                features = features[torch.cat(keep)]
        return features, instances
