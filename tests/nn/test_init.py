"""Starting weights: their laws, their seeds, and what is refused."""

import math

import pytest
import torch

from pso_lib.nn import init
from pso_lib.nn.activations import get, leaky_relu
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import FeedForward, Fold
from pso_lib.nn.networks import deep_network, plain_network


@pytest.mark.parametrize("rows, columns", [(1, 1), (5, 5), (3, 8), (8, 3)])
def test_haar_is_orthogonal_along_its_short_side(rows, columns):
    Q = init.haar(rows, columns, seeded())
    gram = Q @ Q.T if rows <= columns else Q.T @ Q
    assert (gram - torch.eye(min(rows, columns), dtype=torch.float64)).abs().max() < 1e-14


def test_haar_has_no_preferred_direction():
    """Entries of a Haar matrix have mean 0 and variance 1/n; a QR without the sign fix would fail the mean."""
    g = seeded()
    draws = torch.stack([init.haar(4, 4, g) for _ in range(4000)])
    assert draws.mean(0).abs().max() < 4 * 0.5 / math.sqrt(4000)
    torch.testing.assert_close(draws.var(0), torch.full((4, 4), 0.25, dtype=torch.float64), atol=0.02, rtol=0)


def test_every_matrix_is_its_own_draw():
    network = deep_network(3, 6, layer="fold", generator=seeded(), dtype=torch.float64)
    for layer in network.layers:
        assert (layer.A @ layer.A.T - torch.eye(6, dtype=torch.float64)).abs().max() < 1e-14
    assert not torch.allclose(network.layers[0].A, network.layers[1].A)


@pytest.mark.parametrize("start, std", [("he", math.sqrt(2 / 256)), ("xavier", math.sqrt(1 / 256))])
def test_standard_deviation(start, std):
    network = plain_network(1, 256, start=start, generator=seeded())
    assert network.layers[0].A.std().item() == pytest.approx(std, rel=0.02)
    assert not network.layers[0].b.any()


def test_orthogonal_has_the_gain_of_its_activation():
    A = plain_network(1, 8, start="orthogonal", generator=seeded(), dtype=torch.float64).layers[0].A
    assert (A @ A.T - 2 * torch.eye(8, dtype=torch.float64)).abs().max() < 1e-14


@pytest.mark.parametrize("name, gain", [("relu", math.sqrt(2)), ("abs", 1.0), ("tanh", 5 / 3), ("gelu", 1.0)])
def test_gain(name, gain):
    assert init.gain_of(get(name)) == pytest.approx(gain)


@pytest.mark.parametrize("activation", ["relu", "abs", leaky_relu("1/3")])
@pytest.mark.parametrize("outer, hidden", [("identity", None), ("free", None), ("free", 200)])
def test_he_keeps_the_mean_square(activation, outer, hidden):
    """E |F(x)|^2 = |x|^2 over the draws, with one matrix or two, square or not."""
    g, x = seeded(), torch.randn(1, 100, generator=seeded(1), dtype=torch.float64)
    options = {"activation": activation, "outer": outer, "generator": g, "dtype": torch.float64, "hidden": hidden}
    ratios = [FeedForward(100, **options)(x).square().sum() / x.square().sum() for _ in range(300)]
    assert torch.stack(ratios).mean().item() == pytest.approx(1, abs=0.05)


def test_same_seed_same_network():
    first, second = (
        plain_network(4, 8, start="he", inputs=5, classes=3, ends="default", generator=seeded(7)) for _ in "ab"
    )
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_layers_of():
    network = deep_network(3, 4)
    assert init.layers_of(network) == list(network.layers) == init.layers_of(list(network.layers))
    assert init.layers_of(network.layers[0]) == [network.layers[0]]
    with pytest.raises(TypeError, match="Linear"):
        init.kaiming_(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_start_that_is_not_orthogonal_is_refused_where_orthogonality_is_kept():
    with pytest.raises(ValueError, match="not orthogonal"):
        init.kaiming_(Fold(4, orthogonal="always"))
