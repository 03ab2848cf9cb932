"""The checks of the chapter on starts that persist: right answers pass in each form, each likely mistake is named."""

import torch
from exercise_cases import named, passes

from pso_lib.nn import init
from pso_lib.nn.layers import FeedForward, Fold, Residual

DOUBLE = {"dtype": torch.float64}


def walls(Q, kind=Residual, sign=-1, b=0.0, **options):
    layer = kind(Q.shape[1], len(Q), **{"outer": "tied", **DOUBLE} | options)
    layer.set_weights(A=sign * Q, b=b)
    return layer


def untied(Q):
    layer = Residual(Q.shape[1], len(Q), beta=1, **DOUBLE)
    layer.set_weights(A=-Q, B=Q)
    return layer


def square(Q):
    """Type A with n + (n - m) units: the directions that Q does not see pass as pairs."""
    m, n = Q.shape
    rest = torch.linalg.svd(Q)[2][m:]
    layer = FeedForward(n, m + 2 * (n - m), **DOUBLE)
    layer.set_weights(A=torch.cat([Q, rest, -rest]), B=torch.cat([Q, rest, -rest]), b=0.0)
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


def permuted(network, generator, k=0, b=0.0, scale=1.0):
    for layer in network.layers:
        P = torch.eye(layer.dim - k)[torch.randperm(layer.dim - k, generator=generator)].double()
        rest = init.haar(k, k, generator) if k else torch.zeros(0, 0, **DOUBLE)
        layer.set_weights(A=scale * torch.block_diag(P, rest), b=b)


def independent(network, generator, b=0.0):
    for layer in network.layers:
        layer.set_weights(A=init.haar(network.dim, network.dim, generator), b=b)


def block(network, generator):
    for layer in network.layers:
        layer.set_weights(A=torch.block_diag(torch.eye(18), init.haar(6, 6, generator)), b=0.0)


def mixed_looks_linear(network, generator):
    """Looks-linear in other coordinates behind each layer."""
    init.looks_linear_(network, generator)
    P = [torch.eye(network.dim)[torch.randperm(network.dim, generator=generator)].double() for _ in range(201)]
    for layer, here, there in zip(network.layers, P, P[1:], strict=False):
        layer.set_weights(A=there @ layer.A @ here.T)


def identity(network, generator):
    for layer in network.layers:
        layer.set_weights(A=torch.eye(network.dim), b=0.0)


def two_shuffles(network, generator):
    for index, layer in enumerate(network.layers):
        layer.set_weights(A=torch.eye(network.dim).roll(1 + index % 2, 0), b=0.0)


def infinite(network, generator):
    permuted(network, generator)
    with torch.no_grad():
        network.layers[3].A[0, 0] = torch.inf


def skipping(network, generator):
    for layer in network.layers:
        layer.alpha = 1.0


NAME = "starts-that-persist/"
SOLUTIONS = {
    NAME + "few-walls": [lambda Q: walls(Q, beta=-1), untied, square],
    NAME + "biased-cone": [
        dimension,
        lambda *case: int(dimension(*case)),
        lambda Q, b, x, L: (torch.minimum(Q @ x + b, Q @ x + L * b).numpy() > 0).sum(),
    ],
    NAME + "hidden-subspace": [find_by_moves, find_by_weights, lambda network: find_by_weights(network).tolist()],
    NAME + "start-that-persists": [permuted, lambda network, g: permuted(network, g, k=6)],
}
MISTAKES = {
    NAME + "few-walls": [
        (lambda Q: walls(Q, sign=1, beta=-1), "opposite cone"),
        (lambda Q: walls(Q, FeedForward, sign=1), "no row of Q sees"),
        (fold, "folds"),
        (lambda Q: walls(Q, beta=1), "pushes points away"),
        (lambda Q: walls(Q, beta=0), "leaves every point"),
        (lambda Q: walls(Q, beta=-1, b=0.5), "differs in"),
        (lambda Q: walls(Q, beta=-0.5), "differs in"),
        (lambda Q: walls(Q, beta=-1, dtype=torch.float32), "float64"),
        (lambda Q: torch.nn.Linear(2, 2), "return a pso_lib Layer"),
    ],
    NAME + "biased-cone": [
        (lambda Q, b, x, depth: (Q @ x > 0).sum(), "b = 0 only"),
        (lambda Q, b, x, depth: (Q @ x + b > 0).sum(), "first layer"),
        (lambda Q, b, x, depth: (Q @ x + depth * b > 0).sum(), "what it carried is lost"),
        (lambda Q, b, x, depth: (b >= 0).sum(), "needs that they fire"),
        (lambda Q, b, x, depth: ((b >= 0) & (Q @ x + b > 0)).sum(), "at first and have"),
        (lambda Q, b, x, depth: len(x) - dimension(Q, b, x, depth), "that are lost"),
        (lambda Q, b, x, depth: -1, "use its arguments"),
        (lambda Q, b, x, depth: dimension(Q, b.neg_(), x, depth), "in place"),
    ],
    NAME + "hidden-subspace": [
        (lambda network: torch.eye(network.dim) - find_by_weights(network), "they leave alone"),
        (columns, "U Uᵀ"),
        (lambda network: find_by_moves(network, 1), "more inputs"),
        (lambda network: 2 * find_by_weights(network), "no orthogonal projection"),
        (lambda network: torch.zeros(network.dim, network.dim), "the matrix is 0"),
        (lambda network: torch.eye(network.dim), "some of it is moved"),
        (lambda network: torch.zeros(3, 3), "shape"),
        (lambda network: torch.full((network.dim, network.dim), torch.nan), "no finite number"),
    ],
    NAME + "start-that-persists": [
        (independent, "after layer"),
        (identity, "layers 1 and 2 have 24"),
        (two_shuffles, "layers 1 and 3"),
        (block, "18 of 24 rows"),
        (init.looks_linear_, "looks-linear"),
        (mixed_looks_linear, "looks-linear"),
        (lambda network, g: permuted(network, g, scale=1.1), "Allowed is 1"),
        (lambda network, g: permuted(network, g, scale=1 - 1e-6), "after layer 0"),
        (lambda network, g: independent(network, g, b=1e6), "affine"),
        (lambda network, g: init.shared_orthogonal_(network, g), "needs B"),
        (infinite, "not finite"),
        (skipping, "no longer relu"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)
