"""Models that return run lengths, and evaluations that ask them to, against detectron2's own."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from maskx_d2 import model_zoo
from maskx_d2.engine import MaskXTrainer, lazy_main
from maskx_d2.evaluation import MaskProbe, SplitCOCOEvaluator, rle_evaluation
from maskx_d2.postprocessing import RLEMasks, rle_inference, rle_masks
from maskx_d2.visualization import draw_instances

pytestmark = pytest.mark.usefixtures("no_registration_left")

ALL = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
CASCADE = ("MODEL.ROI_HEADS.NAME", "MaskXCascadeROIHeads", "MODEL.MASKX.TRANSFER_INPUT", "cls")
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
C4 = ("MODEL.ROI_HEADS.NAME", "MaskXRes5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"])
C4 += ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"])
C4 += ("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]])
C4 += ("MODEL.ROI_MASK_HEAD.NUM_CONV", 0, "MODEL.RESNETS.DEPTH", 50, "MODEL.RPN.HEAD_NAME")
C4 += ("StandardRPNHead", "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
KEYPOINTS = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,))
STOCK_HEADS = ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
STOCK_HEADS += ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")


class Wrapped(nn.Module):
    """What DistributedDataParallel looks like from outside."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module(*args)


def build(*opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *ALL, *opts))


def images():
    sizes = {"height": 95, "width": 131}, {}  # with and without a size to return masks in
    return [{"image": torch.rand(3, 64, 72) * 255, "image_id": i, **s} for i, s in enumerate(sizes)]


def assert_same(actual, expected):
    assert len(actual) == len(expected) > 0 and actual.image_size == expected.image_size
    assert list(actual.get_fields()) == list(expected.get_fields())
    assert isinstance(actual.pred_masks, RLEMasks)
    assert actual.pred_masks.shape == (len(actual), *actual.image_size)
    assert torch.equal(actual.pred_masks.tensor, expected.pred_masks)
    assert torch.equal(actual.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(actual.scores, expected.scores)
    assert torch.equal(actual.pred_classes, expected.pred_classes)


@torch.no_grad()
@pytest.mark.parametrize(
    "variant",
    [(), CASCADE, C4, STOCK_HEADS],
    ids=["maskx", "cascade", "C4", "stock heads"],
)
@pytest.mark.parametrize("wrap", [nn.Module.eval, Wrapped], ids=["bare", "DDP"])
def test_the_same_masks_and_bitmaps_again_afterwards(variant, wrap):
    model = wrap(build(*variant).eval())
    batch = images()
    expected = model(batch)
    with rle_masks(model), rle_masks(model):
        actual = model(batch)
    for one, other in zip(actual, expected):
        assert_same(one["instances"], other["instances"])
    assert any(e["instances"].pred_masks.any() for e in expected), "the control: there are pixels"
    afterwards = model(batch)[0]["instances"].pred_masks
    assert torch.equal(afterwards, expected[0]["instances"].pred_masks)


@torch.no_grad()
def test_given_boxes_and_raw_outputs():
    model = build().eval()
    batch = images()[:1]

    def given():  # detectron2 scales the boxes that it is given in place
        boxes = Boxes(torch.tensor([[3.0, 4.5, 40.2, 50.0], [60, 60, 72, 64]]))
        fields = {"pred_boxes": boxes, "pred_classes": torch.tensor([1, 2])}
        return [Instances((64, 72), **fields, scores=torch.ones(2))]

    (expected,) = model.inference(batch, given())
    with rle_masks(model):
        (actual,) = model.inference(batch, detected_instances=given())
        (raw,) = model.inference(batch, given(), do_postprocess=False)
    assert expected["instances"].pred_masks.any()
    assert_same(actual["instances"], expected["instances"])
    assert_same(rle_inference(model, batch, given())[0]["instances"], expected["instances"])
    assert raw.pred_masks.shape == (2, 1, 28, 28) and isinstance(raw.pred_masks, torch.Tensor)


@torch.no_grad()
def test_test_time_augmentation():
    sizes = ("TEST.AUG.MIN_SIZES", (48, 64), "TEST.AUG.MAX_SIZE", 80, "TEST.AUG.ENABLED", True)
    cfg = tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *sizes, *ALL)
    model = GeneralizedRCNNWithTTA(cfg, build_model(cfg).eval())
    batch = [{"image": torch.randint(0, 256, (3, 64, 72), dtype=torch.uint8)}]
    batch[0].update({"height": 95, "width": 131})
    expected = model(batch)[0]["instances"]
    with rle_masks(model):
        actual = model(batch)[0]["instances"]
    assert_same(actual, expected)
    assert isinstance(model(batch)[0]["instances"].pred_masks, torch.Tensor)


@torch.no_grad()
def test_models_that_stay_as_they_are():
    class OwnInference(GeneralizedRCNN):
        def inference(self, *args, **kwargs):
            return super().inference(*args, **kwargs)

    panoptic = build("MODEL.META_ARCHITECTURE", "PanopticFPN").eval()
    theirs = build().eval()
    theirs.__class__ = OwnInference
    for model in (panoptic, theirs):
        with rle_masks(model):
            assert isinstance(model(images())[0]["instances"].pred_masks, torch.Tensor)
    no_masks = build(*STOCK_HEADS, "MODEL.MASK_ON", False).eval()
    with rle_masks(no_masks):
        assert not no_masks(images())[0]["instances"].has("pred_masks")
    with rle_masks(nn.Identity()):
        pass
    given = Instances((64, 72), pred_boxes=Boxes(torch.tensor([[3.0, 4, 40, 50]])))
    given.pred_classes = torch.tensor([1])
    (found,) = rle_inference(panoptic, images()[:1], [given])
    assert isinstance(found["instances"].pred_masks, RLEMasks)


@torch.no_grad()
def test_an_error_leaves_the_model_as_it_was():
    model = build().eval()
    with pytest.raises(KeyError), rle_masks(model):
        model([{}])
    assert "inference" not in vars(model)


@torch.no_grad()
def test_nothing_found():
    model = build("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0).eval()
    with rle_masks(model):
        found = model(images())[0]["instances"]
    assert len(found) == 0 and found.pred_masks.shape == (0, 95, 131)
    assert found.pred_masks.tensor.shape == (0, 95, 131)


@pytest.fixture
def pets(tmp_path):
    json_file, folder = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(folder))
    DatasetCatalog.get("pets")
    return tmp_path


def evaluate(model, folder, evaluator_class, *opts):
    """The figures, and the text of the file with COCO's results."""
    cfg = tiny_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("pets",), *opts])
    loader = MaskXTrainer.build_test_loader(cfg, "pets")
    evaluator = evaluator_class("pets", ("bbox", "segm"), output_dir=str(folder))
    with rle_evaluation(model, evaluator):
        results = inference_on_dataset(model, loader, evaluator)
    return results, (folder / "coco_instances_results.json").read_text()


@pytest.mark.parametrize("variant", [(), C4, KEYPOINTS], ids=["maskx", "C4", "keypoints"])
def test_complete_results_are_those_of_detectron2(pets, variant, monkeypatch):
    model = build(*variant)
    stock, stock_file = evaluate(model, pets / "stock", COCOEvaluator)
    # Nothing that makes or encodes a bitmap of the whole image is called.
    monkeypatch.delattr("detectron2.layers.mask_ops.paste_masks_in_image")
    monkeypatch.delattr("pycocotools.mask.encode")
    ours, file = evaluate(model, pets / "ours", SplitCOCOEvaluator)
    results = json.loads(file)
    assert results == json.loads(stock_file) and len(results) > 20
    assert file == stock_file or variant is KEYPOINTS, "the order of a result's keys"
    assert len({r["segmentation"]["counts"] for r in results}) > 10
    for task, figures in stock.items():
        np.testing.assert_equal(ours[task], figures)
    assert torch.load(pets / "ours" / "instances_predictions.pth") == torch.load(
        pets / "stock" / "instances_predictions.pth"
    )


class Seen(COCOEvaluator):
    """An evaluator of someone else's, which may want bitmaps."""

    def process(self, inputs, outputs):
        self.seen = {type(o["instances"].pred_masks) for o in outputs}
        super().process(inputs, outputs)


class SeenSplit(SplitCOCOEvaluator):
    def process(self, inputs, outputs):
        self.seen = {type(o["instances"].pred_masks) for o in outputs}
        super().process(inputs, outputs)


@pytest.mark.parametrize("theirs", [Seen, SeenSplit])
def test_evaluators_of_others_are_given_bitmaps(pets, theirs):
    model = build()
    cfg = tiny_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("pets",)])
    ours, other = SplitCOCOEvaluator("pets", ("bbox",)), theirs("pets", ("segm",))
    MaskXTrainer.test(cfg, model, DatasetEvaluators([ours, other]))
    assert other.seen == {torch.Tensor}
    by_bitmaps = other._predictions
    # Who asks for RLEs gets them; detectron2's evaluator can read them too.
    with rle_masks(model):
        MaskXTrainer.test(cfg, model, [other])
    assert other.seen == {RLEMasks}
    assert other._predictions == by_bitmaps and by_bitmaps is not other._predictions


@pytest.fixture
def seen_types(monkeypatch):
    """The types of masks that the evaluator of this package has been given."""
    seen = []
    process = SplitCOCOEvaluator.process

    def spy(self, inputs, outputs):
        seen.extend(type(o["instances"].pred_masks) for o in outputs)
        process(self, inputs, outputs)

    monkeypatch.setattr(SplitCOCOEvaluator, "process", spy)
    return seen


@pytest.mark.parametrize("probe", [False, True])
def test_the_trainers_evaluation_is_without_bitmaps(pets, seen_types, probe):
    cfg = tiny_cfg()
    opts = ["DATASETS.TEST", ("pets",), "OUTPUT_DIR", str(pets), "TEST.MASK_PROBE", probe, *ALL]
    cfg.merge_from_list(opts)
    results = MaskXTrainer.test(cfg, build())
    assert seen_types == [RLEMasks] * 4
    assert ("mask_probe" in results) == probe


def test_the_evaluation_of_lazy_configs_is_without_bitmaps(pets, seen_types):
    cfg = model_zoo.get_config("shapes/maskx.py")
    cfg.model.roi_heads.num_classes = 4
    cfg.dataloader.test.dataset.names = cfg.dataloader.evaluator.dataset_name = "pets"
    cfg.dataloader.test.num_workers = 0
    cfg.train.output_dir = str(pets)
    cfg.train.mask_probe = True
    LazyConfig.save(cfg, str(pets / "config.yaml"))
    model = build()
    assert "bbox" in lazy_main._evaluate(LazyConfig.load(str(pets / "config.yaml")), model)
    assert seen_types == [RLEMasks] * 4


def test_the_probe_measures_the_same_by_bitmaps(pets, monkeypatch):
    """One image's box lies beside the image, so that a mask is missing."""
    cfg = tiny_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("pets",)])
    model = build()
    DatasetCatalog.get("pets")

    def rows(inference):
        probe = MaskProbe("pets", model, output_dir=str(pets))
        probe._inference = inference or probe._inference
        inference_on_dataset(model, MaskXTrainer.build_test_loader(cfg, "pets"), probe)
        return json.loads((pets / "mask_probe.json").read_text())

    by_rles = rows(None)
    assert by_rles == rows(model.inference)
    assert sum(row["iou"] for row in by_rles) > 0


@torch.no_grad()
def test_the_same_picture():
    from detectron2.data import MetadataCatalog

    model = build().eval()
    batch = images()[:1]
    metadata = MetadataCatalog.get("four_things").set(thing_classes=["a", "b", "c", "d"])
    image = np.zeros((95, 131, 3), dtype=np.uint8)
    expected = draw_instances(image, model(batch)[0]["instances"], metadata, min_score=0.2)
    with rle_masks(model):
        found = model(batch)[0]["instances"]
    assert 0 < (found.scores >= 0.2).sum() < len(found)
    actual = draw_instances(image, found, metadata, min_score=0.2)
    assert np.array_equal(actual, expected) and actual.any()
