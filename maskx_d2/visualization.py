"""
Pictures of instances, whose colour and outline say what was known of their category in training.

Masks (A): green, solid boxes; boxes only (B): red, dashed; image labels only (C): violet, dotted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import GenericMask, Visualizer
from numpy.typing import NDArray

from .data import has_mask
from .splits import ClassSplit

__all__ = ["SET_COLORS", "draw_annotations", "draw_instances", "readable_scale"]

#: Set → RGB in [0, 1]: green and red as in the paper's figures, as far as that goes with colours
#: that also differ for people who are colour-blind. Simulated (Machado, Oliveira and Fernandes
#: 2009), over a grey image, each two are more than 25 apart in CIELAB for deuteranopia, protanopia
#: and tritanopia; a pure green and a pure red would be 7.
SET_COLORS = {"A": (0.0, 0.6, 0.5), "B": (0.9, 0.25, 0.0), "C": (0.4, 0.3, 1.0)}

# Of boxes: a second cue, for prints without colours as well.
_LINE_STYLES = {SET_COLORS["A"]: "-", SET_COLORS["B"]: "--", SET_COLORS["C"]: ":"}

_Image = NDArray[np.uint8]

_READABLE_SIDE = 640  # pixels; the Visualizer's font grows with the image


def draw_instances(
    image: _Image,
    instances: Instances,
    metadata: Metadata,
    *,
    min_score: float = 0.5,
    labels: bool = True,
    scale: float | None = 1.0,
) -> _Image:
    """
    Draw predicted or ground-truth instances.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: the output of a model (``pred_boxes``, ``pred_classes``, ``scores``, perhaps
            ``pred_masks``), or a training sample's target (``gt_boxes``, ``gt_classes``, perhaps
            ``gt_masks`` and ``gt_has_mask``) on the same (H, W). Of a target, instances without a
            mask are drawn as boxes and labelled "no mask".
        metadata: of the data set: ``thing_classes``, and ``class_split`` for the colours; without
            a split everything is as of set A.
        min_score: predictions below it are left out.
        labels: whether to write category names and scores.
        scale: size of the picture relative to the image; None: small images are enlarged until
            labels can be read, see :func:`readable_scale`.

    Returns:
        (H·scale, W·scale, 3) uint8, RGB.
    """
    instances = instances.to("cpu")
    if instances.has("pred_boxes"):
        instances = instances[instances.scores >= min_score]
        boxes, classes = instances.pred_boxes.tensor, instances.pred_classes
        masks = (
            [np.asarray(m) for m in instances.pred_masks] if instances.has("pred_masks") else None
        )
        scores = instances.scores.tolist()
    else:
        boxes, classes, scores = instances.gt_boxes.tensor, instances.gt_classes, None
        masks = _target_masks(instances)
    return _draw(image, boxes.numpy(), classes.tolist(), masks, scores, metadata, labels, scale)


def draw_annotations(
    image: _Image,
    annotations: list[dict[str, Any]],
    metadata: Metadata,
    *,
    labels: bool = True,
    scale: float | None = 1.0,
) -> _Image:
    """
    Draw the annotations of a dataset dict; an instance without a mask is drawn as its box.

    Args:
        image: (H, W, 3) uint8, RGB.
        annotations: ``dataset_dict["annotations"]``; masks are polygons or RLE.
        metadata, labels, scale: see :func:`draw_instances`.

    Returns:
        (H·scale, W·scale, 3) uint8, RGB.
    """
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return _draw(
        image,
        np.asarray(boxes, dtype=float).reshape(-1, 4),
        [a["category_id"] for a in annotations],
        [a["segmentation"] if has_mask(a) else None for a in annotations],
        None,
        metadata,
        labels,
        scale,
    )


def readable_scale(image: _Image) -> float:
    """How much larger a picture must be for detectron2's labels to be readable on it; 1 or more."""
    return max(1.0, _READABLE_SIDE / max(image.shape[:2]))


class _Visualizer(Visualizer):
    """
    Detectron2's, with labels inside the picture and below those that they would cover, with a line
    style for each colour, and with masks that keep their holes.
    """

    def __init__(self, image: _Image, metadata: Metadata, *, scale: float) -> None:
        super().__init__(image, metadata, scale=scale)
        self._labels: list[Any] = []  # where they are, in pixels of the picture, y upwards

    def overlay_instances(
        self, *, masks: list[Any] | None = None, assigned_colors: list[Any], **kwargs: Any
    ) -> Any:
        """See :meth:`Visualizer.overlay_instances`, which fills holes twice."""
        if masks is not None:
            masks = self._convert_masks(masks)
            for i, mask in enumerate(masks):
                if mask.has_holes:
                    self.draw_binary_mask(mask.mask, assigned_colors[i])
                    masks[i] = GenericMask([], *mask.mask.shape)
        return super().overlay_instances(masks=masks, assigned_colors=assigned_colors, **kwargs)

    def draw_box(
        self, box_coord: Any, alpha: float = 0.5, edge_color: Any = "g", line_style: str = "-"
    ) -> Any:
        """See :meth:`Visualizer.draw_box`."""
        line_style = _LINE_STYLES.get(edge_color, line_style)
        return super().draw_box(box_coord, alpha, edge_color, line_style)

    def draw_text(self, text: str, position: Any, **kwargs: Any) -> Any:
        """See :meth:`Visualizer.draw_text`."""
        output = super().draw_text(text, position, **kwargs)
        axes = output.ax
        label, renderer = axes.texts[-1], output.canvas.get_renderer()
        frame = axes.get_window_extent(renderer)

        def moved(dx: float, dy: float) -> Any:
            x, y = axes.transData.transform(label.get_position())
            label.set_position(axes.transData.inverted().transform((x + dx, y + dy)))
            label.update_bbox_position_size(renderer)  # which is done when it is drawn, else
            return label.get_bbox_patch().get_window_extent(renderer)

        place = moved(0, 0)
        if place.x1 > frame.x1:
            place = moved(max(frame.x1 - place.x1, frame.x0 - place.x0), 0)
        # From the top down: each label that is covered moves this one below it.
        for other in sorted(self._labels, key=lambda box: -box.y1):
            covered = place.x0 < other.x1 and other.x0 < place.x1
            if covered and place.y0 < other.y1 and other.y0 < place.y1:
                below = other.y0 - place.y1
                if place.y0 + below < frame.y0:
                    break  # there is no room
                place = moved(0, below)
        self._labels.append(place)
        return output


def _set_of(name: str, split: ClassSplit | None) -> str:
    """The set of a category; A without a split, or if the split doesn't name it."""
    return next((s for s, names in (split.sets if split else {}).items() if name in names), "A")


def _target_masks(instances: Instances) -> list[Any] | None:
    if not instances.has("gt_masks"):
        return None
    masks = instances.gt_masks
    each = list(masks.tensor.numpy()) if hasattr(masks, "tensor") else list(masks.polygons)
    if instances.has("gt_has_mask"):
        each = [m if real else None for m, real in zip(each, instances.gt_has_mask.tolist())]
    return each


def _draw(
    image: _Image,
    boxes: NDArray[Any],
    classes: list[int],
    masks: list[Any] | None,
    scores: list[float] | None,
    metadata: Metadata,
    labels: bool,
    scale: float | None,
) -> _Image:
    scale = readable_scale(image) if scale is None else scale
    split = metadata.get("class_split")
    thing_classes = metadata.get("thing_classes") or []
    # A model may have more categories than its data set names.
    names = [thing_classes[c] if c < len(thing_classes) else f"category {c}" for c in classes]
    colors = [SET_COLORS[_set_of(n, split)] for n in names]
    texts = [f"{n} {s:.0%}" for n, s in zip(names, scores)] if scores is not None else list(names)
    visualizer = _Visualizer(image, metadata, scale=scale)
    masked = [i for i in range(len(boxes)) if masks is not None and masks[i] is not None]
    box_only = [i for i in range(len(boxes)) if i not in set(masked)]
    if masks is not None and scores is None:
        for i in box_only:
            texts[i] += " (no mask)"
    for group in (masked, box_only):
        if group:
            visualizer.overlay_instances(
                boxes=boxes[group],
                labels=[texts[i] for i in group] if labels else None,
                masks=[masks[i] for i in group] if masks is not None and group is masked else None,
                assigned_colors=[colors[i] for i in group],
            )
    picture: _Image = visualizer.get_output().get_image()
    return picture
