"""The checks of the chapter on building the layers: the solution passes, each likely mistake is named."""

import math

import pytest
import torch

from pso_lib.checks import Wrong, check
from pso_lib.nn.activations import leaky_relu
from pso_lib.nn.layers import Fold, Layer
from pso_lib.nn.networks import deep_network

DOUBLE = {"dtype": torch.float64}


def untouched(layer):
    return torch.linalg.svd(layer.A.detach())[2][layer.hidden :]


def leaky(n, s, generator, *, sign=1, flip=1, hidden=None, outer="tied", orthogonal="start", **options):
    options = {"alpha": -sign * (1 + s) / (1 - s), "beta": flip * sign * 2 / (1 - s)} | DOUBLE | options
    activation = options.pop("activation", leaky_relu(s))
    return Layer(n, hidden, activation=activation, outer=outer, orthogonal=orthogonal, generator=generator, **options)


def polar(A):
    U, _, Vh = torch.linalg.svd(A, full_matrices=False)
    return U @ Vh


def newton(A):
    return 1.5 * A - 0.5 * A @ A.T @ A


def shared(depth, dim, generator):
    network = deep_network(depth, dim, layer="fold", generator=generator, **DOUBLE)
    for layer in network.layers:
        layer.set_weights(A=network.layers[0].A)
    return network


HALF = torch.full((2, 1), math.sqrt(0.5))


@pytest.mark.parametrize(
    "name, answer",
    [
        ("untouched-subspace", (untouched,)),
        ("leaky-layer", (leaky,)),
        ("leaky-layer", (lambda *a: leaky(*a, sign=-1),)),
        ("repair-weights", (polar,)),
        ("repair-weights", (newton,)),
        ("wide-fold", (HALF.double(), [0.0, -1.0], [0.5])),
        ("same-creases", (shared,)),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, *answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


def biased(depth, dim, generator):
    network = shared(depth, dim, generator)
    for index, layer in enumerate(network.layers):
        layer.set_weights(b=0.1 * index)
    return network


def in_place(A):
    A.mul_(1.0000001)
    return polar(A)


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("untouched-subspace", (lambda layer: layer.A,), "what moves"),
        ("untouched-subspace", (lambda layer: untouched(layer).T,), "transpose"),
        ("untouched-subspace", (lambda layer: 2 * untouched(layer),), "not orthonormal"),
        ("untouched-subspace", (lambda layer: torch.eye(layer.dim)[layer.hidden :],), "perpendicular"),
        ("leaky-layer", (lambda *a: leaky(*a, flip=-1),), "same sign"),
        ("leaky-layer", (lambda *a: leaky(*a, outer="free"),), "B is not A"),
        ("leaky-layer", (lambda *a: leaky(*a, orthogonal="no"),), 'orthogonal="start"'),
        ("leaky-layer", (lambda n, s, g: leaky(n, s, g, hidden=n - 1),), "multiplied by alpha"),
        ("leaky-layer", (lambda *a: leaky(*a, alpha=1, beta=-2),), "ReLU only"),
        ("leaky-layer", (lambda *a: leaky(*a, alpha=1, beta=-1),), "stretches by"),
        ("leaky-layer", (lambda *a: leaky(*a, alpha=1, beta=0),), "no fold"),
        ("leaky-layer", (lambda *a: leaky(*a, activation="relu"),), "slopes"),
        ("leaky-layer", (lambda *a: leaky(*a, dtype=torch.float32),), "not float64"),
        ("leaky-layer", (lambda n, s, g: torch.nn.Linear(n, n),), "Layer"),
        ("repair-weights", (lambda A: A.clone(),), "digits, not accuracy"),
        ("repair-weights", (lambda A: -torch.linalg.qr(A.T)[0].T,), "signs"),
        ("repair-weights", (lambda A: polar(A.roll(1, 0)),), "another layer"),
        ("repair-weights", (lambda A: A / A.norm(dim=1, keepdim=True),), "only to"),
        ("repair-weights", (in_place,), "in place"),
        ("repair-weights", (lambda A: polar(A).T,), "transpose"),
        ("wide-fold", (torch.eye(2), [0.0, 0.0], [0.5, 0.5]), "more rows than columns"),
        ("wide-fold", (torch.ones(2, 1), [0.0, -1.0], [0.5]), "divide A"),
        ("wide-fold", (HALF.double(), [0.0, 0.0], [0.5]), "2 of 2 units"),
        ("wide-fold", (HALF.double(), [0.0, -1.0], [0.0]), "on a crease"),
        ("wide-fold", (HALF.double(), [0.0], [0.0]), "shape"),
        ("same-creases", (lambda L, n, g: deep_network(L, n, layer="fold", generator=g, **DOUBLE),), "different"),
        ("same-creases", (biased,), "b = 0"),
        ("same-creases", (lambda L, n, g: shared(L - 1, n, g),), "depth 6"),
        ("same-creases", (lambda L, n, g: Fold(n),), "DeepNetwork"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, *answer)
    assert part in str(caught.value)
