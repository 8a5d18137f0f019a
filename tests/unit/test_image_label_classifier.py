"""Peaks, peak back-propagation and the classifier of image labels."""

import math

import pytest
import torch
from conftest import make_targets
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone, build_model
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn
from torch.nn import functional as F

from maskx_d2 import add_maskx_config
from maskx_d2.deepmask import VGGBackbone
from maskx_d2.image_labels import (
    PeakResponseClassifier,
    find_peaks,
    peak_backprop,
    peak_stimulation,
    response_map,
)

# ------------------------------------------------------------------------------- peaks


def slow_peaks(responses, valid, window):
    reach = window // 2
    found = torch.zeros(responses.shape, dtype=torch.bool)
    for n in range(len(responses)):
        for k in range(responses.shape[1]):
            places = [tuple(p) for p in valid[n, 0].nonzero().tolist()]
            values = {p: responses[n, k][p].item() for p in places}
            median = sorted(values.values())[(len(values) - 1) // 2]
            for y, x in places:
                # By rows, the first of equal ones is the peak.
                best = max(
                    (values[q], -q[0], -q[1])
                    for q in places
                    if abs(q[0] - y) <= reach and abs(q[1] - x) <= reach
                )
                found[n, k, y, x] = best == (values[y, x], -y, -x) and values[y, x] >= median
    return found


@pytest.mark.parametrize("window", [1, 3, 5])
def test_peaks_are_those_of_a_slow_loop(window):
    responses = torch.randint(-4, 4, (2, 3, 7, 9)).float()  # many are equal
    valid = torch.zeros(2, 1, 7, 9, dtype=torch.bool)
    valid[0], valid[1, :, :5, :6] = True, True
    found = find_peaks(responses, valid, window=window)
    assert torch.equal(found, slow_peaks(responses, valid, window))
    assert torch.equal(found[:1], find_peaks(responses[:1], window=window))


def test_scores_are_means_of_peaks_and_padding_counts_for_nothing():
    responses = torch.randn(2, 3, 6, 5, requires_grad=True)
    valid = torch.ones(2, 1, 6, 5, dtype=torch.bool)
    valid[1, :, 4:] = False
    peaks = slow_peaks(responses.detach(), valid, 3)
    scores = peak_stimulation(responses, valid)
    for n in range(2):
        for k in range(3):
            expected = responses[n, k][peaks[n, k]].mean()
            assert scores[n, k].item() == pytest.approx(expected.item(), abs=1e-6)
    scores.sum().backward()
    shares = peaks / peaks.sum(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(responses.grad, shares)
    with torch.no_grad():
        responses[1, :, 4:] = torch.nan
    torch.testing.assert_close(peak_stimulation(responses, valid), scores)


def test_a_map_without_structure_has_one_peak():
    assert find_peaks(torch.zeros(1, 2, 4, 4)).sum(dim=(2, 3)).tolist() == [[1, 1]]


# ---------------------------------------------------------------- peak back-propagation


def slow_shares(conv, x, gradient):
    """The paper's equation, output by output: what each input gets of each output's share."""
    weight = conv.weight.detach().clamp(min=0)
    (stride, _), (pad, _), (dilation, _) = conv.stride, conv.padding, conv.dilation
    activation = x - x.min()
    result = torch.zeros_like(x)
    per_group_in, per_group_out = weight.shape[1], weight.shape[0] // conv.groups
    for o, i, j in torch.ones(gradient.shape[1:]).nonzero().tolist():
        terms = {}
        for c, a, b in torch.ones(weight.shape[1:]).nonzero().tolist():
            y, z = i * stride - pad + a * dilation, j * stride - pad + b * dilation
            channel = o // per_group_out * per_group_in + c
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                terms[channel, y, z] = activation[0, channel, y, z] * weight[o, c, a, b]
        total = sum(terms.values())
        for place, term in terms.items():
            if total > 0:
                result[0][place] += gradient[0, o, i, j] * term / total
    return result


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"groups": 2}]
)
def test_a_convolution_hands_on_shares(options):
    conv = nn.Conv2d(4, 6, 3, **options)
    x = torch.randn(1, 4, 7, 6, requires_grad=True)
    with peak_backprop():
        y = conv(x)
    torch.testing.assert_close(y, F.conv2d(x, conv.weight, conv.bias, **options))
    gradient = torch.rand_like(y)
    y.backward(gradient)
    torch.testing.assert_close(x.grad, slow_shares(conv, x.detach(), gradient))
    assert conv.weight.grad is None and conv.bias.grad is None


def test_shares_through_a_small_network_are_those_of_the_slow_form():
    first, second, last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 1)
    nn.init.uniform_(last.weight)  # else what is left by ReLU may have no positive weight
    image = torch.randn(1, 3, 8, 9, requires_grad=True)
    with peak_backprop():
        hidden = first(image)
        pooled = F.max_pool2d(F.relu(hidden), 2)
        response = last(F.relu(second(pooled)))
    found = response_map(response[0, 1, 0, 1], image)

    gradient = torch.zeros_like(response)
    gradient[0, 1, 0, 1] = 1
    with torch.no_grad():
        before = second(pooled)
        gradient = slow_shares(last, F.relu(before), gradient) * (before > 0)
        gradient = slow_shares(second, pooled, gradient)
    (gradient,) = torch.autograd.grad(F.max_pool2d(F.relu(hidden), 2), hidden, gradient)
    shares = slow_shares(first, image.detach(), gradient).sum(dim=1)[0].clamp(min=0)
    torch.testing.assert_close(found, shares / shares.sum())
    assert found.sum().item() == pytest.approx(1)


def test_it_ends_with_its_context():
    conv, x = nn.Conv2d(3, 2, 3), torch.randn(1, 3, 5, 5, requires_grad=True)
    with peak_backprop():
        pass
    conv(x).sum().backward()
    expected = torch.nn.grad.conv2d_input(x.shape, conv.weight, torch.ones(1, 2, 3, 3))
    torch.testing.assert_close(x.grad, expected)


def test_a_response_of_nothing_is_a_map_of_zeros():
    conv = nn.Conv2d(1, 1, 1)
    nn.init.constant_(conv.weight, -1.0)
    image = torch.rand(1, 1, 4, 4, requires_grad=True)
    with peak_backprop():
        response = conv(image)[0, 0, 2, 2]
    assert not response_map(response, image).any()


# ------------------------------------------------------------------------------- model


class Pixels(Backbone):
    """Features are means of 4×4 pixels, so responses are known."""

    def forward(self, x):
        return {"features": F.avg_pool2d(x, 4, ceil_mode=True)}

    def output_shape(self):
        return {"features": ShapeSpec(channels=3, stride=4)}


def pixels_model():
    """A category for each channel: the response is the channel's brightness."""
    model = PeakResponseClassifier(backbone=Pixels(), num_classes=3, pixel_mean=(0.0, 0.0, 0.0))
    with torch.no_grad():
        model.classifier.weight.copy_(torch.eye(3)[..., None, None])
        model.classifier.bias.zero_()
    return model.eval()


def spots(*places, size=(24, 32)):
    """A dark image with bright squares: (channel, row, column, brightness) of features."""
    image = torch.zeros(3, *size)
    for channel, row, column, value in places:
        image[channel, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = value
    return {"image": image}


def test_peaks_of_the_asked_categories_with_their_maps():
    model = pixels_model()
    x = spots((0, 1, 1, 9.0), (0, 4, 6, 5.0), (0, 1, 5, 1.0), (2, 2, 3, 2.0))
    with torch.no_grad():  # as inference has it
        peaks = model.peaks(x, [0, 2], 4.0)
    assert peaks.classes.tolist() == [0, 0, 2]  # of category 2 none is large enough: its largest
    assert peaks.responses.tolist() == [9.0, 5.0, 2.0]
    assert peaks.points.tolist() == [[4.5, 4.5], [24.5, 16.5], [12.5, 8.5]]
    for i, (x0, y0) in enumerate([(4, 4), (24, 16), (12, 8)]):
        response = peaks.map(i)
        assert response.shape == (24, 32) and not response.requires_grad
        assert response[y0 : y0 + 4, x0 : x0 + 4].sum().item() == pytest.approx(1)
    assert len(peaks) == 3 and not len(model.peaks(x, [], 4.0))


def test_scores_do_not_depend_on_the_batch():
    model = pixels_model()
    small, large = spots((1, 1, 1, 3.0), size=(18, 20)), spots((2, 1, 1, 3.0), (0, 4, 4, 2.0))
    together = [x["image_scores"] for x in model([small, large])]
    alone = [model([x])[0]["image_scores"] for x in (small, large)]
    torch.testing.assert_close(together, alone)
    assert together[0].argmax() == 1 and together[1].argmax() == 2


def test_the_loss_is_the_mean_logistic_loss_of_labels():
    model = pixels_model().train()
    first = spots((1, 1, 1, 3.0)) | {"image_labels": [1], "instances": make_targets([True], [0])}
    second = spots((2, 3, 3, 2.0)) | {"instances": make_targets([True, False], [2, 2])}
    loss = model([first, second])["loss_labels"]
    logits = torch.stack(
        [peak_stimulation(model.responses(x["image"][None]))[0] for x in (first, second)]
    )
    signs = torch.tensor([[-1, 1, -1], [-1, -1, 1]])
    expected = sum(math.log1p(math.exp(-v)) for v in (signs * logits).flatten().tolist()) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def test_an_image_without_labels_teaches():
    model = pixels_model().train()
    loss = model([spots((1, 1, 1, 3.0)) | {"image_labels": []}])["loss_labels"]
    assert loss.item() > math.log(2) / 2


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_a_resnet_says_which_pixels_it_looked_at(norm):
    stages = [
        ResNet.make_stage(
            BasicBlock, 1, stride_per_block=[s], in_channels=32, out_channels=32 * s, norm=norm
        )
        for s in (1, 2)
    ]
    trunk = ResNet(BasicStem(out_channels=32, norm=norm), stages, out_features=["res3"]).freeze(2)
    model = PeakResponseClassifier(backbone=trunk, num_classes=2).eval()
    x = {"image": torch.randint(0, 256, (3, 96, 64)).float()}
    before = model([x])[0]["image_scores"]
    peaks = model.peaks(x, [1], -math.inf)
    assert torch.equal(model([x])[0]["image_scores"], before)
    assert len(peaks) > 1
    reach = 60  # at most: half of the receptive field, and a feature
    off_center = []
    for i, (px, py) in enumerate(peaks.points.tolist()):
        response = peaks.map(i)
        assert (response >= 0).all() and response.sum().item() == pytest.approx(1, abs=1e-4)
        rows, columns = response.nonzero().unbind(1)
        assert (rows - py).abs().max() < reach and (columns - px).abs().max() < reach
        for places, size, point in ((rows, 96, py), (columns, 64, px)):
            first, last = places.min().item(), places.max().item() + 1
            if first > 0 and last < size:  # all that the peak's feature sees is in the image
                off_center.append((first + last) / 2 - point)
    assert off_center and max(map(abs, off_center)) < 1
    assert all(p.grad is None for p in model.parameters())
    assert norm != "FrozenBN" or isinstance(trunk.stem.conv1.norm, FrozenBatchNorm2d)


# ------------------------------------------------------------------------------ config


def make_cfg(*opts):
    cfg = get_cfg()
    add_maskx_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "PeakResponseClassifier", "MODEL.DEVICE", "cpu"),
            *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.IMAGE_LABELS.NUM_CLASSES", 5, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False),
            *opts,
        ]
    )
    return cfg


def test_defaults_are_the_papers():
    cfg = get_cfg()
    add_maskx_config(cfg)
    assert dict(cfg.MODEL.IMAGE_LABELS) == {"NUM_CLASSES": 80, "WINDOW": 3}


def test_it_is_built_from_a_config():
    model = build_model(make_cfg("MODEL.IMAGE_LABELS.WINDOW", 5))
    assert type(model) is PeakResponseClassifier
    assert (model.num_classes, model.window, model.stride) == (5, 5, 16)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]), "one feature map, not .'res3', 'res4'."),
        (("MODEL.IMAGE_LABELS.WINDOW", 4), "a window of 4 features has no middle"),
        (("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True), "set DATALOADER.FILTER_EMPTY_ANNOTATIONS"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        build_model(make_cfg(*opts))


def test_features_of_vgg_have_other_centres():
    trunk = VGGBackbone()
    for i, layer in enumerate(trunk.features):
        if isinstance(layer, torch.nn.MaxPool2d):
            trunk.features[i] = torch.nn.AvgPool2d(2)  # in which all pixels have a part
        elif isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.weight, 1 / layer.in_channels)
    model = PeakResponseClassifier(backbone=trunk, num_classes=1, pixel_mean=[0, 0, 0]).eval()
    torch.nn.init.constant_(model.classifier.weight, 1)
    image = torch.full((3, 320, 320), 10.0)
    image[:, 0, 0], image[:, 150:170, 180:200] = 0, 255  # shares are of what is above the least
    peaks = model.peaks({"image": image}, [0], math.inf)
    rows, columns = peaks.map(0).nonzero().unbind(1)
    assert (rows.min() > 0) and (columns.max() < 319), "else the border cuts off what it sees"
    centre = [(int(v.min()) + int(v.max()) + 1) / 2 for v in (columns, rows)]
    assert peaks.points[0].tolist() == centre
