"""Checks of the chapter on starts that persist."""

from typing import Any

import torch

from pso_lib.analysis.persistence import layer_jacobians
from pso_lib.checks._compare import call, require_close, require_finite, require_function, require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, haar, layers_of, projection_, seeded
from pso_lib.nn.layers import Layer
from pso_lib.nn.networks import deep_network

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
DEPTH, WIDTH = 200, 24  # of the network in "starts-that-persist/start-that-persists"


@exercise("starts-that-persist/few-walls", points=2)
def _walls(make) -> str:
    """``make(Q)``, Q (m, n) with orthonormal rows: a float64 ``Layer`` that projects onto {x : Qx >= 0}."""

    def moved(Q, x):
        layer = call(make, Q, what="make")
        if not isinstance(layer, Layer):
            wrong(f"make returns a {type(layer).__name__}; return a pso_lib Layer.")
        if layer.A.dtype != torch.float64:
            wrong("the weights are not float64; pass dtype=torch.float64.")
        return layer(x)

    def outside(Q, x):
        return torch.relu(-x @ Q.T) @ Q

    shapes = ((1, 3), (2, 5), (4, 7))
    require_function(
        moved,
        lambda Q, x: x + outside(Q, x),
        [(haar(m, n, seeded(n)), gaussian(200, n, 1.0, seeded(1))) for m, n in shapes],
        {
            "the layer projects onto the opposite cone, {x : Qx <= 0}; the sign of A decides.": (
                lambda Q, x: x + outside(-Q, x)
            ),
            "the layer drops the directions that no row of Q sees; a residual layer keeps them.": (
                lambda Q, x: -outside(-Q, x)
            ),
            "the layer folds: points outside end as far inside as they were outside. Take half of that step.": (
                lambda Q, x: x + 2 * outside(Q, x)
            ),
            "the layer pushes points away from the cone: the sign of beta is turned.": lambda Q, x: x - outside(Q, x),
            "the layer leaves every point where it is.": lambda Q, x: x,
        },
        tol=1e-9,
        what="your layer",
    )
    return "nothing happens to points inside, the others go straight to the wall"


@exercise("starts-that-persist/biased-cone", points=2)
def _biased(dimension) -> str:
    """``dimension(Q, b, x, depth)``: persistent dimension at x of the shared start whose layers all have bias b."""

    def one(n, depth, seed):
        g = seeded(seed)
        return haar(n, n, g), gaussian(1, n, 0.4, g)[0], gaussian(1, n, 1.0, g)[0], depth

    def truth(Q, b, x, depth):
        z, carried = Q @ x, torch.ones(len(x), dtype=torch.bool)
        for _ in range(depth):
            carried, z = carried & (z + b > 0), torch.relu(z + b)
        return carried.sum()

    require_function(
        dimension,
        truth,
        [one(16, 1, 0), one(16, 3, 1), *(one(24, 20, seed) for seed in (2, 3, 4)), one(24, 200, 5)],
        {
            "you count the units with q_i·x > 0, which is right for b = 0 only.": lambda Q, b, x, L: (Q @ x > 0).sum(),
            "you count the units that fire in the first layer; a negative b_i takes more away in each layer.": (
                lambda Q, b, x, L: (Q @ x + b > 0).sum()
            ),
            "you count the units with q_i·x + L b_i > 0; one with a positive b_i that is silent in the first layer "
            "fires later, but what it carried is lost.": lambda Q, b, x, L: (Q @ x + L * b > 0).sum(),
            "you count the units with b_i >= 0: that is the limit of depth without end, and needs that they fire.": (
                lambda Q, b, x, L: (b >= 0).sum()
            ),
            "you count the units that fire at first and have b_i >= 0: that is the limit of depth without end.": (
                lambda Q, b, x, L: ((Q @ x + b > 0) & (b >= 0)).sum()
            ),
            "you count the directions that are lost.": lambda Q, b, x, L: len(x) - truth(Q, b, x, L),
        },
        what="dimension",
    )
    return "a unit's direction persists if the unit fires in the first layer and in the last"


@exercise("starts-that-persist/hidden-subspace", points=2)
def _hidden(find) -> str:
    """``find(network)``: the (n, n) projection onto the isometric part of a type B projection start, k unknown."""
    for n, k in ((20, 6), (12, 1), (9, 8)):
        g = seeded(n)
        network = deep_network(4, n, layer="residual", generator=g, **DOUBLE)
        projection_(network, k, generator=g)
        right = torch.linalg.svd(layers_of(network)[0].B.detach())[2][k:]
        right, eye = right.T @ right, torch.eye(n, **DOUBLE)
        given = require_finite(call(find, network, what="find"), "what find returns")
        where = f"for width {n} "
        if tuple(given.shape) == (n, n - k):
            wrong(f"{where}find returns {n - k} directions as columns U; asked for is the matrix U Uᵀ, ({n}, {n}).")
        P = require_shape(given, (n, n), f"{where}the projection")
        mistakes = {
            f"{where}this projects onto the part that the layers do move; asked for is the part they leave alone.": (
                eye - right
            ),
            f"{where}the matrix is 0: nothing is left alone, it says.": 0 * eye,
            f"{where}the matrix is I: some of it is moved.": eye,
        }
        if not torch.allclose(P, right, rtol=0, atol=1e-7) and not any(
            torch.allclose(P, mistaken, rtol=0, atol=1e-7) for mistaken in mistakes.values()
        ):
            if (P - P.T).abs().max() > 1e-7 or (P @ P - P).abs().max() > 1e-7:
                wrong("the matrix is no orthogonal projection: P = Pᵀ and P² = P must hold. Use orthonormal columns.")
            if (rank := round(P.trace().item())) > n - k and (P @ right - right).abs().max() < 1e-7:
                wrong(
                    f"{where}your subspace has dimension {rank}, which is {rank - n + k} too many: some of it is moved "
                    "at other inputs. Look at more inputs."
                )
        require_close(P, right, mistakes, tol=1e-7, what=f"{where}the projection")
    return "a projection onto what no layer moves; its rank is n - k"


@exercise("starts-that-persist/start-that-persists", points=3)
def _start(start) -> str:
    """``start(network, generator)`` sets 200 layers relu(Wx), no two much alike, so that a subspace persists."""
    network = deep_network(DEPTH, WIDTH, outer="identity", **DOUBLE)
    before = [repr(layer) for layer in layers_of(network)]
    start(network, seeded(0))
    layers = layers_of(network)
    if [repr(layer) for layer in layers] != before:
        wrong("the layers are no longer relu(Wx): set their weights and nothing else.")
    if any(bool(layer.b.any()) for layer in layers if layer.b is not None):
        wrong("a bias is not 0. A large one keeps every unit on, and the network is affine: persistence without ReLU.")
    W = torch.stack([layer.A.detach() for layer in layers])  # (L, n, n)
    if not W.isfinite().all():
        wrong("a weight is not finite.")
    norms = torch.linalg.matrix_norm(W, 2)
    if norms.max() > 1 + 1e-8:
        layer = int(norms.argmax())
        looks_linear = abs(norms.max().item() - 2) < 1e-6
        wrong(
            f"layer {layer + 1} stretches: the largest singular value of W is {norms[layer].item():.4g}. "
            + ("So it is in looks-linear, which the chapter has." if looks_linear else "Allowed is 1.")
        )
    alike = torch.stack([(W - other).norm(dim=2) < 1e-3 for other in W]).sum(2).fill_diagonal_(0)  # rows in common
    if alike.max() >= WIDTH // 2:
        i, j = divmod(int(alike.argmax()), DEPTH)
        wrong(
            f"layers {min(i, j) + 1} and {max(i, j) + 1} have {int(alike.max())} of {WIDTH} rows of W in common, so "
            "they share what persists, as the chapter's starts do."
        )
    x = gaussian(20, WIDTH, 1.0, seeded(1))
    J = layer_jacobians(network, x).mT  # (L, N, n, n)
    after, found = torch.eye(WIDTH, **DOUBLE), []
    for step in J:
        after = after @ step
        found.append((torch.linalg.svdvals(after) > 1 - 1e-8).sum(1).double().mean().item())
    if found[-1] < WIDTH / 4:
        last = max((layer for layer, d in enumerate(found, 1) if d >= WIDTH / 4), default=0)
        wrong(
            f"of {WIDTH} dimensions {found[-1]:.1f} persist on average; at least {WIDTH // 4} are wanted. The mean was "
            f"last that large after layer {last}. What layer {last + 1} keeps must hold what reaches it."
        )
    return f"{found[-1]:.1f} of {WIDTH} dimensions persist through {DEPTH} layers on average, no two of them alike"
