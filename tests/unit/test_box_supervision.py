"""RoIs without a mask that teach the mask head their box, and RoIs at ground-truth boxes."""

import copy

import pytest
import torch
from conftest import make_batch, make_targets, tiny_cfg
from detectron2.modeling import build_model
from detectron2.structures import ImageList, PolygonMasks

pytestmark = pytest.mark.usefixtures("storage")

MASKX = "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml"
AGNOSTIC = "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml"
BOX_LOSSES = ("MODEL.MASKX.BOX_PROJECTION_WEIGHT", 1.0, "MODEL.MASKX.BOX_AFFINITY_WEIGHT", 0.5)
BACKGROUND = ("MODEL.MASKX.BOX_BACKGROUND_WEIGHT", 1.0)
GROUND_TRUTH = ("MODEL.MASKX.MASK_ROIS", "ground_truth")


def build(config, *opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(config, *opts))


def losses(model, batch):
    torch.manual_seed(1)
    return model.train()(copy.deepcopy(batch))


@pytest.mark.parametrize("opts", [(), GROUND_TRUTH], ids=["proposals", "ground truth"])
@pytest.mark.parametrize("config", [MASKX, AGNOSTIC])
def test_boxes_of_b_teach_the_mask_branch(config, opts):
    model = build(config, *BOX_LOSSES, *opts)
    found = losses(model, make_batch(make_targets([True, False], [2, 1])))
    assert found["loss_box_projection"] > 0
    assert found["loss_color_affinity"] >= 0
    found["loss_box_projection"].backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(n.startswith("roi_heads.mask_head") for n in trained)
    assert not any(n.startswith("roi_heads.box_predictor") for n in trained)  # the stop-gradient
    assert any(n.startswith("roi_heads.weight_transfer") for n in trained) == (config == MASKX)


@pytest.mark.parametrize("images", [[[1], []], [[], [1]], [[], []]])
@pytest.mark.parametrize("opts", [(), GROUND_TRUTH], ids=["proposals", "ground truth"])
def test_images_without_objects(images, opts):
    model = build(MASKX, *BOX_LOSSES, *BACKGROUND, *opts)
    targets = [make_targets([False] * len(classes), classes) for classes in images]
    found = losses(model, make_batch(*targets))
    assert (found["loss_box_projection"] > 0) == any(images)
    assert all(torch.isfinite(loss) for loss in found.values())


def test_colours_are_compared_in_full_precision():
    supervision = build(MASKX, *BOX_LOSSES).roi_heads.box_supervision
    target = make_targets([False], [1])
    target.proposal_boxes = target.gt_boxes
    generator = torch.Generator().manual_seed(0)
    pixels = 100 + 2 * torch.rand(1, 3, 64, 64, generator=generator)
    images = ImageList(pixels, [(64, 64)])
    expected = supervision.targets(images, [target], [target], 28).alike
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = supervision.targets(images, [target], [target], 28).alike
    assert expected.any() and not expected.all()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mask_type", ["bitmask", "polygon"])
def test_another_objects_known_mask_is_background(mask_type):
    model = build(MASKX, *BACKGROUND, *GROUND_TRUTH)
    # Its mask is the upper half of (4, 4, 24, 24), so it is in (12, 12, 32, 32) to y = 14.
    target = make_targets([True, False], [2, 1])
    if mask_type == "polygon":
        boxes = [[[4.0, 4, 24, 4, 24, 14, 4, 14]], [[12.0, 12, 32, 12, 32, 32, 12, 32]]]
        target.gt_masks = PolygonMasks(boxes)
    seen = []
    model.roi_heads.box_supervision.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    found = losses(model, make_batch(target))
    assert found["loss_known_background"] > 0
    (others,) = seen[0].others
    assert others[:2, :16].all() and not others[4:].any() and not others[:, 18:].any()
    # The stand-in of an object without a mask is not a mask that is known.
    losses(model, make_batch(make_targets([False, False], [2, 1])))
    assert not seen[1].others.any()


def test_masks_of_a_are_left_to_their_own_loss():
    found = losses(
        build(MASKX, *BOX_LOSSES, *BACKGROUND), make_batch(make_targets([True, True], [2, 1]))
    )
    assert found["loss_mask"] > 0
    assert found["loss_box_projection"] == found["loss_color_affinity"] == 0
    assert found["loss_known_background"] == 0


def test_the_mask_loss_and_the_checkpoint_are_the_same_with_and_without():
    batch = make_batch(make_targets([True, False], [2, 1]))
    plain, taught = build(MASKX), build(MASKX, *BOX_LOSSES)
    taught.load_state_dict(plain.state_dict())
    assert losses(plain, batch)["loss_mask"] == losses(taught, batch)["loss_mask"]


def test_ground_truth_rois_are_one_for_each_object(monkeypatch):
    model = build(MASKX, *GROUND_TRUTH)
    seen = []
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    batch = make_batch(make_targets([True, False, True], [2, 1, 0]))
    losses(model, batch)
    (rois,) = seen[0]
    assert rois.gt_classes.tolist() == [2, 0]
    assert torch.equal(rois.proposal_boxes.tensor, rois.gt_boxes.tensor)
    assert model.roi_heads._batch is None, "a batch must not outlive its step"


def test_ground_truth_rois_of_a_crowded_image_are_as_many_as_the_box_heads():
    model = build(MASKX, *GROUND_TRUTH, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 4)
    seen = []
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    losses(model, make_batch(make_targets([True] * 9, [0, 1, 2] * 3), make_targets([True], [3])))
    assert [len(rois) for rois in seen[0]] == [4, 1]


def test_unknown_rois_are_refused():
    with pytest.raises(ValueError, match="can't be trained on 'boxes'"):
        build(MASKX, "MODEL.MASKX.MASK_ROIS", "boxes")
