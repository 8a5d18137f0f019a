#!/usr/bin/env python
"""
Categories by their names alone, on photographs: VOC's 20, which training does not name.

A model whose classifier and T see text embeddings learns boxes and masks of COCO's other 60
categories; the 20 are in its images, as background. Then it is given the names of all 80. What it
knows of the 20 is asked on their true boxes: how often the name is the right one, among 80 and
among the 20, and how good the mask is. A control has the 20 vectors dealt out to the wrong names;
another model learns boxes of all 80. A run that was stopped goes on::

    python benchmarks/never_trained.py --embedding-file datasets/embeddings/clip.npy \\
        --seeds 1 2 3 -- INPUT.MIN_SIZE_TRAIN "(240,)" SOLVER.MAX_ITER 400

What stands behind ``--`` is for ``train_net.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import maskx_d2  # noqa: F401  first: it keeps quiet what users can't act on

# isort: split
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, BoxMode
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from maskx_d2.data import class_split_of
from maskx_d2.data.dataset_file import register_datasets_of_file
from maskx_d2.data.datasets import thing_classes_of
from maskx_d2.engine import LoadedModel, load_model
from maskx_d2.evaluation import MaskProbe
from maskx_d2.modeling import load_class_embedding, set_vocabulary

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "coco" / "nonvoc2voc" / "open_vocabulary_R_50_FPN_1x.yaml"
TRAIN, TEST = "coco_2017_train_nonvoc2voc", "coco_2017_val_nonvoc2voc"  # B: VOC's 20
COLUMNS = ("right of 80", "right of 20", "mask AR", "box as mask, AR")


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--embedding-file", type=Path, required=True, help="rows for the 80 names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("output/never_trained"))
    parser.add_argument("opts", nargs="*", help="of train_net.py, behind --")
    args = parser.parse_args()
    args.output = args.output.resolve()
    args.output.mkdir(parents=True, exist_ok=True)
    datasets = write_datasets(args.output)
    register_datasets_of_file(datasets)
    names = thing_classes_of(TEST)
    vectors = torch.as_tensor(load_class_embedding(args.embedding_file, names))
    np.save(args.output / "vectors.npy", vectors.numpy())
    sidecar = {"categories": names}  # rows by name, also for the 60
    (args.output / "vectors.json").write_text(json.dumps(sidecar), encoding="utf-8")
    rows: dict[str, list[list[float]]] = {}
    for seed in args.seeds:
        sixty = train(args, seed, "photographs60", 60, datasets)
        eighty = train(args, seed, TRAIN, 80, datasets)
        for name, model, given in (
            ("never trained", sixty, vectors),
            ("never trained, wrong vectors", sixty, misdealt(vectors, names, seed)),
            ("boxes of all 80 trained", eighty, vectors),
        ):
            print(f"seed {seed}, {name} …", flush=True)
            set_vocabulary(model.model, names, given)
            rows.setdefault(name, []).append(asked(model))
    table = [
        [name, *(f"{mean(v):.1f} ± {stdev(v) if v[1:] else 0:.1f}" for v in zip(*found))]
        for name, found in rows.items()
    ]
    heads = [f"{len(args.seeds)} seed(s); VOC's 20, in %", *COLUMNS]
    print(tabulate(table, heads, "pipe", disable_numparse=True))


def write_datasets(folder: Path) -> Path:
    """A training set of the 60 categories that B has not, as a file of data sets."""
    metadata = MetadataCatalog.get(TRAIN.removesuffix("_nonvoc2voc"))
    source = Path(metadata.json_file)
    content = json.loads(source.read_text(encoding="utf-8"))
    split = class_split_of(TRAIN)
    assert split is not None
    kept = {c["id"] for c in content["categories"] if c["name"] in split.with_masks}
    content["categories"] = [c for c in content["categories"] if c["id"] in kept]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
    (folder / "photographs60.json").write_text(json.dumps(content), encoding="utf-8")
    images = str(Path(metadata.image_root).resolve())
    path = folder / "datasets.yaml"  # JSON is yaml
    said = {"photographs60": {"json": "photographs60.json", "images": images}}
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


def train(
    args: argparse.Namespace, seed: int, data: str, num_classes: int, datasets: Path
) -> LoadedModel:
    """A run of train_net.py, unless it is done; its model."""
    folder = args.output / f"seed{seed}" / data
    weights = folder / "model_final.pth"
    opts = [
        *("DATASETS.TRAIN", f"('{data}',)", "DATASETS.TEST", "()", "SEED", str(seed)),
        *("MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes)),
        *("MODEL.MASKX.EMBEDDING_FILE", str(args.output / "vectors.npy")),
        *("OUTPUT_DIR", str(folder), *args.opts),
    ]
    vectors = hashlib.sha256((args.output / "vectors.npy").read_bytes()).hexdigest()
    about, said = folder / "options.json", json.dumps([opts, vectors])
    if about.is_file() and about.read_text() != said:
        raise SystemExit(f"{folder} is of other options or vectors; choose another --output.")
    if not weights.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        about.write_text(said)
        argv = [sys.executable, str(ROOT / "train_net.py"), "--resume", "--config-file"]
        print(f"{folder} …", flush=True)
        with open(folder / "out.txt", "w") as out:
            status = subprocess.run(
                [*argv, str(CONFIG), *opts],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"MASKX_DATASETS": str(datasets)},
            ).returncode
        if status:
            raise SystemExit(f"exit status {status}; see {folder / 'out.txt'}")
    return load_model(str(CONFIG), str(weights), opts)


def misdealt(vectors: Tensor, names: list[str], seed: int) -> Tensor:
    """The vectors, where none of B is at its own place."""
    split = class_split_of(TEST)
    assert split is not None
    of_b = np.array([i for i, name in enumerate(names) if name in split.boxes_only])
    rng = np.random.default_rng(seed)
    while True:
        dealt = rng.permutation(of_b)
        if not (dealt == of_b).any():
            break
    vectors = vectors.clone()
    vectors[of_b] = vectors[dealt]
    return vectors


def asked(loaded: LoadedModel) -> list[float]:
    """The figures of :data:`COLUMNS` for set B, in percent."""
    probe = MaskProbe(TEST, loaded.model)
    records = DatasetCatalog.get(TEST)
    inputs = [[loaded.mapper(dict(r))] for r in tqdm(records, unit="image", desc="reading")]
    masks = inference_on_dataset(loaded.model, inputs, probe)
    right = named_rightly(loaded.model, inputs, records)
    return [
        *(100 * share for share in right),
        masks["mask_probe_B"]["AR_inst"],
        masks["box_as_mask_B"]["AR_inst"],
    ]


@torch.no_grad()
def named_rightly(
    model: nn.Module, inputs: list[list[dict]], records: list[dict]
) -> tuple[float, float]:
    """How many true boxes of B the classifier names rightly, among all and among B."""
    split = class_split_of(TEST)
    assert split is not None
    of_b = [i for i, name in enumerate(thing_classes_of(TEST)) if name in split.boxes_only]
    heads = model.roi_heads
    found = []
    for (x,), record in zip(tqdm(inputs, unit="image", desc="naming"), records):
        given = [
            a for a in record["annotations"] if a["category_id"] in of_b and not a.get("iscrowd")
        ]
        if not given:
            continue
        boxes = Boxes([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in given])
        height, width = x["image"].shape[1:]
        boxes.scale(width / record["width"], height / record["height"])
        features = model.backbone(model.preprocess_image([x]).tensor)
        pooled = heads.box_pooler(
            [features[f] for f in heads.box_in_features], [boxes.to(model.device)]
        )
        scores = heads.box_predictor(heads.box_head(pooled))[0][:, :-1].cpu()  # not background
        true = torch.tensor([a["category_id"] for a in given])
        among = torch.tensor(of_b)
        found.append(
            torch.stack(
                [scores.argmax(1) == true, among[scores[:, among].argmax(1)] == true], dim=1
            )
        )
    all_80, of_20 = torch.cat(found).double().mean(0).tolist()
    return all_80, of_20


if __name__ == "__main__":
    main()
