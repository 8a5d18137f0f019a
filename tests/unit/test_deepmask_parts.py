"""DeepMask's branches, loss and patches beside plain references."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from maskx_d2.deepmask import MaskBranch, ScoreBranch, deepmask_losses
from maskx_d2.deepmask.branches import interleaved
from maskx_d2.deepmask.patches import (
    canonical_patches,
    is_away,
    jittered,
    patch_boxes,
    sample_negatives,
)


def test_the_mask_classifier_is_the_product_of_two_matrices():
    branch = MaskBranch(3, patch=4, size=6, conv_dim=5, rank=2)
    nn.init.normal_(branch.up.bias)
    x = torch.randn(7, 3, 4, 4)
    conv = branch.conv.weight.detach().numpy()[:, :, 0, 0]
    bias = branch.conv.bias.detach().numpy()[None, :, None, None]
    hidden = np.maximum(np.einsum("oc,rchw->rohw", conv, x.numpy()) + bias, 0).reshape(7, 80)
    down = branch.down.weight.detach().numpy().reshape(2, 80)
    matrix = branch.up.weight.detach().numpy()[:, :, 0, 0] @ down
    assert np.linalg.matrix_rank(matrix) == 2 and matrix.shape == (36, 80)
    expected = (hidden @ matrix.T + branch.up.bias.detach().numpy()).reshape(7, 6, 6)
    np.testing.assert_allclose(branch(x).detach().numpy(), expected, atol=1e-5)


def test_branches_on_a_scene_are_those_of_each_patch():
    mask, score = (
        MaskBranch(3, patch=4, size=6, conv_dim=5, rank=4),
        ScoreBranch(3, patch=4, dims=(8, 9)),
    )
    mask.eval(), score.eval()
    nn.init.normal_(score.layers[-1].weight)
    scene = torch.randn(2, 3, 9, 8)
    scores, hidden = score(scene), mask.hidden(scene)
    assert scores.shape == (2, 6, 5) and hidden.shape == (2, 4, 6, 5)
    for y in range(6):
        for x in range(5):
            patch = scene[:, :, y : y + 4, x : x + 4]
            torch.testing.assert_close(scores[:, y, x], score(patch)[:, 0, 0], atol=1e-5, rtol=0)
            found = mask.masks(hidden[:, :, y, x])
            torch.testing.assert_close(found, mask(patch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("places", [0, 1, 30, 200])
def test_some_places_of_a_scene_are_those_of_all(places):
    branch = MaskBranch(3, patch=4, size=6, conv_dim=5, rank=4)
    scene = torch.randn(1, 3, 9, 8)
    rows, columns = torch.randint(6, (places,)), torch.randint(5, (places,))
    expected = branch.hidden(scene)[0][:, rows, columns].transpose(0, 1)
    torch.testing.assert_close(branch.hidden_at(scene, rows, columns), expected)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 7), (5, 4), (8, 9)])
def test_interleaving_is_pooling_at_every_place(height, width):
    weight = torch.randn(2, 3, 2, 2)
    layers = nn.Conv2d(3, 2, 2, bias=False)
    layers.weight.data = weight
    features = torch.randn(1, 3, height, width)
    result = interleaved(features, layers, 4).detach().numpy()
    x = features.numpy()[0]
    expected = np.empty((2, height - 3, width - 3))
    for i in range(height - 3):
        for j in range(width - 3):
            pooled = x[:, i : i + 4, j : j + 4].reshape(3, 2, 2, 2, 2).max(axis=(2, 4))
            expected[:, i, j] = np.einsum("ocyx,cyx->o", weight.numpy(), pooled)
    np.testing.assert_allclose(result[0], expected, atol=1e-5)


def test_the_score_branch_drops_out_in_training_alone():
    branch = ScoreBranch(3, patch=2, dims=(64,), dropout=0.5)
    nn.init.normal_(branch.layers[-1].weight)
    x = torch.randn(1, 3, 2, 2)
    assert branch(x) != branch(x)
    branch.eval()
    assert branch(x) == branch(x)


def test_the_joint_loss_is_equation_1():
    generator = np.random.default_rng(0)
    logits, scores = generator.normal(size=(2, 3, 3)), generator.normal(size=5)
    masks, labels = generator.random((2, 3, 3)) < 0.5, np.array([0, 1, 0, 0, 1], dtype=bool)
    expected, mask_part, positives = 0.0, 0.0, iter(range(2))
    for y, score in zip(2 * labels.astype(int) - 1, scores):
        if y == 1:
            k = next(positives)
            m = 2 * masks[k].astype(int) - 1
            mask_part += (1 + y) / (2 * 9) * np.log(1 + np.exp(-m * logits[k])).sum()
        expected += np.log(1 + np.exp(-y * score)) / 32
    losses = deepmask_losses(
        torch.tensor(logits),
        torch.tensor(masks),
        torch.tensor(scores),
        torch.tensor(labels),
        score_weight=1 / 32,
    )
    assert losses["loss_mask"].item() == pytest.approx(mask_part / 5)
    assert losses["loss_score"].item() == pytest.approx(expected / 5)


def test_a_batch_of_negatives_has_no_mask_loss_but_its_gradient():
    logits = torch.zeros(0, 3, 3, requires_grad=True)
    scores = torch.zeros(2, requires_grad=True)
    none = torch.zeros(0, 3, 3, dtype=torch.bool)
    losses = deepmask_losses(
        logits, none, scores, torch.zeros(2, dtype=torch.bool), score_weight=2.0
    )
    assert losses["loss_mask"] == 0
    assert losses["loss_score"].item() == pytest.approx(2 * math.log(2))
    sum(losses.values()).backward()
    assert logits.grad is not None


BOXES = torch.tensor([[10.0, 20.0, 42.0, 28.0], [100.0, 90.0, 116.0, 154.0]])


def test_an_object_is_in_the_middle_of_its_patch_and_of_canonical_size():
    patches = canonical_patches(BOXES, 128)
    assert patches.tolist() == [[26, 24, 4], [108, 122, 2]]
    boxes = patch_boxes(patches, 224)
    assert boxes.tolist() == [[-2, -4, 54, 52], [52, 66, 164, 178]]


def test_jitter_is_in_pixels_of_the_patch_and_in_octaves():
    canonical = canonical_patches(BOXES, 128).repeat(2000, 1)
    moved = jittered(canonical, shift=16, octaves=0.25)
    octaves = torch.log2(moved[:, 2] / canonical[:, 2]).abs()
    shift = (moved[:, :2] - canonical[:, :2]).abs() * moved[:, 2:]
    assert 0.24 < octaves.max() <= 0.2501 and 15.5 < shift.max() <= 16.001
    assert not is_away(moved, canonical[:2], shift=32, octaves=1).any()


def test_away_means_in_place_or_in_scale_from_every_object():
    canonical = torch.tensor([[50.0, 50.0, 2.0], [90.0, 50.0, 2.0]])
    tried = torch.tensor(
        [
            [50.0, 50.0, 2.0],  # the first object's
            [50.0, 65.5, 2.0],  # 31 pixels of the patch below it
            [50.0, 66.0, 2.0],  # 32
            [70.0, 50.0, 2.0],  # between the two
            [90.0, 50.0, 4.0],  # twice the second's scale
            [90.0, 50.0, 3.9],
            [50.0, 50.0, 1.0],
            [50.0, 62.0, 3.0],  # 36 of its own pixels below, 24 of the object's patch
        ]
    )
    found = is_away(tried, canonical, shift=32, octaves=1)
    assert found.tolist() == [False, False, True, True, True, False, True, True]
    # Away from one but not from the other.
    near = torch.tensor([[50.0, 50.0, 2.0], [72.0, 50.0, 2.0]])
    assert not is_away(tried[3:4], near, shift=32, octaves=1)


def test_negatives_are_away_and_of_all_scales():
    canonical = canonical_patches(BOXES, 128)
    found = sample_negatives(500, canonical, (160, 200), (0.25, 2.0), shift=32, octaves=1)
    assert len(found) == 500
    assert is_away(found, canonical, shift=32, octaves=1).all()
    assert found[:, 2].min() < 0.3 and found[:, 2].max() > 1.8
    assert (found[:, :2] >= 0).all() and found[:, 0].max() > 180 and 140 < found[:, 1].max() <= 160
    # A half of all octaves is a half of the patches, far from any object.
    far = sample_negatives(2000, canonical[:0], (160, 200), (0.25, 1.0), shift=32, octaves=1)
    assert (far[:, 2] < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_an_image_full_of_objects_has_fewer_negatives():
    everywhere = torch.tensor([[5.0, 5.0, 1.0]])
    found = sample_negatives(4, everywhere, (10, 10), (0.9, 1.1), shift=32, octaves=1)
    assert len(found) == 0
