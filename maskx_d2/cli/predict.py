"""``maskx predict``: a trained model's predictions, as pictures and as a COCO file."""

from __future__ import annotations

import argparse
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from .._counted import counted
from ..data.datasets import NotRegisteredError, check_registered
from ..engine import Predictor
from ..engine.coco_predictions import CocoPredictions
from ..panels import captioned, side_by_side
from ..visualization import draw_annotations
from .inputs import VIDEOS, Frame, expand
from .videos import Video, VideoFile

__all__ = ["add_parser"]

_SHOWN = 20  # files that can't be used

_EXAMPLES = """\
examples:
  maskx predict --config-file output/config.yaml --weights output/model_final.pth \\
      --output pictures street.jpg holiday/ 'photos/*.png' clip.mp4
  maskx predict --config-file output/config.yaml --weights output/model_final.pth \\
      --output pictures --dataset coco_2017_val_voc2nonvoc --limit 20
  # beside another model, only two categories, and everything as a COCO file:
  maskx predict --config-file output/config.yaml --weights output/model_final.pth \\
      --compare baseline/config.yaml baseline/model_final.pth --categories zebra,giraffe \\
      --output pictures --json predictions.json zoo/

The exit status is 0 if all went well, 1 if images can't be read, 2 for a mistake in the command.
"""


def add_parser(commands: Any) -> None:
    """Add the sub-command to the ``maskx`` command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="draw predictions on images and videos, or write them as a COCO file",
        description="Draw a trained model's predictions: categories that had masks in training (A) "
        "in green, boxes only (B) in red and dashed, image labels only (C) in violet and dotted. "
        "With --dataset, ground truth stands beside them. Class-agnostic proposals (DeepMask, "
        "detectron2's ProposalNetwork) are of one category, object; pictures show them after "
        "non-maximum suppression.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "inputs", nargs="*", help="images, videos, folders of them, or patterns in quotes"
    )
    parser.add_argument("--config-file", required=True, help="the model's config, .yaml or .py")
    parser.add_argument("--weights", required=True, help="the model's checkpoint, .pth or .pkl")
    parser.add_argument("--output", help="folder for the pictures and videos")
    parser.add_argument("--json", metavar="FILE", help="write all predictions as a COCO file")
    parser.add_argument("--dataset", help="a registered data set, in place of files")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--confidence", type=float, default=0.5, help="lowest score kept (0.5)")
    parser.add_argument(
        "--categories", action="append", metavar="NAME,...", help="keep only these (all)"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("CONFIG", "WEIGHTS"),
        help="another model, whose predictions are drawn beside these",
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="size of the pictures; small images are enlarged until labels can be read",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if bool(args.inputs) == bool(args.dataset):
        args.parser.error("give either images or --dataset")
    if args.output is None and args.json is None:
        args.parser.error("give --output for pictures, --json for a COCO file, or both")
    if args.limit is not None and args.limit < 1:
        args.parser.error("--limit must be at least 1")
    if not 0 <= args.confidence <= 1:
        args.parser.error("--confidence must be between 0 and 1")
    if args.scale is not None and not args.scale > 0:
        args.parser.error("--scale must be more than 0")
    args.parser.check_folder("--output", args.output)
    args.parser.check_file("--json", args.json)
    try:
        files = expand(args.inputs)
        if args.dataset:
            check_registered(args.dataset)
    except (FileNotFoundError, NotRegisteredError) as e:
        args.parser.error(str(e).rstrip("."))
    return _Predictions(args).run(files)


class _Predictions:
    """One run of the command."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        try:
            records = DatasetCatalog.get(args.dataset) if args.dataset else []
        except FileNotFoundError as e:
            args.parser.error(f"data set '{args.dataset}' is not there: {e}")
        except (ValueError, KeyError, AssertionError) as e:
            reason = str(e.args[0] if e.args else repr(e)).rstrip(".")
            args.parser.error(f"data set '{args.dataset}' can't be read: {reason}")
        self._records: list[dict[str, Any]] = records[: args.limit]
        chosen = [n.strip() for names in args.categories or [] for n in names.split(",")]
        try:
            models = [
                Predictor(*files, confidence=args.confidence, categories=chosen or None)
                for files in ((args.config_file, args.weights), args.compare)
                if files is not None
            ]
        except (FileNotFoundError, ValueError) as e:
            args.parser.error(str(e).rstrip("."))
        metadata = models[0].metadata
        if args.dataset:
            metadata = MetadataCatalog.get(args.dataset)
            for heading, model in zip(_headings(args), models):
                if model.proposes:
                    continue
                names = model.metadata.get("thing_classes")
                heads = getattr(model.model, "roi_heads", None)
                if (
                    len(metadata.thing_classes) != heads.num_classes
                    if names is None and heads is not None
                    else names is not None and list(names) != list(metadata.thing_classes)
                ):
                    args.parser.error(
                        f"the categories of model {heading} are not those of '{args.dataset}'"
                    )
                if names is None or metadata.get("class_split") is not None:
                    model.metadata = metadata
        self._models = dict(zip(_headings(args), models))
        if chosen and all(model.proposes for model in models):
            args.parser.error("--categories is for detectors; proposals are of no category")
        self._truth = next((m.metadata for m in models if not m.proposes), metadata)
        self._coco = CocoPredictions(models[0].metadata if models[0].proposes else metadata)
        self._folder = None if args.output is None else Path(args.output)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._pictures = self._videos = 0
        self._errors: list[str] = []

    def run(self, files: list[str]) -> int:
        videos = [f for f in files if Path(f).suffix.lower() in VIDEOS]
        frames = [Frame(f, f) for f in files if f not in videos][: self._args.limit]
        for record in self._records:
            frames.append(Frame(record["file_name"], record["file_name"], _about(record)))
        # Images of different folders may share a name.
        for i, frame in enumerate(tqdm(frames, "predict", unit="image", disable=not frames)):
            picture = self._predict(frame, self._records[i] if self._records else None)
            if picture is not None and self._folder is not None:
                name = f"{i:06d}_{Path(frame.name).stem}.png"
                Image.fromarray(picture).save(self._folder / name)
                self._pictures += 1
        for i, video in enumerate(videos):
            self._video(video, len(frames) + i)
        if self._args.json is not None:
            self._coco.save(self._args.json)
        return self._report()

    def _predict(
        self, frame: Frame, record: dict[str, Any] | None = None
    ) -> NDArray[np.uint8] | None:
        """The picture of an image, None if none is wanted or the image can't be read."""
        found: dict[str, Instances] = {}
        try:
            for heading, model in self._models.items():
                if not found or self._folder is not None:
                    found[heading] = model(frame.image, rles=True)
        except Exception as e:  # image decoders raise what they like
            if isinstance(frame.image, np.ndarray) or _is_readable(frame.image):
                raise  # then it is not the image's fault
            self._errors.append(f"'{frame.name}' can't be read ({str(e).strip().rstrip('.')}).")
            return None
        first = next(iter(found.values()))
        self._coco.add(self._listed_name(frame), first, **frame.about)
        if self._folder is None:
            return None
        scale = self._args.scale
        panels = {}
        for heading, instances in found.items():
            picture = self._models[heading].draw(frame.image, instances, scale=scale)
            if not len(instances):
                picture = captioned(picture, f"no detection above {self._args.confidence:g}")
            panels[heading] = picture
        if record is not None and "annotations" in record:
            panels["ground truth"] = draw_annotations(
                Predictor.rgb(frame.image), record["annotations"], self._truth, scale=scale
            )
        return side_by_side(panels) if len(panels) > 1 else next(iter(panels.values()))

    def _video(self, path: str, number: int) -> None:
        try:
            source = Video(path)
        except (ImportError, ValueError) as e:
            self._errors.append(str(e))
            return
        written = (self._folder or Path()) / f"{number:06d}_{Path(path).stem}.mp4"
        bar = tqdm(desc=Path(path).name, unit="frame", total=source.length or None)
        with bar, source, VideoFile(written, source.rate) as video:
            i = -1
            for i, image in enumerate(islice(source, self._args.limit)):
                picture = self._predict(Frame(image, path, {"frame": i}))
                try:
                    if picture is not None:
                        video.add(picture)
                except OSError as e:
                    self._errors.append(str(e))
                    return
                bar.update()
        if i < 0 and self._args.limit != 0:
            self._errors.append(f"no frame of video '{path}' can be read; convert it to H.264.")
            return
        self._videos += 1

    def _listed_name(self, frame: Frame) -> str:
        """As COCO has it: relative to the folder of a data set's images."""
        root = MetadataCatalog.get(self._args.dataset).get("image_root") if self._records else None
        path = Path(frame.name).absolute()
        if root is not None and path.is_relative_to(Path(root).absolute()):
            return path.relative_to(Path(root).absolute()).as_posix()
        return frame.name

    def _report(self) -> int:
        if self._folder is not None:
            films = f" and {counted(self._videos, 'video')}" if self._videos else ""
            print(f"{counted(self._pictures, 'picture')}{films} in {self._folder}")
        if self._args.json is not None:
            print(f"{counted(len(self._coco), 'instance')} in {self._args.json}")
        if not self._errors:
            return 0
        print(f"{counted(len(self._errors), 'file')} can't be used:", file=sys.stderr)
        for error in self._errors[:_SHOWN]:
            print(f"  {error}", file=sys.stderr)
        if len(self._errors) > _SHOWN:
            print(f"  ... and {len(self._errors) - _SHOWN} more", file=sys.stderr)
        return 1


def _headings(args: argparse.Namespace) -> list[str]:
    """What tells the models apart: the parts of their paths that differ, and what follows."""
    paths = [Path(args.weights)] + ([Path(args.compare[1])] if args.compare else [])
    parts = [path.absolute().parts for path in paths]
    if len({path.name for path in paths}) == 1:  # all are model_final.pth, say
        parts = [each[:-1] for each in parts]
    if len(set(parts)) < len(parts):
        return [f"{i}: {path}" for i, path in enumerate(paths, start=1)]
    common = len(parts[0]) - 1
    if len(parts) > 1:
        common = len(Path(os.path.commonpath([Path(*each) for each in parts])).parts)
    return ["/".join(each[common:]) or each[-1] for each in parts]


def _about(record: dict[str, Any]) -> dict[str, Any]:
    return {"id": record["image_id"]} if "image_id" in record else {}


def _is_readable(path: str) -> bool:
    try:
        Predictor.rgb(path)
    except Exception:  # as above
        return False
    return True
