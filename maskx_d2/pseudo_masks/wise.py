"""
Instances for categories of which only image labels are known, after "Where are the Masks"
(Laradji, Vazquez, Schmidt, BMVC 2019, arXiv 1907.01430).

Real boxes and masks of these categories are neither used nor copied; all other annotations stay.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from .._files import sha256_of
from ..engine.inference import load_model, settings_hash
from .grabcut import require_opencv
from .job import (
    Report,
    Split,
    check_paths,
    finished_before,
    split_of,
    write_output,
)
from .label_plan import LabelPlan
from .parallel import run_tasks
from .progress import ProgressFile
from .proposals import read_proposals
from .wise_worker import InstanceFinder, WiseParameters, check_is_classifier

__all__ = ["find_instances"]


def find_instances(
    config_file: str,
    weights: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    split: Split,
    proposals: str | os.PathLike[str] | None = None,
    parameters: WiseParameters | None = None,
    workers: int = 1,
    opts: Sequence[str] = (),
    progress: bool = True,
) -> Report:
    """
    Write a copy of a COCO instances file in which categories with image labels have instances.

    A classifier says where in an image it sees each of its labels, and a proposal there is the
    instance; see :class:`~maskx_d2.pseudo_masks.wise_worker.InstanceFinder`. Each label of an image
    has at least one. They stand behind the annotations of the file, whose real instances of these
    categories are left out, with ids beyond all of the file's. The mask is compressed RLE and
    ``bbox`` its box. They also say ``mask_source``, see
    :class:`~maskx_d2.pseudo_masks.wise_worker.InstanceFinder`; ``mask_model``, the first 12 digits
    of the SHA-256 of the classifier's checkpoint; ``score``; and ``mask_weight``, by which a
    training with :class:`PartialMaskDatasetMapper` counts the mask. How they were made stands in
    the file under ``"pseudo_masks"``. All else is copied.

    Finished images are noted in ``<output>.progress.jsonl``, and a call that was killed goes on
    from there, as :func:`generate_pseudo_masks` does. The result depends neither on kills nor on
    ``workers``.

    Args:
        config_file, weights, opts: of the classifier, see :func:`load_model`.
        json_file: path of the file. Labels of its images are what they say under
            ``image_labels``, and the categories of their annotations.
        image_root: the folder of its images.
        output: path of the copy.
        split: its ``labels_only`` are the categories that get instances.
        proposals: COCO results with masks, of any category, of the file's images, such as
            DeepMask's ``coco_proposals.json``. None: all masks are GrabCut's.
        parameters: None: the defaults.
        workers: how many processes look at images.
        progress: whether to show progress bars.

    Raises:
        FileNotFoundError: if a file or folder does not exist.
        ImportError: if OpenCV is missing.
        TypeError: if the model is no :class:`~maskx_d2.image_labels.PeakResponseClassifier`.
        ValueError: if a file can't be used, the split has no ``labels_only``, the model does not
            know one of them, or ``output`` is a file that is not of such a call.
    """
    parameters = parameters or WiseParameters()
    if workers < 1:
        raise ValueError(f"workers is {workers}, but must be at least 1.")
    check_paths(json_file, image_root, output)
    if proposals is not None and not Path(proposals).is_file():
        raise FileNotFoundError(f"file '{proposals}' does not exist.")
    class_split, names = split_of(json_file, split, progress)
    if not class_split.labels_only:
        raise ValueError(
            f"split '{class_split.name}' has no categories with image labels only, to which "
            "instances could be given; list them as 'labels_only'."
        )
    sets = {i: class_split.set_of(name) for i, name in names.items()}
    finder = _finder(
        config_file,
        weights,
        tuple(opts),
        {i: name for i, name in names.items() if sets[i] == "C"},
        parameters,
    )
    described = {
        "method": "wise",
        "model_sha256": finder.model_sha256,
        "settings_sha256": settings_hash(config_file, opts),
        "proposals_sha256": None if proposals is None else sha256_of(proposals),
        **asdict(parameters),
        "opencv": require_opencv().__version__,  # another version's GrabCut may find other masks
        "split": {"name": class_split.name, "labels_only": sorted(class_split.labels_only)},
        "source_sha256": sha256_of(json_file),
    }
    before = finished_before(output, described)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    progress_path = Path(f"{os.fspath(output)}.progress.jsonl")
    if before is not None and not progress_path.exists():
        return before
    plan = LabelPlan(json_file, sets, progress)
    with ProgressFile(progress_path, described) as done:
        skipped = _compute(plan, done, image_root, proposals, finder, workers, progress)
        report = write_output(json_file, output, described, plan, done, skipped)
        if not skipped:
            progress_path.unlink()
    return report


def _finder(
    config_file: str,
    weights: str,
    opts: tuple[str, ...],
    names: dict[int, str],
    parameters: WiseParameters,
) -> InstanceFinder:
    """What works on images, of a classifier that is found to know the categories."""
    loaded = load_model(config_file, weights, opts, detector=False)
    check_is_classifier(loaded.model)
    known = {name: i for i, name in enumerate(loaded.metadata.get("thing_classes") or ())}
    unknown = sorted(name for name in names.values() if name not in known)
    if unknown:
        raise ValueError(
            f"the classifier does not know {len(unknown)} of the {len(names)} categories with "
            f"image labels only: {', '.join(unknown[:10])}{', …' if unknown[10:] else ''}; train "
            "it on data with these names."
        )
    classes = {category_id: known[name] for category_id, name in names.items()}
    model_sha256 = sha256_of(PathManager.get_local_path(weights))
    return InstanceFinder(config_file, weights, opts, model_sha256, classes, parameters)


def _compute(
    plan: LabelPlan,
    done: ProgressFile,
    image_root: str | os.PathLike[str],
    proposals: str | os.PathLike[str] | None,
    finder: InstanceFinder,
    workers: int,
    progress: bool,
) -> list[tuple[int, str]]:
    """Do what is not done; the images that can't be used, in the file's order, and why."""
    left = [image for image in plan.labels if image not in done]
    best = {}
    if proposals is not None and left:
        sizes = {plan.image_ids[image]: plan.sizes[image] for image in left}
        per_image = finder.parameters.proposals_per_image
        best = read_proposals(proposals, sizes, per_image=per_image, progress=progress)
        if not best:
            raise ValueError(
                f"{proposals} has no proposal for any of the {len(left)} images; name a file of "
                "these images."
            )
    skipped = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in workers, or there may be other last bits
    try:
        with tqdm(
            total=len(plan.labels),
            initial=len(plan.labels) - len(left),
            desc="WISE",
            unit="image",
            disable=not progress,
        ) as bar:
            for result in run_tasks(plan.tasks(done, image_root, best), finder, workers):
                if result.error is None:
                    done.add(result.task.image, result.masks)
                else:
                    skipped.append((result.task.image, result.error))
                bar.update()
    finally:
        torch.set_num_threads(threads)
    return sorted(skipped)
