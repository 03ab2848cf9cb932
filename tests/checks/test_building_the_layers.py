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
        ("building-the-layers/untouched-subspace", (untouched,)),
        ("building-the-layers/leaky-layer", (leaky,)),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, sign=-1),)),
        ("building-the-layers/repair-weights", (polar,)),
        ("building-the-layers/repair-weights", (newton,)),
        ("building-the-layers/wide-fold", (HALF.double(), [0.0, -1.0], [0.5])),
        ("building-the-layers/same-creases", (shared,)),
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
        ("building-the-layers/untouched-subspace", (lambda layer: layer.A,), "what moves"),
        ("building-the-layers/untouched-subspace", (lambda layer: untouched(layer).T,), "transpose"),
        ("building-the-layers/untouched-subspace", (lambda layer: 2 * untouched(layer),), "not orthonormal"),
        (
            "building-the-layers/untouched-subspace",
            (lambda layer: torch.eye(layer.dim)[layer.hidden :],),
            "perpendicular",
        ),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, flip=-1),), "same sign"),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, outer="free"),), "B is not A"),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, orthogonal="no"),), 'orthogonal="start"'),
        ("building-the-layers/leaky-layer", (lambda n, s, g: leaky(n, s, g, hidden=n - 1),), "multiplied by alpha"),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, alpha=1, beta=-2),), "ReLU only"),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, alpha=1, beta=-1),), "stretches by"),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, alpha=1, beta=0),), "no fold"),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, activation="relu"),), "slopes"),
        ("building-the-layers/leaky-layer", (lambda *a: leaky(*a, dtype=torch.float32),), "not float64"),
        ("building-the-layers/leaky-layer", (lambda n, s, g: torch.nn.Linear(n, n),), "Layer"),
        ("building-the-layers/repair-weights", (lambda A: A.clone(),), "digits, not accuracy"),
        ("building-the-layers/repair-weights", (lambda A: -torch.linalg.qr(A.T)[0].T,), "signs"),
        ("building-the-layers/repair-weights", (lambda A: polar(A.roll(1, 0)),), "another layer"),
        ("building-the-layers/repair-weights", (lambda A: A / A.norm(dim=1, keepdim=True),), "only to"),
        ("building-the-layers/repair-weights", (in_place,), "in place"),
        ("building-the-layers/repair-weights", (lambda A: polar(A).T,), "transpose"),
        ("building-the-layers/wide-fold", (torch.eye(2), [0.0, 0.0], [0.5, 0.5]), "more rows than columns"),
        ("building-the-layers/wide-fold", (torch.ones(2, 1), [0.0, -1.0], [0.5]), "divide A"),
        ("building-the-layers/wide-fold", (HALF.double(), [0.0, 0.0], [0.5]), "2 of 2 units"),
        ("building-the-layers/wide-fold", (HALF.double(), [0.0, -1.0], [0.0]), "on a crease"),
        ("building-the-layers/wide-fold", (HALF.double(), [0.0], [0.0]), "shape"),
        (
            "building-the-layers/same-creases",
            (lambda L, n, g: deep_network(L, n, layer="fold", generator=g, **DOUBLE),),
            "different",
        ),
        ("building-the-layers/same-creases", (biased,), "b = 0"),
        ("building-the-layers/same-creases", (lambda L, n, g: shared(L - 1, n, g),), "depth 6"),
        ("building-the-layers/same-creases", (lambda L, n, g: Fold(n),), "DeepNetwork"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, *answer)
    assert part in str(caught.value)
