"""RoIs are pooled where they are in mixed precision, too."""

import copy

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import nn

from maskx_d2.modeling.exact_pooling import pool_exactly

# bfloat16 has no 301, 523 or 1,021.
BOXES = [Boxes(torch.tensor([[301.0, 523.0, 425.0, 1021.0], [301.0, 301.0, 311.0, 311.0]]))]


@pytest.fixture(params=[1, 2], ids=["one level", "two levels"])
def scales(request):
    return [1 / 4, 1 / 8][: request.param]


@pytest.fixture
def features(scales):
    generator = torch.Generator().manual_seed(0)
    sides = [int(1040 * scale) for scale in scales]
    return [torch.rand(1, 3, side, side, generator=generator).bfloat16() for side in sides]


def pooler(scales):
    return ROIPooler(7, scales, 0, "ROIAlignV2", canonical_box_size=64, canonical_level=3)


def test_boxes_are_not_rounded(features, scales):
    stock, exact = pooler(scales), nn.Sequential(pooler(scales))
    assert pool_exactly(exact) is exact
    right = stock([f.float() for f in features], BOXES)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(exact[0](features, BOXES), right)
        rounded = stock(features, BOXES).float()
    assert (rounded - right).abs().max() > 0.1, "else no need for it"


def test_asked_twice_and_copied_it_is_done_once(features, scales):
    once = pool_exactly(pool_exactly(pooler(scales)))
    assert len(once._forward_pre_hooks) == 1
    assert len(pool_exactly(copy.deepcopy(once))._forward_pre_hooks) == 1
    with torch.autocast("cpu", torch.bfloat16):
        once([f.requires_grad_() for f in features], BOXES).sum().backward()
    assert features[0].grad.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_a_model_that_is_of_another_type_as_a_whole_stays_so(kind, features, scales):
    exact, stock = pool_exactly(pooler(scales)), pooler(scales)
    features, boxes = [f.to(kind) for f in features], [Boxes(b.tensor.to(kind)) for b in BOXES]
    found = exact(features, boxes)
    assert found.dtype == kind
    torch.testing.assert_close(found, stock(features, boxes))


def test_torch_that_cannot_be_asked_about_a_device(features, scales, monkeypatch):
    """Before 2.4."""
    exact = pool_exactly(pooler(scales))
    with torch.autocast("cpu", torch.bfloat16), monkeypatch.context() as older:
        older.setattr(torch, "is_autocast_enabled", lambda: False)  # of a GPU
        assert exact(features, BOXES).dtype == torch.float32
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda: False)
    assert exact([f.half() for f in features], BOXES).dtype == torch.float16
