"""What boxes and colours say about a mask."""

import cv2
import numpy as np
import pytest
import torch

from maskx_d2.modeling.box_losses import (
    box_projections,
    color_affinity,
    color_affinity_loss,
    known_background,
    known_background_loss,
    projection_loss,
    rgb_to_lab,
)


def test_projections_are_the_pixels_whose_centers_are_in_the_box():
    rois = torch.tensor([[0.0, 0.0, 8.0, 4.0], [0.0, 0.0, 8.0, 8.0]])
    boxes = torch.tensor([[2.0, 1.0, 6.0, 9.0], [4.2, 4.2, 4.3, 4.3]])
    columns, rows = box_projections(rois, boxes, 4)
    assert columns[0].tolist() == [0, 1, 1, 0]  # centres 1, 3, 5, 7
    assert rows[0].tolist() == [0, 1, 1, 1]  # centres 0.5, 1.5, 2.5, 3.5
    assert columns[1].sum() == rows[1].sum() == 1  # thinner than a pixel, but there


def test_projection_loss_is_zero_for_any_mask_that_reaches_its_box():
    diagonal = torch.full((1, 4, 4), -50.0)
    diagonal[0, range(4), range(4)] = 50.0
    ones = torch.ones(1, 4)
    assert projection_loss(diagonal, ones, ones) == pytest.approx(0, abs=1e-6)
    too_small = diagonal.clone()
    too_small[0, 3, 3] = -50.0
    assert projection_loss(too_small, ones, ones) > 0.2
    assert projection_loss(diagonal, torch.tensor([[0.0, 1, 1, 0]]), ones) > 0.2


def test_outside_the_box_and_on_other_objects_there_is_background():
    inside = torch.ones(1, 4, 4)
    inside[0, :, 0] = 0
    others = torch.zeros(1, 4, 4, dtype=torch.bool)
    others[0, :2, 1:] = True  # half of the box
    background = known_background(inside, others)
    expected = others.clone()
    expected[0, :, 0] = True
    assert torch.equal(background, expected)
    # An object that others cover for the most part is rather on top of them.
    others[0, 2, 1] = True
    background = known_background(inside, others)
    assert background[0, :, 0].all() and not background[0, :, 1:].any()


def test_the_part_of_a_mask_on_background_costs_and_an_empty_mask_wins_nothing():
    background = torch.zeros(1, 4, 4, dtype=torch.bool)
    background[0, :2] = True
    logits = torch.full((1, 4, 4), -20.0)
    logits[0, :, 0] = 20.0
    assert known_background_loss(logits, background) == pytest.approx(0.5, abs=1e-6)
    assert known_background_loss(logits - 18.0, background) == pytest.approx(0.5, abs=1e-6)
    logits[0, :2] = -20.0
    assert known_background_loss(logits, background) == pytest.approx(0, abs=1e-6)
    # Less on the background and more elsewhere both help.
    flat = torch.zeros(1, 4, 4, requires_grad=True)
    known_background_loss(flat, background).backward()
    assert (flat.grad[background] > 0).all() and (flat.grad[~background] < 0).all()


def test_without_a_roi_the_loss_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    projection_loss(logits, torch.zeros(0, 4), torch.zeros(0, 4)).backward()
    nothing = torch.zeros(0, 4, 4, 4, dtype=torch.bool)
    loss = color_affinity_loss(logits, nothing, torch.zeros(0, 4, 4))
    loss.backward()
    known_background_loss(logits, nothing[:, 0]).backward()
    assert loss == 0


def test_a_contour_along_an_edge_of_colour_costs_nothing_and_another_does():
    colors = torch.zeros(1, 3, 8, 8)
    colors[..., 4:] = 60.0
    alike = color_affinity(colors) >= 0.3
    inside = torch.ones(1, 8, 8)
    along = torch.full((1, 8, 8), -30.0)
    along[..., 4:] = 30.0
    assert color_affinity_loss(along, alike, inside) == pytest.approx(0, abs=1e-6)
    across = along.transpose(1, 2)
    assert color_affinity_loss(across, alike, inside) > 1
    assert color_affinity_loss(across, alike, torch.zeros(1, 8, 8)) == 0


def test_pixels_outside_are_nobodys_neighbours():
    affinity = color_affinity(torch.zeros(1, 3, 5, 5))
    # (0, 2), (2, 0), (2, 2) and (2, -2): how many pixels have such a neighbour.
    assert affinity.sum((0, 2, 3)).tolist() == [15, 15, 9, 9]


def test_lab_is_opencvs():
    rgb = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    ours = rgb_to_lab(torch.from_numpy(rgb).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), atol=0.3)
