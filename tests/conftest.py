"""What the tests share: tiny models, hand-made samples and data sets that leave no trace."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger
from PIL import Image

from maskx_d2 import model_zoo

torch.set_num_threads(1)  # the models are too small for more

NUM_CLASSES = 4
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_log_handler_left() -> Iterator[None]:
    """Trainings make detectron2 log to the stdout of their test, which is closed when it ends."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "maskx_d2")]
    before = [(log, list(log.handlers), log.propagate, log.level) for log in loggers]
    yield
    for log, handlers, propagate, level in before:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
    setup_logger.cache_clear()  # else it would not set them up again


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    """Detectron2's losses write scalars, which needs a storage."""
    with EventStorage() as storage:
        yield storage


@pytest.fixture
def no_registration_left() -> Iterator[None]:
    """Undo every registration of a test, so that tests don't meet each other's data sets."""
    before = set(DatasetCatalog.list())
    metadata_before = set(MetadataCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
    for name in set(MetadataCatalog.list()) - metadata_before:
        MetadataCatalog.remove(name)


def tiny_cfg(name: str = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *opts: object):
    """A packaged config, narrowed until it builds and steps in a fraction of a second."""
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
            *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_HEADS.NUM_CLASSES", NUM_CLASSES),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
            *("DATALOADER.NUM_WORKERS", 0, "INPUT.MIN_SIZE_TEST", 64, "SEED", 1),
            *("INPUT.MIN_SIZE_TRAIN", "(64,)"),
            *opts,
        ]
    )
    return cfg


def make_targets(has_mask: list[bool], classes: list[int], size: int = 64) -> Instances:
    """Ground truth of one image: a diagonal of squares, whose masks are their upper halves."""
    target = Instances((size, size))
    boxes = [[4.0 + 8 * i, 4.0 + 8 * i, 24.0 + 8 * i, 24.0 + 8 * i] for i in range(len(classes))]
    target.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    target.gt_classes = torch.tensor(classes, dtype=torch.int64)
    masks = torch.zeros(len(classes), size, size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[int(y0) : int(y0 + y1) // 2, int(x0) : int(x1)] = True
    target.gt_masks = BitMasks(masks)
    target.gt_has_mask = torch.tensor(has_mask, dtype=torch.bool)
    return target


def make_batch(*targets: Instances) -> list[dict]:
    """Training input of a model: one random image for each target."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(
                0, 256, (3, *t.image_size), generator=generator, dtype=torch.uint8
            ),
            "instances": t,
        }
        for t in targets
    ]


def write_coco(
    folder: Path, num_images: int = 4, categories: tuple[str, ...] = ("cat", "dog", "cup", "car")
) -> tuple[Path, Path]:
    """
    A COCO data set with one square object of each category an image.

    Category ids have gaps, as COCO's do. Returns the JSON file and the image folder.
    """
    images, annotations = [], []
    for i in range(num_images):
        image = Image.new("RGB", (64, 48), (40 * i % 255, 90, 120))
        for c in range(len(categories)):
            x, y = 2 + 14 * c, 4 + 5 * i
            image.paste((255 - 50 * c, 60 * c, 30), (x, y, x + 12, y + 20))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 3 * c + 1,
                    "bbox": [x, y, 12, 20],
                    "segmentation": [[x, y, x + 12, y, x + 12, y + 20, x, y + 20]],
                    "area": 240,
                    "iscrowd": 0,
                }
            )
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 48})
    names = [{"id": 3 * c + 1, "name": name} for c, name in enumerate(categories)]
    json_file = folder / "annotations.json"
    json_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": names})
    )
    return json_file, folder


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder under DETECTRON2_DATASETS with COCO's photographs, or a skip that says so."""
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    if not (root / "coco" / "annotations" / "instances_train2017.json").exists():
        message = "needs COCO (coco/annotations, coco/train2017) under DETECTRON2_DATASETS"
        if os.getenv("MASKX_REQUIRE_PHOTOGRAPHS"):
            pytest.fail(message)
        pytest.skip(message)
    return root


@contextmanager
def changed(tensor: torch.Tensor, by: float = 1.0) -> Iterator[None]:
    """Temporarily change a parameter in place."""
    with torch.no_grad():
        before = tensor.clone()
        tensor += by
        yield
        tensor.copy_(before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A folder for DETECTRON2_DATASETS with a few images of the shapes data set."""
    script = REPOSITORY / "datasets" / "make_shapes.py"
    spec = importlib.util.spec_from_file_location("make_shapes", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("datasets")
    module.make_shapes(root, num_images={"train": 24, "val": 6, "test": 6}, progress=False)
    return root
