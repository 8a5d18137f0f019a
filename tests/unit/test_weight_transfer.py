import numpy as np
import pytest
import torch

from maskx_d2.modeling import WeightTransfer


@pytest.mark.parametrize("hidden_dims", [(), (7,), (7, 6)])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_equals_the_definition_in_numpy(hidden_dims, slope):
    transfer = WeightTransfer(5, 3, hidden_dims=hidden_dims, negative_slope=slope)
    for p in transfer.parameters():
        torch.nn.init.normal_(p)  # biases too: they are zero at first
    x = np.random.default_rng(0).normal(size=(4, 5))
    expected = x
    weights = [p.detach().double().numpy() for p in transfer.parameters()]
    for layer, (w, b) in enumerate(zip(weights[::2], weights[1::2])):
        if layer > 0:
            expected = np.where(expected > 0, expected, slope * expected)
        expected = expected @ w.T + b
    actual = transfer(torch.from_numpy(x).float()).detach().numpy()
    assert len(weights) == 2 * (len(hidden_dims) + 1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_msra_initialisation_and_zero_biases():
    transfer = WeightTransfer(1000, 400, hidden_dims=(500,))
    for layer, fan_out in ((transfer[0], 500), (transfer[2], 400)):
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
        assert not layer.bias.any()


def test_dimensions_must_be_positive():
    with pytest.raises(ValueError, match=r"must be positive, got \(5, 0, 3\)"):
        WeightTransfer(5, 3, hidden_dims=(0,))


def test_dropout_and_noise_are_for_training_alone():
    torch.manual_seed(0)
    plain = WeightTransfer(16, 4)
    torch.manual_seed(0)
    regularised = WeightTransfer(16, 4, dropout=0.5, noise=0.5)
    vectors = torch.randn(3, 16)
    assert list(plain.state_dict()) == list(regularised.state_dict())
    assert not torch.equal(regularised(vectors), plain(vectors))
    assert torch.equal(regularised.eval()(vectors), plain(vectors))
    with pytest.raises(ValueError, match="dropout is"):
        WeightTransfer(16, 4, dropout=1.0)
