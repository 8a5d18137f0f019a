import pytest
import torch
from conftest import make_batch, make_targets, tiny_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from maskx_d2.modeling import MLPBranch, MLPConvUpsampleHead


def test_full_rank_is_one_matrix():
    branch = MLPBranch(3, 4)
    x = torch.randn(2, 3, 4, 4)
    weight, bias = branch.parameters()
    assert weight.shape == (16, 48)
    expected = (x.reshape(2, 48) @ weight.T + bias).reshape(2, 1, 4, 4)
    torch.testing.assert_close(branch(x), expected)


def test_low_rank_is_a_product_of_two():
    branch = MLPBranch(3, 4, rank=2)
    x = torch.randn(2, 3, 4, 4)
    down, up, bias = branch.parameters()
    matrix = up @ down
    assert torch.linalg.matrix_rank(matrix) == 2
    expected = (x.reshape(2, 48) @ matrix.T + bias).reshape(2, 1, 4, 4)
    torch.testing.assert_close(branch(x), expected)


def test_parameters_and_start():
    small = MLPBranch(256, 28, rank=16)
    assert sum(p.numel() for p in small.parameters()) == 200_704 * 16 + 16 * 784 + 784
    for branch in (MLPBranch(64, 14), MLPBranch(64, 14, rank=16)):
        logits = branch(torch.randn(64, 64, 14, 14))
        assert logits.std().item() == pytest.approx(0.001 * (64 * 14 * 14) ** 0.5, rel=0.3)


def test_hidden_layers_are_the_authors():
    branch = MLPBranch(3, 4, hidden_dims=(6, 5))
    x = torch.randn(2, 3, 4, 4)
    w1, b1, w2, b2, w3, b3 = branch.parameters()
    hidden = (x.reshape(2, 48) @ w1.T + b1).relu()
    hidden = (hidden @ w2.T + b2).relu()
    torch.testing.assert_close(branch(x), (hidden @ w3.T + b3).reshape(2, 1, 4, 4))
    with pytest.raises(ValueError, match="a rank or hidden layers, not both"):
        MLPBranch(3, 4, rank=2, hidden_dims=(6,))


def test_rank_must_not_be_negative():
    with pytest.raises(ValueError, match=r"rank of the MLP branch is -1 \(MODEL\.MASKX\.MLP_RANK"):
        MLPBranch(3, 4, rank=-1)


@pytest.mark.parametrize("num_classes", [1, 5])
def test_class_agnostic_and_class_specific_heads_add_it(num_classes):
    shape = ShapeSpec(channels=4, height=7, width=7)
    head = MLPConvUpsampleHead(shape, num_classes=num_classes, conv_dims=[6, 6], mlp_rank=2)
    stock = MaskRCNNConvUpsampleHead(shape, num_classes=num_classes, conv_dims=[6, 6])
    stock.load_state_dict({k: v for k, v in head.state_dict().items() if "mlp" not in k})
    x = torch.randn(3, 4, 7, 7)
    trunk = x
    for layer in list(stock)[:-1]:
        trunk = layer(trunk)
    torch.testing.assert_close(head.layers(x), stock.layers(x) + head.mlp_branch(trunk))


def test_class_agnostic_with_mlp_trains(storage):
    cfg = tiny_cfg(
        "coco/voc2nonvoc/class_agnostic_R_50_FPN_1x.yaml",
        *("MODEL.ROI_MASK_HEAD.NAME", "MLPConvUpsampleHead", "MODEL.MASKX.MLP_RANK", 2),
    )
    model = build_model(cfg)
    model(make_batch(make_targets([True, False], [0, 1])))["loss_mask"].backward()
    for parameter in model.roi_heads.mask_head.mlp_branch.parameters():
        assert parameter.grad is not None
