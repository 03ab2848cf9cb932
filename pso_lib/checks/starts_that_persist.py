"""Checks of the chapter on starts that persist."""

from typing import Any

import torch

from pso_lib.analysis.persistence import persistent_dimension, persistent_subspace
from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, haar, layers_of, projection_, seeded
from pso_lib.nn.layers import Layer
from pso_lib.nn.networks import deep_network

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
DEPTH, WIDTH = 200, 24  # of the network in "starts-that-persist/start-that-persists"


@exercise("starts-that-persist/few-walls")
def _walls(make) -> str:
    """``make(Q)``, Q (m, n) with orthonormal rows: a float64 ``Layer`` that projects onto {x : Qx >= 0}."""
    for m, n in ((1, 3), (2, 5), (4, 7)):
        Q = haar(m, n, seeded(n))
        layer = make(Q.clone())
        if not isinstance(layer, Layer):
            wrong(f"you return a {type(layer).__name__}; return a pso_lib Layer.")
        if layer.A.dtype != torch.float64:
            wrong("the weights are not float64; pass dtype=torch.float64.")
        x = gaussian(200, n, 1.0, seeded(1))
        inside, outside = torch.relu(x @ Q.T) @ Q, torch.relu(-x @ Q.T) @ Q
        y = require_shape(layer(x), (200, n), "what the layer makes of 200 points")
        if torch.allclose(y, x + outside, rtol=0, atol=1e-9):
            continue
        mistakes = {
            "the layer projects onto the opposite cone, {x : Qx <= 0}; the sign of A decides.": x - inside,
            f"the layer drops the {n - m} directions that no row of Q sees; a residual layer keeps them.": inside,
            "the layer folds: points outside end as far inside as they were outside. Take half of that step.": (
                x + 2 * outside
            ),
            "the layer pushes points away from the cone: the sign of beta is turned.": x - outside,
            "the layer leaves every point where it is.": x,
        }
        for explanation, mistaken in mistakes.items():
            if torch.allclose(y, mistaken, rtol=0, atol=1e-9):
                wrong(f"for m={m}, n={n} {explanation}")
        if layer.b is not None and layer.b.any():
            wrong("the layer has a bias, so its cone does not begin at the origin; set b=0.")
        wrong(f"for m={m}, n={n} points end up to {(y - x - outside).abs().max():.2g} from their nearest point.")
    return "nothing happens to points inside, the others go straight to the wall"


@exercise("starts-that-persist/biased-cone")
def _biased(dimension) -> str:
    """``dimension(Q, b, x, depth)``: persistent dimension at x of the shared start whose layers all have bias b."""
    given: list[int] = []
    right: list[int] = []
    mistaken = []
    for n, depth in ((16, 1), (16, 3), (24, 20), (24, 20), (24, 20)):
        g = seeded(len(right))
        Q, b, x = haar(n, n, g), gaussian(1, n, 0.4, g)[0], gaussian(1, n, 1.0, g)[0]
        network = deep_network(depth, n, **DOUBLE)
        for layer in layers_of(network):
            layer.set_weights(A=Q, B=Q, b=b)
        right.append(int(persistent_dimension(network, x[None])))
        given.append(int(dimension(Q.clone(), b.clone(), x.clone(), depth)))
        first, last = Q @ x + b > 0, Q @ x + depth * b > 0
        mistaken.append([int(units.sum()) for units in (Q @ x > 0, first, last, b >= 0, ~(first & last))])
    explanations = (
        "you count the units with q_i·x > 0, which is right for b = 0 only.",
        "you count the units that fire in the first layer; a negative b_i takes more away in each layer.",
        "you count the units with q_i·x + L b_i > 0; one with a positive b_i that is silent in the first layer "
        "fires later, but what it carried is lost.",
        "you count the units with b_i >= 0: that is the limit of depth without end.",
        "you count the directions that are lost.",
    )
    for explanation, counts in zip(explanations, zip(*mistaken, strict=True), strict=True):
        if given == list(counts) != right:
            wrong(explanation)
    if given != right:
        wrong(f"in five draws you get {given}, but {right} dimensions persist.")
    return "a unit's direction persists if the unit fires in the first layer and in the last"


@exercise("starts-that-persist/hidden-subspace")
def _hidden(find) -> str:
    """``find(network)``: the (n, n) projection onto the isometric part of a type B projection start, k unknown."""
    for n, k in ((20, 6), (12, 1), (9, 8)):
        g = seeded(n)
        network = deep_network(4, n, layer="residual", generator=g, **DOUBLE)
        projection_(network, k, generator=g)
        _, _, Vh = torch.linalg.svd(layers_of(network)[0].B.detach())
        right = Vh[k:].T @ Vh[k:]
        given = torch.as_tensor(find(network), device="cpu").detach()
        if tuple(given.shape) == (n, n - k) and n - k != n:
            wrong(f"you return {n - k} directions as columns U; asked for is the matrix U Uᵀ, ({n}, {n}).")
        P = require_shape(given, (n, n), f"for width {n} the projection")
        if torch.allclose(P, right, rtol=0, atol=1e-7):
            continue
        if torch.allclose(P, torch.eye(n) - right, rtol=0, atol=1e-7):
            wrong("this projects onto the part that the layers do move; asked for is the part they leave alone.")
        if (P - P.T).abs().max() > 1e-7 or (P @ P - P).abs().max() > 1e-7:
            wrong("the matrix is no orthogonal projection: P = Pᵀ and P² = P must hold. Use orthonormal columns.")
        rank = round(P.trace().item())
        if rank > n - k and (P @ right - right).abs().max() < 1e-7:
            wrong(
                f"for width {n} your subspace has dimension {rank}, which is {rank - n + k} too many: some of it is "
                "moved at other inputs. Look at more inputs."
            )
        wrong(f"for width {n} your subspace of dimension {rank} is not the one that every layer leaves alone.")
    return "a projection onto what no layer moves; its rank is n - k"


@exercise("starts-that-persist/start-that-persists")
def _start(start) -> str:
    """``start(network, generator)`` sets a type A ReLU network of 200 layers so that a subspace persists."""
    network = deep_network(DEPTH, WIDTH, **DOUBLE)
    start(network, seeded(0))
    if not all(torch.isfinite(p).all() for p in network.parameters()):
        wrong("a weight is not finite.")
    x = gaussian(2, WIDTH, 1.0, seeded(1))
    with torch.no_grad():
        seen = torch.stack([layer(x).flatten() for layer in network.layers])
    half = WIDTH // 2
    corner = layers_of(network)[1].A.detach()
    if (corner[:half, :half] + corner[:half, half:]).abs().max() < 1e-9:
        wrong("this is the looks-linear start, or close to it. It persists; find another.")
    near = torch.cdist(seen, seen) + torch.eye(DEPTH)
    if near.min() < 1e-3:
        i, j = divmod(int(near.argmin()), DEPTH)
        wrong(
            f"layers {i + 1} and {j + 1} are one function: they send the same points to the same places. Another "
            "order of the same rows, or a factor moved from A to B, does not change a layer."
        )
    paths = [persistent_subspace(network, point).dimensions for point in x]
    found = [path[-1] for path in paths]
    if sum(found) / len(found) < WIDTH / 4:
        last = max(layer for path in paths for layer, d in enumerate(path) if d >= WIDTH / 4)
        wrong(
            f"of {WIDTH} dimensions {found} persist at two inputs; at least {WIDTH // 4} on average are wanted. The "
            f"dimension was last that large after layer {last}. What layer {last + 1} keeps must hold what reaches it."
        )
    return f"{found[0]} and {found[1]} of {WIDTH} dimensions persist through {DEPTH} layers, no two of them alike"
