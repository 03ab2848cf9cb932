"""Checks of the chapter on depth: stable rank, the price of a layer, correlation maps, tanh."""

import math

import sympy as sp
import torch

from pso_lib.analysis.jacobian import cumulative_jacobians
from pso_lib.analysis.spectrum import stable_rank
from pso_lib.checks._compare import require_close
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn import init
from pso_lib.nn.init import seeded
from pso_lib.nn.networks import plain_network


@exercise("why-depth-stops-learning/stable-rank-by-hand")
def _stable_rank(answer) -> str:
    rounded = abs(float(answer) - 8 / 3) < 0.01  # 2.67 is the same mistake as 8/3
    require_close(
        8 / 3 if rounded else float(answer),
        2.0,
        {
            "That is the rank, the number of non-zero singular values; stable rank weighs each by its size.": 4,
            "You added the singular values; add their squares, and divide by the largest squared.": 8 / 3,
            "You divided by the largest singular value; divide by its square.": 6,
            "That is the sum of the squares; divide it by the largest one.": 18,
            "That is the Frobenius norm over the largest singular value; square it.": math.sqrt(2),
        },
    )
    return "(9 + 4 + 4 + 1 + 0) / 9"


@exercise("why-depth-stops-learning/he-layer-variance")
def _he_layer_variance(answer) -> str:
    n = sp.Symbol("n", positive=True)
    if callable(answer) and not isinstance(answer, sp.Basic):
        wrong("give a sympy expression in n, not a function.")
    answer = sp.sympify(answer)
    if len(answer.free_symbols) > 1:
        wrong(f"the expression holds several symbols, {sorted(map(str, answer.free_symbols))}; only n may remain.")
    require_close(
        answer.subs({symbol: n for symbol in answer.free_symbols}),
        5 / n,
        {
            "That is the mean square of a term, over n; subtract its squared mean, 1.": 6 / n,
            "That is the variance of one term; q is a mean of n independent ones.": sp.Integer(5),
            "That is the sum's variance; the variance of a mean of n terms is one term's over n.": 5 * n,
            "That is a layer without ReLU, a mean of z^2; each term here is 2 relu(z)^2.": 2 / n,
            "You forgot that half of the units are silent: E (2 relu(z)^2)^2 is half of E (2 z^2)^2 = 12.": 11 / n,
            "That is the standard deviation; give the variance.": sp.sqrt(5 / n),
            "That is E log q, to leading order; give the variance of q itself.": -5 / (2 * n),
            "That is the drift of log q, up to its sign; the variance of q is twice as much.": 5 / (2 * n),
        },
    )
    return "6 - 1 = 5 for one unit, over n for their mean"


def _fold_map(c: float) -> float:
    return 2 / math.pi * (math.sqrt(1 - c * c) + c * math.asin(c))


def _leaky_map(c: float, s: float) -> float:
    a, b = (1 + s) ** 2, (1 - s) ** 2
    return (a * c + b * _fold_map(c)) / (a + b)


@exercise("why-depth-stops-learning/leaky-correlation-map")
def _leaky_correlation_map(answer) -> str:
    if not callable(answer):
        wrong("give a function of c and s, not its value.")
    points = [(c, s) for s in (1.0, 0.0, -1.0, 0.3) for c in (-0.6, 0.0, 0.5, 0.95)]

    def table(f) -> list[float]:
        return [float(f(c, s)) for c, s in points]

    try:
        values = table(answer)
    except (TypeError, ValueError) as error:
        wrong(f"your function is called with plain floats, f(c, s), and fails: {error}. Use math, not torch or sympy.")
    require_close(
        values,
        table(_leaky_map),
        {
            "You weighed the two maps by the coefficients; covariances weigh them by their squares.": table(
                lambda c, s: (1 + s) / 2 * c + (1 - s) / 2 * _fold_map(c)
            ),
            "That is the covariance; divide by its value at c = 1, so that the cosine of equal inputs is 1.": table(
                lambda c, s: ((1 + s) ** 2 * c + (1 - s) ** 2 * _fold_map(c)) / 4
            ),
            "You exchanged the parts of z and |z|: at s = 1 there is no kink, and the map is c.": table(
                lambda c, s: _leaky_map(c, -s)
            ),
            "You exchanged the arguments; the order is (c, s).": table(lambda c, s: _leaky_map(s, c)),
            "That is the map of ReLU; the slope s does not enter.": table(lambda c, s: _leaky_map(c, 0.0)),
        },
        what="your map, at sixteen pairs (c, s),",
    )
    return "right at sixteen pairs (c, s), from no kink (s = 1) to a fold (s = -1)"


@exercise("why-depth-stops-learning/width-for-depth")
def _width_for_depth(answer) -> str:
    require_close(
        answer,
        [2560.0, 1280.0],
        {
            "The two are exchanged: an orthogonal layer costs half, so half the width will do.": [1280.0, 2560.0],
            "You compared the orthogonal network with an orthogonal one; the price to match is 5/64, He's.": [
                2560.0,
                2560.0,
            ],
            "You gave the orthogonal network twice the width; its layers cost half as much.": [2560.0, 5120.0],
            "You scaled the width the wrong way: the price is depth over width.": [1.6, 0.8],
        },
        tol=1e-3,
        what="the pair of widths",
    )
    return "200/2560 = 200/(2 · 1280) = 5/64"


@exercise("why-depth-stops-learning/tanh-gain")
def _tanh_gain(answer) -> str:
    gain = float(answer)
    if not (math.isfinite(gain) and gain > 0):
        wrong(f"a gain is a finite number above 0, got {gain}.")
    rank, left = _deep_tanh(gain)
    if left < 0.01:
        wrong(
            f"with gain {gain:g} only {left:.1g} of the state's norm is left after 200 layers: every layer is below "
            "slope 1, and the signal dies. Raise the gain."
        )
    if rank < 8:
        wrong(
            f"with gain {gain:g} the stable rank has fallen to {rank:.2f} after 200 layers: tanh saturates, and the "
            "fan opens. Lower the gain."
        )
    return f"stable rank {rank:.1f}, {left:.2f} of the norm left"


def _deep_tanh(gain: float, draws: int = 2, depth: int = 200, dim: int = 64) -> tuple[float, float]:
    """Mean stable rank of G_L, and mean |x_L| / |x_0|, of tanh networks with orthogonal matrices times ``gain``."""
    ranks, shares = [], []
    for seed in range(draws):
        generator = seeded(seed)
        network = plain_network(
            depth, dim, start="orthogonal", activation="tanh", generator=generator, dtype=torch.float64
        )
        init.orthogonal_(network, gain, generator=generator)
        x = torch.randn(1, dim, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            shares.append((network.trunk(x).norm() / x.norm()).item())
        G = cumulative_jacobians(network, x)[-1, 0]
        ranks.append(stable_rank(G).item() if G.any() else 1.0)
    return sum(ranks) / draws, sum(shares) / draws
