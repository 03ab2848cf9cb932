"""Checks of the chapter on whether persistence is necessary, and enough."""

import math
from typing import Any

import torch
from torch import Tensor

from pso_lib.analysis.spectrum import isometry_error
from pso_lib.checks._compare import require_finite, require_function, require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, haar, seeded
from pso_lib.nn.networks import deep_network

_DOUBLE: dict[str, Any] = {"dtype": torch.float64}


@exercise("necessary-and-enough/folded-together", points=1)
def _together(A, b, points) -> str:
    """A (h, 2) with orthonormal rows, b (h,), and four points of the plane (4, 2), off the creases, with one image."""
    A, b, points = require_finite(A, "A"), require_finite(b, "b"), require_finite(points, "the list of points")
    if A.ndim != 2 or A.shape[1] != 2:
        wrong(f"A has shape {tuple(A.shape)}; a fold of the plane needs (h, 2).")
    b, points = require_shape(b, (len(A),), "b"), require_shape(points, (4, 2), "the list of points")
    if len(A) > 2 or isometry_error(A.mT) > 1e-9:
        wrong("the rows of A are not orthonormal, so this layer is no fold.")
    apart = torch.pdist(points)
    scale = apart.max().item()
    if apart.min() <= 1e-3 * scale or scale == 0:
        wrong("two of the points are one, or nearly: give four different ones.")
    if len(A) == 1:
        wrong("a fold with one crease lays two points on one another, not four. Take two creases.")
    z = points @ A.T + b
    if z.abs().min() < 1e-6 * scale:
        wrong("a point lies on a crease, where the layer has no Jacobian; move it.")
    gap = torch.pdist(points - 2 * torch.relu(z) @ A).max().item()
    if gap > 1e-9 * scale:
        sides = len({tuple(row) for row in (z > 0).tolist()})
        if sides < 4:
            wrong(
                f"the points lie in {sides} of the four quarters between the creases; within a quarter the fold keeps "
                "distances, so each needs a quarter of its own."
            )
        wrong(f"the images are {gap:.2g} apart. Mirror a point in a crease: x - 2 (a·x + b) a; and again in the other.")
    return "four points, one image, and the Jacobian is orthogonal at all of them"


@exercise("necessary-and-enough/common-factor", points=2)
def _common_factor(together) -> str:
    """``together(G, c)``: most singular values in some [t c, t / c], t > 0, of each Jacobian G (N, n, n): (N,)."""
    n = 6
    values = torch.tensor(
        [
            [1, 1, 1, 1, 1, 1],
            [9, 3.3, 1.7, 0.7, 0.3, 0.1],
            [0.013, 0.012, 0.011, 0.01, 0.009, 0.001],
            [80, 70, 1, 0.9, 0.8, 0],
            [5, 0, 0, 0, 0, 0],
            [1.0, 0.6, 0.35, 0.2, 0.12, 0.07],
        ],
        **_DOUBLE,
    )
    U, V = haar(n, n, seeded(0)), haar(n, n, seeded(1))
    G = U @ torch.diag_embed(values) @ V

    def spectra(G: Tensor) -> Tensor:
        s = torch.linalg.svdvals(G)
        return s * (s > 1e-12 * s[:, :1])  # (N, n), descending

    def most(G: Tensor, c: float, ratio=lambda c: 1 / c**2) -> Tensor:
        """From each value downwards, plainly."""
        found = []
        for s in spectra(G).tolist():
            found.append(max(sum(top / ratio(c) <= value <= top for value in s if value > 0) for top in s if top > 0))
        return torch.tensor(found)

    def around(G: Tensor, c: float, centre) -> Tensor:
        s = spectra(G)
        t = centre(s)
        return ((s >= c * t) & (s <= t / c) & (s > 0)).sum(1)

    eigenvalues = torch.linalg.eigvals(G).abs().sort(dim=1, descending=True).values
    require_function(
        together,
        most,
        [(G, 0.5), (G, 0.25), (G[:4] / 7, 0.6)],
        {
            "you count between c and 1/c, as the chapter does; a common factor t must not matter.": (
                lambda G, c: around(G, c, lambda s: torch.ones_like(s[:, :1]))
            ),
            "you count around the largest singular value; another t may catch more.": (
                lambda G, c: around(G, c, lambda s: c * s[:, :1])
            ),
            "you count around the median; another t may catch more.": (
                lambda G, c: around(G, c, lambda s: s.median(dim=1, keepdim=True).values)
            ),
            "you count around the mean; another t may catch more.": (
                lambda G, c: around(G, c, lambda s: s.mean(1, keepdim=True))
            ),
            "you let the window reach from t to t / c; from t c to t / c it is a factor of 1 / c².": (
                lambda G, c: most(G, c, ratio=lambda c: 1 / c)
            ),
            "you count singular values that are 0: no t > 0 has them in its window.": (
                lambda G, c: torch.maximum(most(G, c), (spectra(G) == 0).sum(1))
            ),
            "you return shares of the width; return counts.": lambda G, c: most(G, c) / n,
            "you return one number; return one count for each Jacobian.": lambda G, c: most(G, c).max(),
            "you count eigenvalues; lengths are what singular values measure.": lambda G, c: most(
                torch.diag_embed(eigenvalues[: len(G)]), c
            ),
        },
        what="together",
    )
    return (
        "as many as some factor makes nearly isometric: an optimiser that rescales its steps does not mind the factor"
    )


@exercise("necessary-and-enough/drift-tolerance", points=3)
def _tolerance(exponent) -> str:
    """``exponent(keep, depths)``: p in d_half ~ L^-p, d_half the drift at which ``keep(drift, depth)`` has halved."""
    depths = (25, 50, 100, 200)

    def multiply(drift, depth):  # each layer loses a share: p = 1/2
        return math.exp(-depth * drift**2)

    def rest(drift, depth):  # p = 0.2, and not all is kept without drift
        return 0.7 / (1 + (4 * drift * (depth / 50) ** 0.2) ** 3)

    def weak(drift, depth):  # p = 0.05, and it starts lower at greater depth
        return 1.2 * (1 - depth / 400) * 0.5 ** ((6 * drift * depth**0.05) ** 2)

    laws = {multiply: 0.5, rest: 0.2, weak: 0.05}

    def half(keep, depth, level=None):
        level = keep(0.0, depth) / 2 if level is None else level
        low, high = 1e-6, 4.0
        for _ in range(60):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if keep(middle, depth) > level else (low, middle)
        return low

    def slope(x, y):
        x, y = (torch.tensor(v, **_DOUBLE) for v in (x, y))
        return float((x - x.mean()) @ y / ((x - x.mean()) @ x))

    def logs(values):
        return [math.log(value) for value in values]

    def halves(keep, level=None):
        return [half(keep, depth, level) for depth in depths]

    require_function(
        exponent,
        lambda keep, _: laws[keep],
        [(keep, depths) for keep in laws],
        {
            "the sign is turned round: the drift falls with depth, and p is the positive exponent.": (
                lambda keep, _: -laws[keep]
            ),
            "you look for the drift where one half is left; asked is half of what is left without drift.": (
                lambda keep, _: -slope(logs(depths), logs(halves(keep, 0.5)))
            ),
            "you compare with half of what is left without drift at the first depth; each depth has its own.": (
                lambda keep, _: -slope(logs(depths), logs(halves(keep, keep(0.0, depths[0]) / 2)))
            ),
            "this is the exponent of L over d: you fitted log depth against log drift.": (
                lambda keep, _: 1 / laws[keep]
            ),
            "you fitted drifts and depths themselves; fit their logarithms.": (
                lambda keep, _: -slope(depths, halves(keep))
            ),
            "you took the logarithm of the drifts only; take that of the depths too.": (
                lambda keep, _: -slope(depths, logs(halves(keep)))
            ),
        },
        tol=0.05,
        what="exponent",
    )
    return "the drift at which half is left, and its power law in the depth"


@exercise("necessary-and-enough/skipped-layers", points=2)
def _skipped(skipped) -> str:
    """``skipped(network, x)``: the share of rows whose largest output changes when one layer is left out, (L,)."""
    options = {"inputs": 6, "classes": 4, **_DOUBLE}
    networks = [
        deep_network(5, 8, layer="fold", generator=seeded(0), **options),
        deep_network(3, 8, generator=seeded(1), **options),
    ]

    def answers(network, x, without=()) -> Tensor:
        """Which output is largest, without some of the layers."""
        with torch.no_grad():
            h = network.lift(x)
            for index, layer in enumerate(network.layers):
                h = h if index in without else layer(h)
            return network.readout(h).argmax(1)

    def changed(network, x, without) -> Tensor:
        full = answers(network, x)
        shares = [(answers(network, x, without(i)) != full).double().mean() for i in range(network.depth)]
        return torch.stack(shares)

    def right(network, x):
        return changed(network, x, lambda i: {i})

    def with_the_labels_of_the_last(network, x):
        states = [network.lift(x).detach()]
        for layer in network.layers:
            states.append(layer(states[-1]).detach())
        read = [network.readout(state).argmax(1) for state in states]
        return torch.stack([(a != b).double().mean() for a, b in zip(read, read[1:], strict=False)])

    require_function(
        skipped,
        right,
        [(network, gaussian(200, 6, 1.0, seeded(2))) for network in networks],
        {
            "you return the share of answers that stay; asked is the share that changes.": (
                lambda network, x: 1 - right(network, x)
            ),
            "you return per cent; return shares between 0 and 1.": lambda network, x: 100 * right(network, x),
            "you return counts; divide by the number of rows.": lambda network, x: len(x) * right(network, x),
            "you leave out the layer and all after it; the later layers must still act.": (
                lambda network, x: changed(network, x, lambda i: range(i, network.depth))
            ),
            "you leave out the layer and all before it; start from the state that enters the layer.": (
                lambda network, x: changed(network, x, lambda i: range(i + 1))
            ),
            "you keep the layer and leave out all others.": (
                lambda network, x: changed(network, x, lambda i: set(range(network.depth)) - {i})
            ),
            "you compare the answers read off before and after the layer; the later layers must still act.": (
                with_the_labels_of_the_last
            ),
            "the layers are counted from the end.": lambda network, x: right(network, x).flip(0),
        },
        what="skipped",
    )
    return "one layer at a time, the others as they are"
