"""DeepMask as a whole: patches in training, scenes at inference."""

import copy
import inspect
import math

import pytest
import torch
from conftest import make_batch, make_targets
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torch.nn import functional as F

from maskx_d2 import add_maskx_config
from maskx_d2.deepmask import DeepMask, PatchSampler, deepmask_losses
from maskx_d2.deepmask.patches import canonical_patches, is_away
from maskx_d2.deepmask.sampler import Patches


class Trunk(Backbone):
    """Stride 16, and sees 4 pixels beyond each feature's own."""

    def __init__(self, channels=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 4, stride=4),
        )

    def forward(self, x):
        return {"only": self.layers(x)}

    def output_shape(self):
        return {"only": ShapeSpec(channels=8, stride=16)}


SMALL = {
    "patch_size": 64,
    "object_size": 36,
    "mask_size": 16,
    "conv_dim": 6,
    "rank": 5,
    "score_dims": (7, 8),
    "patches_per_image": 4,
    "positive_jitter": (8.0, 0.25),
    "negative_distance": (16.0, 1.0),
    "scales": (0.5, 1.0, 2.0),
    "topk": 20,
}


def small(**kwargs):
    torch.manual_seed(0)
    model = DeepMask(backbone=Trunk(), **{**SMALL, **kwargs})
    # Far from the small start, so that differences show.
    nn.init.normal_(model.mask_branch.up.weight)
    nn.init.normal_(model.score_branch.layers[-1].weight)
    return model


def small_cfg(*opts):
    cfg = get_cfg()
    add_maskx_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "DeepMask", "MODEL.MASK_ON", True),
            *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.DEEPMASK.PATCH_SIZE", 64),
            *("MODEL.DEEPMASK.OBJECT_SIZE", 36, "MODEL.DEEPMASK.MASK_SIZE", 16),
            *("MODEL.DEEPMASK.CONV_DIM", 6, "MODEL.DEEPMASK.RANK", 5),
            *("MODEL.DEEPMASK.SCORE_DIMS", [7, 8], "MODEL.DEEPMASK.SCALES", [0.5, 1.0]),
            *("MODEL.DEEPMASK.PATCHES_PER_IMAGE", 4, "MODEL.DEEPMASK.TOPK_TEST", 20),
            *opts,
        ]
    )
    return cfg


def losses(model, batch):
    torch.manual_seed(1)
    return model(batch)


@torch.no_grad()
def test_a_scene_is_each_of_its_patches():
    model = small(context=16).eval()
    image = torch.randn(3, 50, 70)
    scene = model.scene(image)
    features = model.features(scene)
    scores, hidden = model.score_branch(features), model.mask_branch.hidden(features)
    # A place for each 16 pixels, and one at or beyond the far side.
    assert scores.shape == (1, 5, 6)
    for y, x in ((0, 0), (1, 2), (3, 5), (4, 4)):
        # 64 / 2 pixels and the context around the place's pixel of the image.
        padded = F.pad(image, (48, 64, 48, 64))
        patch = padded[None, :, 16 * y : 16 * y + 96, 16 * x : 16 * x + 96]
        alone = model.features(patch)
        assert alone.shape[2:] == (4, 4)
        score, mask = model.score_branch(alone), model.mask_branch(alone)
        torch.testing.assert_close(scores[:, y, x], score[:, 0, 0], atol=1e-5, rtol=0)
        found = model.mask_branch.masks(hidden[:, :, y, x])
        torch.testing.assert_close(found, mask, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_context_the_trunk_sees_zeros_around_a_patch():
    model = small(context=0).eval()
    scene = model.scene(torch.randn(3, 50, 70))
    inner = model.features(scene)[:, :, 1:5, 1:5]
    alone = model.features(scene[:, :, 16:80, 16:80])
    torch.testing.assert_close(inner[:, :, 1:3, 1:3], alone[:, :, 1:3, 1:3])
    assert (inner - alone).abs().max() > 1e-3


def test_masks_of_b_can_be_poisoned_without_effect():
    model = small(patches_per_image=8).train()
    batch = make_batch(make_targets([True, False], [0, 1]), make_targets([False, True], [0, 1]))
    clean = losses(model, batch)
    poisoned = copy.deepcopy(batch)
    for x in poisoned:
        x["instances"].gt_masks.tensor[~x["instances"].gt_has_mask] ^= True
    again = losses(model, poisoned)
    assert clean == again and set(clean) == {"loss_mask", "loss_score"}
    poisoned[0]["instances"].gt_masks.tensor[0] ^= True
    assert losses(model, poisoned)["loss_mask"] != clean["loss_mask"]


@pytest.mark.parametrize("targets", [[[False], [False, False]], [[], []]])
def test_a_batch_without_masks_has_losses_and_gradients_of_zero(targets):
    model = small().train()
    batch = make_batch(*(make_targets(t, [0] * len(t)) for t in targets))
    found = losses(model, batch)
    assert found["loss_mask"] == found["loss_score"] == 0
    sum(found.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_every_parameter_learns_from_an_image_with_masks_beside_one_without():
    model = small().train()
    batch = make_batch(make_targets([True, True], [0, 1]), make_targets([False], [0]))
    sum(losses(model, batch).values()).backward()
    assert all(p.grad.any() for p in model.parameters())


def test_without_the_field_all_masks_are_there_or_none():
    model = small().train()
    target = make_targets([True], [0])
    target.remove("gt_has_mask")
    assert losses(model, make_batch(target))["loss_mask"] > 0
    target.remove("gt_masks")
    assert losses(model, make_batch(target))["loss_mask"] == 0


SAMPLER = PatchSampler(
    patch_size=64,
    object_size=36,
    context=16,
    mask_size=16,
    patches_per_image=200,
    positive_jitter=(8.0, 0.25),
    negative_distance=(16.0, 1.0),
    scales=(0.5, 2.0),
)


def test_patches_are_halves_and_a_mask_is_what_its_patch_shows():
    target = make_targets([False, True, False], [0, 0, 0], size=96)
    target.gt_masks.tensor[1] = False
    target.gt_masks.tensor[1, 14:28, 13:22] = True  # not symmetrical: mirroring shows
    target.gt_boxes.tensor[1] = torch.tensor([13.0, 12.0, 31.0, 30.0])
    image = target.gt_masks.tensor[1].float().expand(3, 96, 96)
    patches = SAMPLER(image, target)
    assert patches.images.shape == (200, 3, 96, 96)
    assert patches.labels.tolist() == [True] * 100 + [False] * 100
    assert patches.masks.shape == (100, 16, 16) and patches.masks.dtype == torch.bool
    shown = F.avg_pool2d(patches.images[patches.labels, 0, 16:-16, 16:-16], 4) >= 0.5
    assert (shown != patches.masks).float().mean() < 0.02
    assert patches.masks.flatten(1).sum(dim=1).min() > 10
    mirrored = (shown.flip(-1) != patches.masks).float().mean()
    assert mirrored > 0.05  # with a control


def test_objects_without_a_mask_are_neither_positives_nor_negatives():
    target = make_targets([True, False], [0, 0])
    target.gt_boxes.tensor[1] = torch.tensor([40.0, 40.0, 60.0, 60.0])
    canonical = canonical_patches(target.gt_boxes.tensor, 36)
    found = SAMPLER._negatives(target, 300)
    assert is_away(found, canonical, shift=16, octaves=1).all()
    # With a control: such patches would be found if the object were not looked at.
    found = SAMPLER._negatives(target[:1], 300)
    assert not is_away(found, canonical[1:], shift=16, octaves=1).all()
    _, objects = SAMPLER._positives(target)
    assert not objects.any()


def test_a_crowded_image_has_fewer_negatives():
    target = Instances((20, 20))
    target.gt_boxes = Boxes(torch.tensor([[2.0, 2.0, 18.0, 18.0]]))
    target.gt_masks = BitMasks(torch.ones(1, 20, 20, dtype=torch.bool))
    sampler = copy.copy(SAMPLER)
    sampler.scales = (2.2, 2.3)
    sampler.negative_distance = (32.0, 1.0)
    patches = sampler(torch.zeros(3, 20, 20), target)
    assert patches.labels.all() and len(patches.labels) == 100


def test_losses_are_those_of_the_patches_of_all_images():
    model = small().train()
    images = torch.randn(5, 3, 64, 64)
    masks = torch.rand(2, 16, 16) < 0.5
    labels = torch.tensor([True, False, False, True, False])
    samples = iter(
        [
            Patches(images[:3], labels[:3], masks[:1]),
            Patches(images[3:], labels[3:], masks[1:]),
        ]
    )
    model.sampler = lambda image, target: next(samples)
    model.score_branch.eval()  # no dropout
    found = model(make_batch(make_targets([True], [0]), make_targets([True], [0])))
    features = [model.features(image[None]) for image in images]
    expected = deepmask_losses(
        torch.cat([model.mask_branch(features[i]) for i in (0, 3)]),
        masks,
        torch.cat([model.score_branch(f)[:, 0, 0] for f in features]),
        labels,
        score_weight=1 / 32,
    )
    torch.testing.assert_close(found, expected)


class Given(nn.Module):
    """A score branch that likes one place of scenes of one size."""

    def __init__(self, place, size):
        super().__init__()
        self.place, self.size = place, size

    def forward(self, features):
        scores = torch.zeros(1, features.shape[2] - 3, features.shape[3] - 3)
        if scores.shape[1:] == self.size:
            scores[0][self.place] = 5.0
        return scores


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "place", "box"),
    [
        # At scale 1 the place's pixel is 32 and 16; the square is half of a patch, so 32 wide.
        ((4, 6), (1, 2), [16, 0, 48, 32]),
        # At scale 2 all is half as large: centre 24 and 16, the square 16 wide.
        ((7, 11), (2, 3), [16, 8, 32, 24]),
        # At scale 1/2 twice: centre 64 and 32, 64 wide, cut by the image of 80 × 48.
        ((3, 4), (1, 2), [32, 0, 80, 48]),
    ],
)
def test_masks_are_pasted_where_the_patch_is(size, place, box):
    model = small().eval()
    nn.init.zeros_(model.mask_branch.up.weight)
    square = torch.full((16, 16), -20.0)
    square[4:12, 4:12] = 20.0
    model.mask_branch.up.bias.copy_(square.flatten())
    model.score_branch = Given(place, size)
    image = torch.zeros(3, 48, 80)
    (output,) = model([{"image": image, "height": 96, "width": 160}])
    proposals = output["proposals"]
    assert proposals.image_size == (96, 160)
    assert proposals.objectness_logits[0] == 5 and proposals.objectness_logits[1] == 0
    found = proposals.proposal_boxes.tensor[0]
    # A threshold of 0.2 lies outside of the square's edge by 0.3 of the mask's pixels.
    assert (found - 2 * torch.tensor(box)).abs().max() <= 2 * 0.3 * 8 + 1
    mask = proposals.pred_masks[0]
    ys, xs = mask.nonzero().unbind(1)
    assert found.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@torch.no_grad()
def test_proposals_are_ranked_limited_and_have_no_empty_masks():
    model = small(topk=7).eval()
    nn.init.constant_(model.mask_branch.up.bias, 3.0)
    image = torch.randint(0, 255, (3, 50, 70), dtype=torch.uint8)
    (output,) = model([{"image": image}])
    proposals = output["proposals"]
    scores = proposals.objectness_logits
    assert 0 < len(proposals) <= 7 and (scores[1:] <= scores[:-1]).all()
    assert all(mask.any() for mask in proposals.pred_masks)
    every = small(topk=1000).eval()
    every.load_state_dict(model.state_dict())
    assert every([{"image": image}])[0]["proposals"].objectness_logits[0] == scores[0]
    nn.init.constant_(model.mask_branch.up.bias, -1000.0)
    (output,) = model([{"image": image}])
    assert len(output["proposals"]) == 0 and output["proposals"].pred_masks.shape == (0, 50, 70)


@torch.no_grad()
@pytest.mark.parametrize(("thresh", "found"), [(0.2, 20), (0.5, 0)])
def test_a_pixel_is_of_the_object_above_the_threshold(thresh, found):
    model = small(mask_thresh=thresh, scales=(1.0,)).eval()
    nn.init.zeros_(model.mask_branch.up.weight)
    nn.init.constant_(model.mask_branch.up.bias, math.log(0.3 / 0.7))
    (output,) = model([{"image": torch.zeros(3, 64, 64)}])
    assert len(output["proposals"]) == found


@torch.no_grad()
def test_images_are_normalized():
    image = torch.randint(0, 255, (3, 50, 70), dtype=torch.uint8)
    mean, std = torch.tensor([100.0, 110.0, 120.0]), torch.tensor([50.0, 60.0, 70.0])
    model = small(pixel_mean=mean.tolist(), pixel_std=std.tolist()).eval()
    plain = small(pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3).eval()
    normalized = (image - mean[:, None, None]) / std[:, None, None]
    scores = [
        m([{"image": i}])[0]["proposals"].objectness_logits
        for m, i in ((model, image), (plain, normalized), (plain, image))
    ]
    torch.testing.assert_close(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])


@torch.no_grad()
def test_nms_drops_what_a_better_box_covers():
    inputs = [{"image": torch.randint(0, 255, (3, 50, 70), dtype=torch.uint8)}]
    counts = {}
    for thresh in (1.0, 0.5):
        model = small(nms_thresh=thresh, topk=40).eval()
        nn.init.constant_(model.mask_branch.up.bias, 3.0)
        proposals = model(inputs)[0]["proposals"]
        counts[thresh] = len(proposals)
        assert (proposals.objectness_logits.diff() <= 0).all()
    assert 0 < counts[0.5] < counts[1.0]


def test_keyword_arguments_have_the_configs_defaults():
    cfg = get_cfg()
    add_maskx_config(cfg)
    cfg.MODEL.MASK_ON, cfg.MODEL.BACKBONE.NAME = True, "build_vgg_a_backbone"
    with torch.device("meta"):
        kwargs = DeepMask.from_config(cfg)
    defaults = inspect.signature(DeepMask.__init__.__wrapped__).parameters
    assert set(kwargs) == set(defaults) - {"self"}
    for name, value in kwargs.items():
        if name == "backbone":
            continue
        if name in ("pixel_mean", "pixel_std"):
            assert value == pytest.approx(defaults[name].default, abs=1e-2)
        else:
            assert value == pytest.approx(defaults[name].default), name


def test_the_papers_network():
    cfg = get_cfg()
    add_maskx_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "DeepMask", True
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.DEVICE = "build_vgg_a_backbone", "meta"
    with torch.device("meta"):
        model = build_model(cfg)
        features = model.features(torch.zeros(2, 3, 224, 224))
        assert features.shape == (2, 512, 14, 14)
        assert model.mask_branch(features).shape == (2, 56, 56)
        assert model.score_branch(features).shape == (2, 1, 1)
    convs = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8 and all(c.kernel_size == (3, 3) for c in convs)
    assert not convs[1].weight.requires_grad  # FREEZE_AT 2
    assert convs[2].weight.requires_grad
    from torchvision.models import vgg11

    with torch.device("meta"):
        pretrained = vgg11().features.state_dict()
    own = {k: v.shape for k, v in model.state_dict().items() if k.startswith("backbone.")}
    assert {f"backbone.features.{k}": v.shape for k, v in pretrained.items()} == own


def test_a_resnet_from_a_config_trains(storage):
    model = build_model(small_cfg())
    batch = make_batch(make_targets([True, False], [0, 1]))
    found = model.train()(batch)
    sum(found.values()).backward()
    assert (
        model.mask_branch.down.weight.grad.any() and model.backbone.res4[0].conv1.weight.grad.any()
    )


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.MASK_ON", False), "MODEL.MASK_ON to True"),
        (("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]), r"one feature map, not \['res3', 're"),
        (("MODEL.DEEPMASK.PATCH_SIZE", 48), "PATCH_SIZE to a multiple of 32"),
        (("MODEL.DEEPMASK.CONTEXT", 8), "CONTEXT to 0 or a multiple of 16"),
        (("MODEL.DEEPMASK.OBJECT_SIZE", 65), "OBJECT_SIZE to less than"),
        (("MODEL.DEEPMASK.SCALES", []), "MODEL.DEEPMASK.SCALES to positive"),
        (("MODEL.DEEPMASK.MASK_THRESH", 1.5), "MASK_THRESH is to be between 0 and 1"),
        (("MODEL.DEEPMASK.PATCHES_PER_IMAGE", 3), "PATCHES_PER_IMAGE to an even number"),
        (("MODEL.DEEPMASK.POSITIVE_SHIFT", 40.0), "POSITIVE_SHIFT and POSITIVE_OCTAVES below"),
    ],
)
def test_mistakes_in_a_config_are_said_when_it_is_built(opts, message):
    with pytest.raises(ValueError, match=message):
        build_model(small_cfg(*opts))


def test_vgg_wants_three_channels():
    from maskx_d2.deepmask import VGGBackbone

    with pytest.raises(ValueError, match="3 channels, not of 1"):
        VGGBackbone(1)


def test_it_learns_to_find_an_object():
    """From pixels to proposals: a white square on black, at a place of its own in each image."""
    torch.manual_seed(2)
    model = small(
        patches_per_image=8, mask_size=16, conv_dim=16, rank=16, score_dims=(16, 16), topk=5,
        scales=(1.0,), score_dropout=0.0, score_weight=1.0, context=16,
        pixel_mean=(127.5,) * 3, pixel_std=(127.5,) * 3,
    ).train()  # fmt: skip
    nn.init.normal_(model.mask_branch.up.weight, std=0.02)
    nn.init.normal_(model.score_branch.layers[-1].weight, std=0.02)

    def sample(x, y):
        target = Instances((96, 96))
        target.gt_boxes = Boxes(torch.tensor([[x, y, x + 36, y + 36]], dtype=torch.float32))
        mask = torch.zeros(1, 96, 96, dtype=torch.bool)
        mask[:, y : y + 36, x : x + 36] = True
        target.gt_masks = BitMasks(mask)
        return {"image": 255 * mask.expand(3, 96, 96).to(torch.uint8), "instances": target}

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        corners = torch.randint(4, 56, (4, 2)).tolist()
        loss = sum(model([sample(*c) for c in corners]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (output,) = model.eval()([sample(30, 30)])
    best = output["proposals"].pred_masks[0]
    truth = sample(30, 30)["instances"].gt_masks.tensor[0]
    assert (best & truth).sum() / (best | truth).sum() > 0.6
