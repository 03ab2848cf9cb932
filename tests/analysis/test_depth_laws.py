"""What depth does to a random ReLU network at its start: the laws the chapter on depth derives."""

import math

import pytest
import torch

from pso_lib.analysis.jacobian import cumulative_jacobians, gradient_norms
from pso_lib.analysis.spectrum import stable_rank
from pso_lib.nn.activations import PiecewiseAffine
from pso_lib.nn.init import gaussian, haar
from pso_lib.nn.networks import plain_network

N = 24


def psi(k):
    return torch.digamma(torch.as_tensor(k, dtype=torch.float64) / 2)


def price_of_a_layer(n: int, haar_matrix: bool, relu: bool) -> float:
    """The mean of log r_(l-1) - log r_l, with r the height over the base of a parallelogram; k >= 2 active units."""
    k = torch.arange(2, n + 1, dtype=torch.float64)
    coins = torch.distributions.Binomial(n, torch.tensor(0.5, dtype=torch.float64)).log_prob(k).exp()
    coins = coins / coins.sum() if relu else (k == n).double()
    price = (coins * (psi(k) - psi(k - 1))).sum() / 2
    return (price - (psi(n) - psi(n - 1)) / 2 if haar_matrix else price).item()


def measured_steps(haar_matrix: bool, relu: bool, draws: int = 2000) -> torch.Tensor:
    g = torch.Generator().manual_seed(7)
    make = (lambda: 2**0.5 * haar(N, N, g)) if haar_matrix else (lambda: gaussian(N, N, (2 / N) ** 0.5, g))
    A = torch.stack([make() for _ in range(draws)])
    x = torch.randn(N, dtype=torch.float64, generator=g)
    # u is x itself: the direction that the active units know about must make no difference
    frame = torch.linalg.qr(torch.stack([x, torch.randn(N, dtype=torch.float64, generator=g)], 1))[0]
    active = (A @ x > 0)[:, :, None] if relu else 1
    R = torch.linalg.qr(active * (A @ frame))[1]
    return (R[:, 0, 0] / R[:, 1, 1]).abs().log()


@pytest.mark.parametrize("haar_matrix", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_the_price_of_a_layer(haar_matrix, relu):
    steps, price = measured_steps(haar_matrix, relu), price_of_a_layer(N, haar_matrix, relu)
    assert abs(steps.mean() - price) <= 4 * steps.std() / len(steps) ** 0.5 + 1e-12
    if haar_matrix and not relu:
        assert steps.abs().max() < 1e-12


def test_a_perfect_matrix_halves_the_price():
    n = 4096
    he, orthogonal = price_of_a_layer(n, False, True), price_of_a_layer(n, True, True)
    assert n * he == pytest.approx(1, rel=1e-2) and n * orthogonal == pytest.approx(0.5, rel=1e-2)


def test_active_units_are_fair_coins_independent_of_the_gram_matrix():
    g = torch.Generator().manual_seed(1)
    A = torch.randn(20_000, 4, 4, dtype=torch.float64, generator=g)
    x = torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64)
    active = (A @ x > 0).double()
    assert (active.mean(0) - 0.5).abs().max() < 0.02
    squared = (A @ x) ** 2  # a function of a_i a_i^T
    covariance = ((active - 0.5) * (squared - squared.mean(0))).mean(0)
    assert covariance.abs().max() < 4 * 0.5 * squared.std() / 20_000**0.5


@pytest.mark.parametrize("cosine", [-0.8, 0.0, 0.5, 0.95])
@pytest.mark.parametrize("slope", [0, "1/2", -1])
def test_the_correlation_map_of_a_wide_layer(cosine, slope):
    def fold(c):
        return 2 / math.pi * (math.sqrt(1 - c * c) + c * math.asin(c))

    s = 0.5 if slope == "1/2" else float(slope)
    a, b = (1 + s) ** 2, (1 - s) ** 2
    g = torch.Generator().manual_seed(3)
    u, w = torch.randn(2, 400_000, dtype=torch.float64, generator=g)
    sigma = PiecewiseAffine("leaky", (0,), (slope, 1))
    p, q = sigma(u), sigma(cosine * u + math.sqrt(1 - cosine**2) * w)
    found = torch.nn.functional.cosine_similarity(p, q, dim=0).item()
    assert found == pytest.approx((a * cosine + b * fold(cosine)) / (a + b), abs=6e-3)
    if slope == 0:
        kappa = (math.sqrt(1 - cosine**2) + cosine * (math.pi - math.acos(cosine))) / math.pi
        assert (a * cosine + b * fold(cosine)) / (a + b) == pytest.approx(kappa, abs=1e-12)


def test_stable_rank_falls_to_one_and_stays_full_without_relu():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, N, dtype=torch.float64, generator=g)
    for start in ("he", "orthogonal"):
        net = plain_network(300, N, start=start, generator=g, dtype=torch.float64)
        assert stable_rank(cumulative_jacobians(net, x)[-1, 0]) < 1.05
    linear = PiecewiseAffine("linear", (), (1,))
    net = plain_network(300, N, start="orthogonal", activation=linear, generator=g, dtype=torch.float64)
    assert stable_rank(cumulative_jacobians(net, x)[-1, 0]).item() == pytest.approx(N)


def test_xavier_loses_root_two_a_layer():
    g = torch.Generator().manual_seed(0)
    net = plain_network(100, 256, start="xavier", classes=10, generator=g, dtype=torch.float64)
    x = torch.randn(8, 256, dtype=torch.float64, generator=g)
    norms = gradient_norms(net, x, torch.arange(8))
    per_layer = (norms[0] / norms[-1]).log2().mean() / 100
    assert per_layer == pytest.approx(-0.5, abs=0.05)
