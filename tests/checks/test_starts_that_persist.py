"""The checks of the chapter on starts that persist: the solution passes, each likely mistake is named."""

import pytest
import torch

from pso_lib.checks import Wrong, check
from pso_lib.nn import init
from pso_lib.nn.layers import FeedForward, Fold, Residual
from pso_lib.nn.networks import deep_network

DOUBLE = {"dtype": torch.float64}


def walls(Q, kind=Residual, sign=-1, b=0.0, **options):
    layer = kind(Q.shape[1], len(Q), **{"outer": "tied", **DOUBLE} | options)
    layer.set_weights(A=sign * Q, b=b)
    return layer


def project(Q):
    return walls(Q, beta=-1)


def untied(Q):
    layer = Residual(Q.shape[1], len(Q), beta=1, **DOUBLE)
    layer.set_weights(A=-Q, B=Q)
    return layer


def fold(Q):
    layer = Fold(Q.shape[1], len(Q), **DOUBLE)
    layer.set_weights(A=-Q)
    return layer


def dimension(Q, b, x, depth):
    z = Q @ x
    return ((z + b > 0) & (z + depth * b > 0)).sum()


def find_by_moves(network, count=200):
    layer = network.layers[0]
    x = torch.randn(count, network.dim, generator=torch.Generator().manual_seed(5), **DOUBLE)
    with torch.no_grad():
        _, s, Vh = torch.linalg.svd(layer(x) - x, full_matrices=False)
    moved = Vh[s > 1e-9 * s[0]]
    return torch.eye(network.dim) - moved.T @ moved


def find_by_weights(network):
    B = network.layers[-1].B.detach()
    return torch.eye(network.dim) - torch.linalg.pinv(B, rtol=1e-9) @ B


def columns(network):
    B = network.layers[0].B.detach()
    rank = torch.linalg.matrix_rank(B, rtol=1e-9)
    return torch.linalg.svd(B)[2][rank:].T


def permuted(network, generator):
    for layer in network.layers:
        order = torch.randperm(layer.dim, generator=generator)
        layer.set_weights(A=torch.eye(layer.dim)[order], B=torch.eye(layer.dim), b=0.0)


def handed_over(network, generator):
    Q = [init.haar(network.dim, network.dim, generator) for _ in range(network.depth + 1)]
    for layer, here, there in zip(network.layers, Q, Q[1:], strict=False):
        layer.set_weights(A=here, B=there, b=0.0)


@pytest.mark.parametrize(
    "name, answer",
    [
        ("starts-that-persist/few-walls", project),
        ("starts-that-persist/few-walls", untied),
        ("starts-that-persist/biased-cone", dimension),
        ("starts-that-persist/hidden-subspace", find_by_moves),
        ("starts-that-persist/hidden-subspace", find_by_weights),
        ("starts-that-persist/start-that-persists", permuted),
        ("starts-that-persist/start-that-persists", handed_over),
        (
            "starts-that-persist/start-that-persists",
            lambda network, generator: init.projection_(network, 6, generator=generator),
        ),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


def independent(network, generator):
    for layer in network.layers:
        Q = init.haar(network.dim, network.dim, generator)
        layer.set_weights(A=Q, B=Q, b=0.0)


def rescaled(network, generator):
    Q = init.haar(network.dim, network.dim, generator)
    for index, layer in enumerate(network.layers):
        order = torch.randperm(network.dim, generator=generator)
        layer.set_weights(A=(1 + index) * Q[order], B=Q[order] / (1 + index), b=0.0)


def infinite(network, generator):
    with torch.no_grad():
        network.layers[3].b.fill_(torch.inf)


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("starts-that-persist/few-walls", lambda Q: walls(Q, sign=1, beta=-1), "opposite cone"),
        ("starts-that-persist/few-walls", lambda Q: walls(Q, FeedForward, sign=1), "no row of Q sees"),
        ("starts-that-persist/few-walls", fold, "folds"),
        ("starts-that-persist/few-walls", lambda Q: walls(Q, beta=1), "pushes points away"),
        ("starts-that-persist/few-walls", lambda Q: walls(Q, beta=0), "leaves every point"),
        ("starts-that-persist/few-walls", lambda Q: walls(Q, beta=-1, b=0.5), "has a bias"),
        ("starts-that-persist/few-walls", lambda Q: walls(Q, beta=-0.5), "nearest point"),
        ("starts-that-persist/few-walls", lambda Q: walls(Q, beta=-1, dtype=torch.float32), "float64"),
        ("starts-that-persist/few-walls", lambda Q: torch.nn.Linear(2, 2), "return a pso_lib Layer"),
        ("starts-that-persist/biased-cone", lambda Q, b, x, depth: (Q @ x > 0).sum(), "b = 0 only"),
        ("starts-that-persist/biased-cone", lambda Q, b, x, depth: (Q @ x + b > 0).sum(), "first layer"),
        (
            "starts-that-persist/biased-cone",
            lambda Q, b, x, depth: (Q @ x + depth * b > 0).sum(),
            "what it carried is lost",
        ),
        ("starts-that-persist/biased-cone", lambda Q, b, x, depth: (b >= 0).sum(), "without end"),
        ("starts-that-persist/biased-cone", lambda Q, b, x, depth: len(x) - dimension(Q, b, x, depth), "that are lost"),
        ("starts-that-persist/biased-cone", lambda Q, b, x, depth: -1, "you get [-1, -1"),
        (
            "starts-that-persist/hidden-subspace",
            lambda network: torch.eye(network.dim) - find_by_weights(network),
            "they leave alone",
        ),
        ("starts-that-persist/hidden-subspace", columns, "U Uᵀ"),
        ("starts-that-persist/hidden-subspace", lambda network: find_by_moves(network, 1), "more inputs"),
        (
            "starts-that-persist/hidden-subspace",
            lambda network: 2 * find_by_weights(network),
            "no orthogonal projection",
        ),
        ("starts-that-persist/hidden-subspace", lambda network: torch.zeros(network.dim, network.dim), "dimension 0"),
        ("starts-that-persist/hidden-subspace", lambda network: torch.zeros(3, 3), "shape"),
        ("starts-that-persist/start-that-persists", independent, "after layer"),
        ("starts-that-persist/start-that-persists", rescaled, "one function"),
        ("starts-that-persist/start-that-persists", lambda n, g: init.shared_orthogonal_(n, g), "layers 1 and 2"),
        ("starts-that-persist/start-that-persists", lambda n, g: init.looks_linear_(n, g), "find another"),
        ("starts-that-persist/start-that-persists", infinite, "not finite"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, answer)
    assert part in str(caught.value)


def test_the_network_of_the_open_exercise_is_the_usual_one():
    """What a reader builds to try an answer out is what the check builds."""
    layer = deep_network(1, 24, **DOUBLE).layers[0]
    assert (layer.alpha, layer.beta, layer.activation.name, layer.outer) == (0, 1, "relu", "free")
