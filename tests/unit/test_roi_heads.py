import copy

import pytest
import torch
from conftest import NUM_CLASSES, changed, make_batch, make_targets, tiny_cfg
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model
from detectron2.structures import Instances

from maskx_d2.modeling import (
    MaskXMixin,
    WeightTransfer,
    check_supervised_masks_only,
    select_supervised,
)

pytestmark = pytest.mark.usefixtures("storage")

MASKX = ("MODEL.ROI_HEADS.NAME", "MaskXROIHeads")
CASCADE = ("MODEL.ROI_HEADS.NAME", "MaskXCascadeROIHeads", "MODEL.MASKX.TRANSFER_INPUT", "cls")
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
AGNOSTIC = ("MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads")
AGNOSTIC += ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
AGNOSTIC += ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
MLP = (*MASKX, "MODEL.MASKX.MLP_BRANCH", True)
C4 = ("MODEL.ROI_HEADS.NAME", "MaskXRes5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"])
C4 += ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"])
C4 += ("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]])
C4 += ("MODEL.ROI_MASK_HEAD.NUM_CONV", 0, "MODEL.RESNETS.DEPTH", 50, "MODEL.RPN.HEAD_NAME")
C4 += ("StandardRPNHead", "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
VARIANTS = {
    "maskx": MASKX,
    "mlp": MLP,
    "cascade": CASCADE,
    "C4": C4,
    "class-agnostic": AGNOSTIC,
}


def build(*opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *opts))


def losses(model, batch):
    torch.manual_seed(1)  # proposals are sampled at random
    return model.train()(copy.deepcopy(batch))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_masks_of_b_can_be_poisoned_without_effect(variant):
    model = build(*variant)
    batch = make_batch(
        make_targets([True, False, True], [0, 1, 2]), make_targets([False, True], [3, 0])
    )
    clean = losses(model, batch)
    poisoned = copy.deepcopy(batch)
    for sample in poisoned:
        target = sample["instances"]
        target.gt_masks.tensor[~target.gt_has_mask] ^= True
    assert {k: v.item() for k, v in losses(model, poisoned).items()} == {
        k: v.item() for k, v in clean.items()
    }
    # The control: masks of A do count.
    poisoned[0]["instances"].gt_masks.tensor[0] ^= True
    assert losses(model, poisoned)["loss_mask"] != clean["loss_mask"]


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(
    "targets",
    [
        [make_targets([False, False], [0, 1]), make_targets([False], [3])],
        [make_targets([], []), make_targets([], [])],
    ],
    ids=["boxes only", "no ground truth"],
)
def test_a_batch_without_masks_gives_zero_loss_and_zero_gradients(variant, targets):
    model = build(*variant)
    loss = losses(model, make_batch(*targets))["loss_mask"]
    assert loss.item() == 0
    loss.backward()
    heads = model.roi_heads
    trained = list(heads.mask_head.named_parameters())
    if isinstance(heads, MaskXMixin):
        trained += heads.weight_transfer.named_parameters()
    for name, parameter in trained:
        assert parameter.grad is not None, name  # distributed training waits for each of them
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_images_without_ground_truth_beside_others(variant):
    model = build(*variant)
    both = losses(model, make_batch(make_targets([True], [1]), make_targets([], [])))
    assert both["loss_mask"] > 0
    assert all(torch.isfinite(v) for v in both.values())


@pytest.mark.parametrize("variant", [MASKX, CASCADE], ids=["standard", "cascade"])
@pytest.mark.parametrize("stop_grad", [True, False])
def test_the_mask_loss_leaves_the_box_head_alone_with_stop_grad(variant, stop_grad):
    model = build(*variant, "MODEL.MASKX.STOP_GRAD", stop_grad)
    batch = make_batch(make_targets([True, True], [0, 2]))
    losses(model, batch)["loss_mask"].backward()
    predictor = model.roi_heads._last_box_predictor()
    moved = predictor.cls_score.weight.grad is not None and predictor.cls_score.weight.grad.any()
    assert bool(moved) is not stop_grad
    for name, parameter in model.roi_heads.weight_transfer.named_parameters():
        assert parameter.grad.any(), name


def test_unsupervised_rois_are_not_even_pooled(storage):
    model = build()
    pooled = []
    model.roi_heads.mask_pooler.register_forward_hook(lambda m, i, out: pooled.append(len(out)))
    for has_mask in ([True, True], [True, False], [False, False]):
        losses(model, make_batch(make_targets(has_mask, [0, 1])))
        assert storage.latest()["mask_head/num_supervised_rois"][0] == pooled[-1]
    assert pooled[0] > pooled[1] > pooled[2] == 0


def test_stock_roi_heads_are_refused_with_samples_that_may_lack_masks():
    check_supervised_masks_only(build())
    check_supervised_masks_only(build(*AGNOSTIC))
    check_supervised_masks_only(
        build(*AGNOSTIC[2:], "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.MASK_ON", False)
    )
    with pytest.raises(ValueError, match=r"StandardROIHeads would train on boxes as if"):
        check_supervised_masks_only(
            build(*AGNOSTIC[2:], "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
        )


def test_mixed_precision_trains_and_leaves_full_precision_class_weights():
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses(model, make_batch(make_targets([True, False], [0, 1])))["loss_mask"]
        loss.backward()
        with torch.no_grad():
            model.eval()([{"image": torch.rand(3, 64, 64) * 255}])
            assert model.roi_heads.class_weights().dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.roi_heads.weight_transfer.parameters())


def test_select_supervised():
    proposals = Instances((8, 8))
    proposals.gt_classes = torch.tensor([0, NUM_CLASSES, -1, 2, 3])
    with_mask = copy.deepcopy(proposals)
    with_mask.gt_has_mask = torch.tensor([True, True, True, False, True])
    stock = copy.deepcopy(proposals)  # as detectron2's own mapper makes it
    stock.gt_masks = torch.zeros(5)
    selected = select_supervised([with_mask, stock, proposals], NUM_CLASSES)
    assert [s.gt_classes.tolist() for s in selected] == [[0, 3], [0, 2, 3], []]


def test_class_weights_are_t_of_the_box_head_and_in_dim_is_measured():
    model = build()
    heads = model.roi_heads
    assert heads.weight_transfer[0].in_features == 5 * 32
    vectors = torch.cat(
        [
            heads.box_predictor.cls_score.weight[:NUM_CLASSES],
            heads.box_predictor.bbox_pred.weight.reshape(NUM_CLASSES, -1),
        ],
        dim=1,
    )
    assert torch.equal(heads.class_weights(), heads.weight_transfer(vectors))


@pytest.mark.parametrize("variant", [MASKX, CASCADE, C4], ids=["maskx", "cascade", "C4"])
@pytest.mark.parametrize("stop_grad", [True, False])
def test_a_training_step_transfers_the_categories_it_needs(variant, stop_grad):
    model = build(*variant, "MODEL.MASKX.STOP_GRAD", stop_grad)
    heads = model.roi_heads
    # In double precision: how a product is rounded depends on the number of its rows, and the CPU.
    for module in (heads.weight_transfer, heads.mask_head):
        module.double().register_forward_pre_hook(lambda _m, args: (args[0].double(), *args[1:]))
    batch = make_batch(make_targets([True, False], [2, 1]), make_targets([True, True], [0, 2]))
    seen = []
    hook = heads.weight_transfer.register_forward_hook(lambda _m, x, _y: seen.append(len(x[0])))
    losses(model, batch)["loss_mask"].backward()
    assert seen == [2], "categories 0 and 2 have masks"
    found = {n: p.grad for n, p in model.named_parameters()}
    hook.remove()
    model.zero_grad()
    # As if all K were transferred.
    heads._class_weights_of = lambda classes: (heads.class_weights(), classes)
    losses(model, batch)["loss_mask"].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


def count_transfers(model):
    calls = []
    model.roi_heads.weight_transfer.register_forward_hook(lambda *_: calls.append(1))
    return calls


@torch.no_grad()
def test_class_weights_are_computed_once_in_inference():
    model = build().eval()
    calls = count_transfers(model)
    for _ in range(3):
        model([{"image": torch.zeros(3, 64, 64)}])
    assert len(calls) == 1


@pytest.mark.parametrize("what", ["cls_score", "bbox_pred", "T"])
@torch.no_grad()
def test_class_weights_follow_the_parameters(what):
    model = build().eval()
    heads = model.roi_heads
    parameter = {
        "cls_score": heads.box_predictor.cls_score.weight,
        "bbox_pred": heads.box_predictor.bbox_pred.weight,
        "T": heads.weight_transfer[0].weight,
    }[what]
    before = heads.class_weights()
    with changed(parameter):
        assert not torch.equal(heads.class_weights(), before)
    torch.testing.assert_close(heads.class_weights(), before)
    # Loading, moving to another type, changing behind autograd's back.
    state = {k: v + 1 for k, v in model.state_dict().items() if v.is_floating_point()}
    model.load_state_dict(state, strict=False)
    loaded = heads.class_weights()
    assert not torch.equal(loaded, before)
    assert model.double().roi_heads.class_weights().dtype == torch.float64
    model.float()
    parameter.data.zero_()
    model.eval()
    assert not torch.equal(heads.class_weights(), loaded)


@torch.no_grad()
def test_a_copy_has_class_weights_of_its_own():
    model = build().eval()
    before = model.roi_heads.class_weights()
    twin = copy.deepcopy(model)
    twin.roi_heads.weight_transfer[2].bias += 1
    image = [{"image": torch.rand(3, 64, 64) * 255}]
    calls, twin_calls = count_transfers(model), count_transfers(twin)
    twin(image)
    assert (len(calls), len(twin_calls)) == (0, 1), "the hook of the copy belongs to the copy"
    assert torch.equal(model.roi_heads.class_weights(), before)
    assert not torch.equal(twin.roi_heads.class_weights(), before)


@torch.no_grad()
def test_a_failure_leaves_no_stale_class_weights(monkeypatch):
    heads = build().eval().roi_heads
    before = heads.class_weights()
    heads.weight_transfer[2].bias += 1
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(heads, "_class_vectors", lambda: 1 / 0)
        heads.class_weights()
    torch.testing.assert_close(heads.class_weights(), before + 1)


def test_training_computes_them_with_a_gradient_after_an_inference():
    model = build()
    with torch.no_grad():
        model.eval()([{"image": torch.zeros(3, 64, 64)}])
    model.train()
    assert model.roi_heads.class_weights().requires_grad


def test_inference_gives_masks_and_given_boxes_do_too():
    model = build("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0).eval()
    image = {"image": torch.rand(3, 64, 64) * 255, "height": 32, "width": 48}
    with torch.no_grad():
        (output,) = model([image])
        given = Instances((64, 64))
        given.pred_boxes = make_targets([True], [1]).gt_boxes
        given.pred_classes = torch.tensor([1])
        (on_given,) = model.inference([image], detected_instances=[given])
    assert output["instances"].pred_masks.shape[1:] == (32, 48)
    assert len(output["instances"]) > 0
    assert on_given["instances"].pred_masks.shape == (1, 32, 48)


def test_bad_configurations_are_one_clear_sentence():
    with pytest.raises(ValueError, match=r"set MODEL\.MASKX\.TRANSFER_INPUT \(.*\) to cls, or"):
        build("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    with pytest.raises(ValueError, match="unknown input of the weight transfer 'class'"):
        build("MODEL.MASKX.TRANSFER_INPUT", "class")
    with pytest.raises(TypeError, match=r"set MODEL\.ROI_MASK_HEAD\.NAME to MaskXConvUpsampleHead"):
        build("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
    with pytest.raises(ValueError, match=r"set MODEL\.MASK_ON to True"):
        build("MODEL.MASK_ON", False)
    with pytest.raises(ValueError, match="the MLP branch does not fit C4"):
        build(*C4, "MODEL.MASKX.MLP_BRANCH", True)


def test_one_line_makes_a_variant_of_someone_elses_roi_heads():
    class TheirROIHeads(StandardROIHeads):
        pass

    class TheirMaskXROIHeads(MaskXMixin, TheirROIHeads):
        pass

    ROI_HEADS_REGISTRY.register(TheirMaskXROIHeads)
    try:
        model = build("MODEL.ROI_HEADS.NAME", "TheirMaskXROIHeads")
    finally:
        del ROI_HEADS_REGISTRY._obj_map["TheirMaskXROIHeads"]
    assert isinstance(model.roi_heads.weight_transfer, WeightTransfer)
    assert losses(model, make_batch(make_targets([True], [1])))["loss_mask"] > 0


def test_lazy_model_is_the_yaml_model():
    """Two ways to describe the paper's model must not drift apart."""
    from detectron2.model_zoo import get_config

    from maskx_d2 import apply_maskx, model_zoo

    lazy = apply_maskx(get_config("common/models/mask_rcnn_fpn.py").model)
    cfg = model_zoo.get_config("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        from_lazy = instantiate(LazyConfig.apply_overrides(lazy, [])).state_dict()
        from_yaml = build_model(cfg).state_dict()
    assert {k: v.shape for k, v in from_lazy.items()} == {k: v.shape for k, v in from_yaml.items()}


def test_a_branch_that_the_mask_head_has_no_place_for_is_refused():
    with pytest.raises(ValueError, match=r"MLP_BRANCH; set MODEL.ROI_MASK_HEAD.NAME to MLPConv"):
        build(*AGNOSTIC, "MODEL.MASKX.MLP_BRANCH", True)
    assert build(*AGNOSTIC).roi_heads.mask_head is not None


@pytest.mark.parametrize("variant", [MASKX, AGNOSTIC], ids=["maskx", "class-agnostic"])
def test_rois_are_not_rounded_in_mixed_precision(variant):
    seen = []
    model = build(*variant)
    for pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
        for level in pooler.level_poolers:
            level.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses(model, make_batch(make_targets([True, False], [0, 1])))
    assert set(seen) == {torch.float32}


def test_vectors_need_a_data_set_that_names_the_categories():
    random = (*MASKX, "MODEL.MASKX.TRANSFER_INPUT", "random", "DATASETS.TRAIN")
    with pytest.raises(ValueError, match=r"none of the data sets .* is registered \(mine, yours\)"):
        build(*random, ("mine",), "DATASETS.TEST", ("yours",))
    with pytest.raises(ValueError, match="DATASETS is empty"):
        build(*random, (), "DATASETS.TEST", ())
