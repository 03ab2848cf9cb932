"""What the chapter on building the layers measures and derives, as properties of the library."""

import math

import pytest
import torch

from pso_lib.analysis.jacobian import cumulative_jacobians, jacobian
from pso_lib.analysis.spectrum import isometry_error
from pso_lib.nn.init import haar, seeded
from pso_lib.nn.layers import Layer
from pso_lib.nn.networks import deep_network

DOUBLE = {"dtype": torch.float64}


def folds(depth: int, dtype=torch.float64, seed: int = 0):
    return deep_network(depth, 64, layer="fold", generator=seeded(seed), dtype=dtype)


def points(count: int, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, n, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_grows_like_the_root_of_the_depth(dtype):
    """From L = 8 to 200 the isometry error grows about fivefold; were it linear, it would be 25-fold."""
    growth = []
    for seed in range(3):
        network, x = folds(200, dtype, seed), points(1, 64, 10 + seed).to(dtype)
        G = cumulative_jacobians(network, x, on_kink="ignore")[:, 0].double()  # crowded: some kink is always near
        growth.append((isometry_error(G[199]) / isometry_error(G[7])).item())
    assert 2.5 < sum(growth) / 3 < 11


def test_independent_folds_bring_inputs_together():
    """Never apart; after one layer at b = 0, to sqrt(1 - 2/pi) of the distance of two Gaussian points."""
    with torch.no_grad():
        distances = torch.stack([torch.pdist(state) for state in folds(200).states(points(40, 64))])
    assert (distances.diff(dim=0) < 1e-12).all()
    ratio = (distances / distances[0]).mean(1)
    assert ratio[1].item() == pytest.approx(math.sqrt(1 - 2 / math.pi), abs=0.02)
    assert ratio[200] < 0.15


def test_folding_twice_along_the_same_creases_changes_nothing():
    layer = folds(1).layers[0]
    x = points(20, 64)
    torch.testing.assert_close(layer(layer(x)), layer(x), rtol=0, atol=1e-13)


def test_orthonormal_columns_give_a_contraction():
    """h > n, A^T A = I, P = A^T D A: J^T J - I = 4 (P^2 - P), and no singular value exceeds 1."""
    layer = Layer(5, 12, alpha=1, beta=-2, outer="tied", generator=seeded(), **DOUBLE)
    layer.set_weights(A=haar(12, 5, seeded(2)), b=torch.randn(12, generator=seeded(3)))
    x = points(30, 5)
    J = jacobian(layer, x)
    active = (layer.preactivation(x) > 0).double()
    P = torch.einsum("hi,Nh,hj->Nij", layer.A, active, layer.A)
    torch.testing.assert_close(J.mT @ J - torch.eye(5, **DOUBLE), 4 * (P @ P - P), rtol=0, atol=1e-13)
    assert torch.linalg.svdvals(J).max() < 1 + 1e-13
    assert isometry_error(J).max() > 0.1
