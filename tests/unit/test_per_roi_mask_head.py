"""The mask head that computes one mask for each RoI is detectron2's in all but cost."""

import pytest
import torch
from conftest import tiny_cfg
from detectron2.export.torchscript_patch import freeze_training_mode, patch_instances
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from torch.overrides import TorchFunctionMode

from maskx_d2.modeling import PerRoIConvUpsampleHead

C, K = 6, 5  # channels, categories
INPUT = ShapeSpec(channels=4, height=7, width=7)


def heads():
    """Detectron2's and ours with the same parameters, of which the bias is not zero."""
    stock = MaskRCNNConvUpsampleHead(INPUT, num_classes=K, conv_dims=[8, C])
    torch.nn.init.normal_(stock.predictor.weight)
    torch.nn.init.normal_(stock.predictor.bias)
    ours = PerRoIConvUpsampleHead(INPUT, num_classes=K, conv_dims=[8, C])
    ours.load_state_dict(stock.state_dict())  # the same names and shapes
    return stock, ours


def rois(classes, field="pred_classes"):
    instances = Instances((64, 64))
    boxes = Boxes(torch.tensor([[0.0, 0.0, 20.0, 30.0]] * len(classes)).reshape(-1, 4))
    instances.set("pred_boxes" if field == "pred_classes" else "proposal_boxes", boxes)
    instances.set(field, torch.tensor(classes, dtype=torch.int64))
    return instances


def test_inference_is_detectron2s():
    stock, ours = (h.eval() for h in heads())
    x = torch.randn(7, 4, 7, 7)
    batch = [[4, 0, 0], [], [2, 1, 3, 4]]
    actual = [i.pred_masks for i in ours(x, [rois(c) for c in batch])]
    expected = [i.pred_masks for i in stock(x, [rois(c) for c in batch])]
    assert [m.shape for m in actual] == [(3, 1, 14, 14), (0, 1, 14, 14), (4, 1, 14, 14)]
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6)


def test_training_is_detectron2s(storage):
    stock, ours = heads()
    x = torch.randn(3, 4, 7, 7)
    instances = rois([4, 0, 2], "gt_classes")
    instances.gt_masks = BitMasks(torch.rand(3, 64, 64) > 0.5)
    losses = [head(x, [instances])["loss_mask"] for head in (stock, ours)]
    torch.testing.assert_close(*losses)
    gradients = []
    for head, loss in zip((stock, ours), losses):
        loss.backward()
        gradients.append({name: p.grad for name, p in head.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
    assert gradients[1]["predictor.weight"].any()


class LargestTensor(TorchFunctionMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and func.__name__ != "__get__":
            self.numel = max(self.numel, out.numel())
        return out


@torch.no_grad()
def test_memory_does_not_grow_with_the_number_of_categories():
    x = torch.randn(16, 4, 7, 7)
    largest = {}
    for num_classes in (2, 1000):
        head = PerRoIConvUpsampleHead(INPUT, num_classes=num_classes, conv_dims=[C]).eval()
        with LargestTensor() as recorded:
            head(x, [rois([num_classes - 1] * 16)])
        largest[num_classes] = recorded.numel
    assert largest[1000] == largest[2]


@pytest.mark.parametrize("mlp_branch", [False, True])
def test_scripts(mlp_branch):
    head = PerRoIConvUpsampleHead(INPUT, num_classes=K, conv_dims=[8, C], mlp_branch=mlp_branch)
    head.eval()
    x = torch.randn(3, 4, 7, 7)
    expected = head(x, [rois([1, 4, 0])])[0].pred_masks
    fields = {"pred_boxes": Boxes, "pred_classes": torch.Tensor, "pred_masks": torch.Tensor}
    with patch_instances(fields) as scripted_instances, freeze_training_mode(head):
        scripted = torch.jit.script(head)
        actual = scripted(x, [scripted_instances.from_instances(rois([1, 4, 0]))])[0].pred_masks
    assert torch.equal(actual, expected)


def test_class_agnostic_masks_are_refused():
    cfg = tiny_cfg()
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    with pytest.raises(ValueError, match=r"MODEL\.ROI_MASK_HEAD\.NAME to MaskRCNNConvUpsampleHead"):
        PerRoIConvUpsampleHead(cfg, INPUT)
