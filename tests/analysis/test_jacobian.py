"""Exact Jacobians against independent ways to compute them; kinks found; memory bounded."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pso_lib.analysis import jacobian as jac
from pso_lib.analysis.spectrum import isometry_error
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import Fold
from pso_lib.nn.networks import deep_network, plain_network

ACTIVATIONS = ["relu", "leaky_relu", "abs", "zigzag", "maxmin", "householder", "tanh", "gelu", "silu"]


def points(count: int, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, n, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jacobian_equals_finite_differences(activation):
    network = plain_network(3, 6, activation=activation, generator=seeded(), dtype=torch.float64)
    x, h = points(4, 6), 1e-6
    steps = h * torch.eye(6, dtype=torch.float64)
    differences = torch.stack([(network(p + steps) - network(p - steps)) / (2 * h) for p in x]).mT
    torch.testing.assert_close(jac.jacobian(network, x), differences, rtol=1e-6, atol=1e-7)


def test_jacobian_keeps_no_graph_and_no_hook():
    network = deep_network(2, 4, generator=seeded(), dtype=torch.float64)
    assert not jac.jacobian(network, points(3, 4)).requires_grad
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_cumulative_jacobians_are_products():
    network = deep_network(5, 4, layer="residual", generator=seeded(), dtype=torch.float64)
    x = points(3, 4)
    G = jac.cumulative_jacobians(network, x)
    assert G.shape == (5, 3, 4, 4)
    product, h = torch.eye(4, dtype=torch.float64).expand(3, 4, 4), x
    for layer, got in zip(network.layers, G, strict=True):
        product = jac.jacobian(layer, h) @ product
        h = layer(h).detach()
        torch.testing.assert_close(got, product)
    torch.testing.assert_close(jac.spectrum_by_depth(network, x)[-1], torch.linalg.svdvals(G[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [5, 50, 200])
def test_folds_stay_isometric_at_any_depth(depth):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        network = deep_network(depth, 64, layer="fold", generator=seeded(depth), dtype=dtype)
        J, mask = jac.jacobian(network, points(5, 64).to(dtype), on_kink="flag")
        assert isometry_error(J[~mask]).max() < tolerance


@pytest.mark.parametrize("inputs", [None, 7])
def test_gradient_norms(inputs):
    network = deep_network(3, 5, inputs=inputs, classes=4, generator=seeded(), dtype=torch.float64)
    x, y = points(6, inputs or 5), torch.tensor([0, 1, 2, 3, 0, 1])
    norms = jac.gradient_norms(network, x, y)
    assert norms.shape == (4, 6)
    for row in range(6):  # one example at a time, by plain autograd
        h = (network.lift(x[row]) if inputs else x[row]).detach().requires_grad_()
        loss = nn.functional.cross_entropy(network.readout(network.trunk(h)), y[row])
        torch.testing.assert_close(norms[0, row], torch.autograd.grad(loss, h)[0].norm())


def test_gradient_norms_of_folds_do_not_depend_on_the_layer():
    network = deep_network(200, 16, layer="fold", inputs=9, classes=3, generator=seeded(), dtype=torch.float64)
    norms = jac.gradient_norms(network, points(5, 9), torch.tensor([0, 1, 2, 0, 1]))
    torch.testing.assert_close(norms, norms[-1:].expand_as(norms), rtol=1e-12, atol=0)


# What is refused


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: jac.jacobian(Fold(3), torch.zeros(3)), ["(3,)", "x[None]"]),
        (lambda: jac.jacobian(Fold(3), torch.zeros(0, 3)), ["N >= 1"]),
        (lambda: jac.jacobian(Fold(3), torch.ones(1, 3).long()), ["int64", "double"]),
        (lambda: jac.jacobian(Fold(3), torch.full((1, 3), torch.nan)), ["x holds 3 non-finite"]),
        (lambda: jac.jacobian(Fold(3), torch.ones(1, 3), on_kink="rise"), ["Did you mean 'raise'"]),
        (lambda: jac.jacobian(lambda x: x.sum(), torch.ones(1, 3)), ["it must give (m,)"]),
        (lambda: jac.cumulative_jacobians(deep_network(2, 4), torch.ones(1, 3)), ["(1, 3)", "4"]),
        (lambda: jac.singular_values(torch.full((2, 2), torch.inf)), ["non-finite"]),
    ],
)
def test_bad_input_names_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_non_finite_weights_are_named():
    network = deep_network(2, 3, generator=seeded())
    with torch.no_grad():
        network.layers[1].A[0, 0] = torch.nan
    with pytest.raises(ValueError, match="layers.1.A"):
        jac.jacobian(network, torch.ones(1, 3))


@pytest.mark.slow
def test_memory_stays_bounded():
    """300 inputs, n = 64, L = 200: within 1.5 GB, everything included."""
    script = (
        "import resource, torch; from pso_lib import deep_network, jacobian;"
        "g = torch.Generator().manual_seed(0); network = deep_network(200, 64, layer='fold', generator=g);"
        "J, _ = jacobian(network, torch.randn(300, 64, generator=g), on_kink='flag'); "
        "assert J.shape == (300, 64, 64);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert int(out.stdout) * 1024 < 1.5e9


# Training through a Jacobian


@pytest.mark.parametrize("classes", [None, 2])
def test_a_penalty_on_the_jacobian_trains(classes):
    """Its gradient by the weights, against finite differences; in forward mode (6 to 6) and in reverse (6 to 2)."""
    network = deep_network(2, 6, classes=classes, activation="tanh", generator=seeded(), dtype=torch.float64)
    x, W, h = points(3, 6), network.layers[0].A, 1e-6

    def penalty():
        return isometry_error(jac.jacobian(network, x, create_graph=True).mT).sum()

    penalty().backward()
    for i, j in ((0, 0), (3, 5)):
        with torch.no_grad():
            W[i, j] += h
            up = penalty()
            W[i, j] -= 2 * h
            down = penalty()
            W[i, j] += h
        assert W.grad[i, j].item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-5, abs=1e-8)
    assert W.grad.abs().max() > 1e-3


def test_the_default_is_detached_and_the_values_are_the_same():
    network = deep_network(2, 6, generator=seeded(), dtype=torch.float64)
    with_graph = jac.jacobian(network, points(3, 6), create_graph=True)
    without = jac.jacobian(network, points(3, 6))
    assert with_graph.requires_grad and not without.requires_grad and torch.equal(with_graph, without)


# Precision


@pytest.mark.parametrize(
    "call",
    [
        lambda n, x: jac.jacobian(n, x),
        lambda n, x: jac.cumulative_jacobians(n, x),
        lambda n, x: jac.gradient_norms(n, x, torch.zeros(len(x), dtype=torch.long)),
        lambda n, x: jac.kink_margin(n, x),
        lambda n, x: jac.kink_distance(n, x),
        lambda n, x: jac.jacobian(nn.Sequential(nn.Linear(4, 4)), x),
    ],
)
def test_two_precisions_are_named_with_the_remedy(call):
    network = plain_network(2, 4, generator=seeded())
    with pytest.raises(ValueError, match=r"x is torch.float64, the weights are torch.float32; pass x.to"):
        call(network, points(3, 4))


@pytest.mark.parametrize(
    "module", [torch.nn.ELU(inplace=True), torch.nn.SiLU(inplace=True), torch.nn.ELU(inplace=False)]
)
def test_what_works_in_place_reaches_neither_x_nor_other_rows(module):
    x = torch.tensor([[-1.0, -2.0], [-1.0, -2.0], [0.5, 1.0]], dtype=torch.float64)
    before = x.clone()
    J = jac.jacobian(torch.nn.Sequential(module), x, on_kink="ignore")
    assert torch.equal(x, before)
    own = x.clone().requires_grad_()
    slopes = torch.autograd.grad(type(module)()(own).sum(), own)[0]
    torch.testing.assert_close(J, torch.diag_embed(slopes))


def test_gradients_that_vanish_are_not_zero():
    network = plain_network(6, 8, activation="tanh", dtype=torch.float64, inputs=8, classes=3)
    for layer in network.layers:
        layer.set_weights(A=1e-5 * layer.A.detach())
    x, y = torch.randn(4, 8, dtype=torch.float64), torch.arange(4) % 3
    exact = jac.gradient_norms(network, x, y)
    assert 0 < exact.min() < 1e-25
    found = jac.gradient_norms(network.float(), x.float(), y)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0)
