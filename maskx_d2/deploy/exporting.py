"""A trained model as a file for TorchScript or ONNX, by detectron2's own tracing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.export import TracingAdapter
from detectron2.structures import Instances
from torch import Tensor, nn

from .._files import written_whole
from ..engine.inference import load_model

__all__ = ["FORMATS", "Exported", "export", "raw_instances", "traceable"]

FORMATS = ("torchscript", "onnx")

#: The first with Einsum and dynamic shapes in all that a Mask R-CNN needs, known to every runtime.
_OPSET = 17

#: Outputs that differ by more are not the same model's: boxes and keypoints in pixels, scores and
#: masks as probabilities. Others, such as categories, must be equal.
_TOLERANCES = {"pred_boxes": 0.1, "pred_keypoints": 0.1, "scores": 0.01, "pred_masks": 0.02}


@dataclass(frozen=True)
class Exported:
    """
    What was written.

    Attributes:
        path: the file.
        outputs: what the model returns, in this order: the fields of detectron2's ``Instances``
            and the size of the image.
        num_instances: how many it found in the image it was made with.
        largest_difference: of all outputs, from those of the model itself; None where ONNX
            Runtime is not installed to compute them.
    """

    path: Path
    outputs: tuple[str, ...]
    num_instances: int
    largest_difference: float | None


def export(
    config_file: str,
    weights: str,
    path: str | os.PathLike[str],
    *,
    image: str,
    format: str = "torchscript",
    opts: Sequence[str] = (),
) -> Exported:
    """
    Write a trained model as a file that runs without Python's detectron2, and compare the two.

    Args:
        config_file: the model's config, ``.yaml`` or ``.py``.
        weights: its checkpoint.
        path: the file to write.
        image: an image file, on which the model should find something: what it does there is
            what is recorded.
        format: one of :data:`FORMATS`.
        opts: overrides of the config.

    Returns:
        What was written. The file takes one image, (3, H, W) float32 of any size, resized and in
        the channel order of the config's ``INPUT.FORMAT``; normalisation is inside. It returns
        boxes in pixels of that image and probabilities of masks on the boxes (R, 1, M, M): pasting
        them into the image is left to the caller, :func:`detectron2.layers.paste_masks_in_image`.

    Raises:
        FileNotFoundError: if a file does not exist.
        ImportError: for ONNX, if the ``onnx`` package is not installed.
        RuntimeError: if the file does not compute what the model does.
        ValueError: if ``format`` is unknown, or the model finds nothing in ``image``; see also
            :func:`~maskx_d2.engine.load_model`.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format '{format}'; choose one of {', '.join(FORMATS)}.")
    if not Path(image).is_file():
        raise FileNotFoundError(f"file '{image}' does not exist.")
    loaded = load_model(config_file, weights, opts)
    model = loaded.model.cpu()
    try:
        pixels = loaded.mapper({"file_name": image})["image"].float()
    except Exception as e:  # image decoders raise what they like
        raise ValueError(f"'{image}' can't be read as an image.") from e
    adapter = traceable(model, pixels)
    with torch.no_grad():
        expected = adapter(pixels)
    names = _output_names(adapter)
    if not len(expected[0]):
        raise ValueError(
            f"the model finds nothing in '{image}', so nothing that it does with an instance "
            "would be recorded; give an image with some, or a lower score threshold."
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = _write_torchscript if format == "torchscript" else _write_onnx
    with written_whole(path) as incomplete:
        with _without_tracers_warnings():
            run = writer(adapter, pixels, names, str(incomplete))
        differences = {} if run is None else _differences(run, adapter, pixels, names)
        wrong = {n: d for n, d in differences.items() if not d <= _TOLERANCES.get(n, 0.0)}
        if wrong:
            by = ", ".join(f"{name} by {difference:.2g}" for name, difference in wrong.items())
            raise RuntimeError(
                f"'{incomplete}' does not compute what the model does: its outputs for '{image}' "
                f"differ, {by} (inf: other instances). It is left there to look at; a "
                "detection at the very threshold may be found by one and not by the other, so try "
                "another image first."
            )
    return Exported(path, names, len(expected[0]), max(differences.values(), default=None))


def raw_instances(model: Any, inputs: list[dict[str, Tensor]]) -> list[dict[str, Instances]]:
    """What a model predicts before masks are pasted into the image; for the tracing adapter."""
    return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]


def traceable(model: nn.Module, image: Tensor) -> TracingAdapter:
    """
    A model as a function from one image to tensors, for ``torch.jit.trace`` and ONNX.

    Args:
        model: a detectron2 model in evaluation mode.
        image: (3, H, W) float32.
    """
    adapter = TracingAdapter(model, [{"image": image}], raw_instances)
    return adapter.eval()  # else the ONNX exporter restores "training", of the model too


def _write_torchscript(
    adapter: TracingAdapter, image: Tensor, names: tuple[str, ...], path: str
) -> Callable[[Tensor], Sequence[Tensor]]:
    del names  # TorchScript returns a plain tuple
    with torch.no_grad():
        traced = torch.jit.trace(adapter, (image,), check_trace=False)
    traced.save(path)
    run: Callable[[Tensor], Sequence[Tensor]] = torch.jit.load(path)
    return run


def _write_onnx(
    adapter: TracingAdapter, image: Tensor, names: tuple[str, ...], path: str
) -> Callable[[Tensor], Sequence[Tensor]] | None:
    try:
        import onnx  # noqa: F401  torch needs it to write the file
    except ImportError as e:
        raise ImportError("ONNX export needs onnx; run: python -m pip install onnx") from e
    with torch.no_grad():
        torch.onnx.export(
            adapter,
            (image,),
            path,
            opset_version=_OPSET,
            # The older exporter goes by the trace, in which detectron2 knows how to keep sizes
            # variable; torch.export stops where RPN asks whether all proposals are finite.
            dynamo=False,
            input_names=["image"],
            output_names=list(names),
            dynamic_axes={"image": {1: "height", 2: "width"}}
            | {name: {0: "instances"} for name in names[:-1]},
        )
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: [
        torch.from_numpy(output) for output in session.run(None, {"image": image.numpy()})
    ]


def _output_names(adapter: TracingAdapter) -> tuple[str, ...]:
    """The adapter flattens a list of a dict of an Instances, whose last tensor is its size."""
    instances = adapter.outputs_schema.schemas[0].schemas[0]
    return (*instances.keys, "image_size")


@torch.no_grad()
def _differences(
    run: Callable[[Tensor], Sequence[Tensor]],
    adapter: TracingAdapter,
    image: Tensor,
    names: Sequence[str],
) -> dict[str, float]:
    """
    The largest difference of each output; infinite where they do not even have the same shape.

    Compared on the image and on a part of it: what a trace takes for a constant shows there.
    """
    _, height, width = image.shape
    largest = dict.fromkeys(names, 0.0)
    for pixels in (image, image[:, : height * 3 // 4, : width * 2 // 3].contiguous()):
        actual, expected = run(pixels), adapter(pixels)
        for name, a, e in zip(names, actual, expected):
            if a.shape != e.shape:
                largest[name] = float("inf")
            elif len(e):
                largest[name] = max(largest[name], float((a.double() - e.double()).abs().max()))
    return largest


@contextmanager
def _without_tracers_warnings() -> Iterator[None]:
    """What they warn of is in detectron2, and is checked afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Exporting aten::index operator of advanced")
        warnings.filterwarnings("ignore", message="Constant folding")
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based")
        yield
