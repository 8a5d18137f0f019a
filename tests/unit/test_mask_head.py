import numpy as np
import pytest
import torch
from conftest import tiny_cfg
from detectron2.export.torchscript_patch import patch_instances
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances
from torch.overrides import TorchFunctionMode

from maskx_d2.modeling import MaskXConvUpsampleHead, WeightTransfer

C, K = 6, 5  # channels, categories
CHANNELS, SIDE = 4, 7  # of the pooled features; M = 14


def mask_head(**kwargs):
    head = MaskXConvUpsampleHead(
        ShapeSpec(channels=CHANNELS, height=SIDE, width=SIDE), conv_dims=[8, C], **kwargs
    )
    return head.eval()


def rois(classes):
    instances = Instances((64, 64))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 20.0, 20.0]] * len(classes)))
    instances.pred_classes = torch.tensor(classes)
    return instances


def test_per_roi_selection_equals_the_class_specific_convolution():
    class_weights = torch.randn(K, C)
    ours = mask_head()
    stock = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=CHANNELS, height=SIDE, width=SIDE), num_classes=K, conv_dims=[8, C]
    ).eval()
    stock.load_state_dict(
        {
            **ours.state_dict(),
            "predictor.weight": class_weights[:, :, None, None],
            "predictor.bias": torch.zeros(K),
        }
    )
    x = torch.randn(7, CHANNELS, SIDE, SIDE)
    batch = [rois([4, 0, 0]), rois([2, 1, 3, 4])]
    actual = [i.pred_masks for i in ours(x, batch, class_weights)]
    expected = [i.pred_masks for i in stock(x, [rois([4, 0, 0]), rois([2, 1, 3, 4])])]
    assert [m.shape for m in actual] == [(3, 1, 14, 14), (4, 1, 14, 14)]
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_logits_follow_the_paper_in_numpy():
    """T, the selected 1×1 convolution and the MLP branch from the same weights, by hand."""
    head = mask_head(mlp_branch=True)
    transfer = WeightTransfer(3, C, hidden_dims=(4,))
    torch.nn.init.normal_(head.mlp_branch[0].weight)
    torch.nn.init.normal_(head.mlp_branch[0].bias)
    vectors, x = torch.randn(K, 3), torch.randn(2, CHANNELS, SIDE, SIDE)
    classes = [3, 1]
    with torch.no_grad():
        features = x
        for layer in list(head)[: head.num_trunk_layers]:
            features = layer(features)
        logits = head.layers(x, transfer(vectors)[classes]).numpy()

    features = features.double().numpy()
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in transfer.parameters())
    w_mlp, b_mlp = (p.detach().double().numpy() for p in head.mlp_branch.parameters())
    hidden = vectors.double().numpy() @ w1.T + b1
    w_seg = np.maximum(hidden, 0.1 * hidden) @ w2.T + b2
    for r, c in enumerate(classes):
        expected = np.zeros((14, 14))
        for channel in range(C):
            expected += w_seg[c, channel] * features[r, channel]
        expected += (w_mlp @ features[r].ravel() + b_mlp).reshape(14, 14)
        np.testing.assert_allclose(logits[r, 0], expected, rtol=1e-3, atol=1e-3)


def test_mlp_branch_is_the_papers():
    head = MaskXConvUpsampleHead(
        ShapeSpec(channels=8, height=14, width=14), conv_dims=[8], mlp_branch=True
    )
    assert head.mlp_branch[0].weight.shape == (28 * 28, 8 * 28 * 28)
    assert head.mlp_branch[0].weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert not head.mlp_branch[0].bias.any()
    with pytest.raises(ValueError, match="features of one known square size, got None×None"):
        MaskXConvUpsampleHead(ShapeSpec(channels=8), conv_dims=[8], mlp_branch=True)


class LargestTensor(TorchFunctionMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_memory_does_not_grow_with_the_number_of_categories():
    x = torch.randn(16, CHANNELS, SIDE, SIDE)
    largest = {}
    for num_classes in (2, 3000):
        class_weights = torch.randn(num_classes, C)
        instances = [rois([num_classes - 1] * 16)]
        with torch.no_grad(), LargestTensor() as recorded:
            mask_head()(x, instances, class_weights)
        largest[num_classes] = recorded.numel
    assert largest[3000] == largest[2] < 16 * 3000


@pytest.mark.parametrize("mlp_branch", [False, True])
def test_scripts(mlp_branch):
    head = mask_head(mlp_branch=mlp_branch)
    x, class_weights = torch.randn(3, CHANNELS, SIDE, SIDE), torch.randn(K, C)
    expected = head(x, [rois([1, 4, 0])], class_weights)[0].pred_masks
    fields = {"pred_boxes": Boxes, "pred_classes": torch.Tensor, "pred_masks": torch.Tensor}
    with patch_instances(fields) as scripted_instances:
        scripted = torch.jit.script(head)
        instances = scripted_instances.from_instances(rois([1, 4, 0]))
        actual = scripted(x, [instances], class_weights)[0].pred_masks
    assert torch.equal(actual, expected)


def test_class_agnostic_configuration_is_an_error_that_says_what_to_use():
    cfg = tiny_cfg()
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    with pytest.raises(ValueError, match=r"MODEL\.ROI_HEADS\.NAME to SupervisedMasksROIHeads"):
        MaskXConvUpsampleHead(cfg, ShapeSpec(channels=CHANNELS, height=SIDE, width=SIDE))
