"""Checks of the chapter on depth: a needle of two layers, the leaky correlation map, He's drift, width for depth."""

import math

import sympy as sp
import torch
from torch import Tensor

from pso_lib.analysis.spectrum import stable_rank
from pso_lib.checks._compare import require_close, require_function, require_shape
from pso_lib.checks._core import exercise, wrong


@exercise("why-depth-stops-learning/two-layers", points=2)
def _two_layers(J1, J2) -> str:
    """Two Jacobians √2 D A, (4, 4), of two active units each, whose product has a stable rank below 1.1 but rank 2."""
    J1, J2 = (_relu_jacobian(f"J{number}", J) for number, J in enumerate((J1, J2), 1))
    sigma = torch.linalg.svdvals(J2 @ J1)
    if sigma[0] < 1 - 1e-9:
        wrong(
            f"the largest singular value of J2 J1 is {sigma[0]:.2g}: no direction passes whole. It must be 1 or more."
        )
    if sigma[1] < 1e-3:
        wrong("J2 J1 has rank 1: a direction is erased. It must only be weakened, to not less than 0.001.")
    rank = stable_rank(J2 @ J1).item()
    if rank > 2 - 1e-6:
        wrong("J2 keeps just the plane that J1 keeps, so the stable rank stays 2: turn one direction of it by A.")
    if rank >= 1.1:
        wrong(f"the stable rank of J2 J1 is {rank:.2f}; turn one of the two directions nearer to what J2 erases.")
    return f"each has stable rank 2, the product {rank:.3f}, and nothing but the silent half was erased"


def _relu_jacobian(name: str, J) -> Tensor:
    J = require_shape(J, (4, 4), name)

    def zeros_and_ones(gram: Tensor) -> bool:
        kept = gram.diagonal().round()
        return bool(((kept == 0) | (kept == 1)).all()) and torch.allclose(gram, torch.diag(kept), rtol=0, atol=1e-6)

    gram = J @ J.T / 2  # D, if J is √2 D A
    if zeros_and_ones(gram):
        if (active := int(gram.trace().round())) != 2:
            wrong(f"{name} has {active} active units; two of the four are asked for.")
        return J
    if zeros_and_ones(2 * gram):
        wrong(f"{name} lacks the factor √2 of the start.")
    if zeros_and_ones(J.T @ J / 2):
        wrong(f"{name} is √2 A D, with zero columns; ReLU acts after the matrix, √2 D A, with zero rows.")
    wrong(f"{name} is no √2 D A: two of its rows are zero, the others perpendicular and of length √2.")


@exercise("why-depth-stops-learning/leaky-correlation-map", points=2)
def _leaky_correlation_map(answer) -> str:
    cases = [(c, s) for s in (1.0, 0.0, -1.0, 0.3, 2.0) for c in (-0.6, 0.0, 0.5, 0.95)]
    mistakes = {
        "You weighed the two maps by the coefficients; covariances weigh them by their squares.": lambda c, s: (
            (1 + s) / 2 * c + (1 - s) / 2 * _fold_map(c)
        ),
        "That is the covariance; divide by its value at c = 1, so that the cosine of equal inputs is 1.": lambda c, s: (
            ((1 + s) ** 2 * c + (1 - s) ** 2 * _fold_map(c)) / 4
        ),
        "You exchanged the parts of z and |z|: at s = 1 there is no kink, and the map is c.": lambda c, s: _leaky_map(
            c, -s
        ),
        "You exchanged the arguments; the order is (c, s).": lambda c, s: _leaky_map(s, c),
        "That is the map of ReLU; the slope s does not enter.": lambda c, s: _leaky_map(c, 0.0),
        "That is the map of |z| alone; the slope s does not enter.": lambda c, s: _fold_map(c),
    }
    require_function(answer, _leaky_map, cases, mistakes, what="leaky_map")
    return "right at twenty pairs (c, s), from no kink (s = 1) to a fold (s = -1)"


def _fold_map(c: float) -> float:
    return 2 / math.pi * (math.sqrt(1 - c * c) + c * math.asin(c))


def _leaky_map(c: float, s: float) -> float:
    a, b = (1 + s) ** 2, (1 - s) ** 2
    return (a * c + b * _fold_map(c)) / (a + b)


@exercise("why-depth-stops-learning/drift", points=2)
def _drift(answer) -> str:
    if callable(answer) and not isinstance(answer, sp.Basic):
        wrong("give a sympy expression in n and s, not a function.")
    n, s = sp.symbols("n s", positive=True)
    answer = sp.sympify(answer)
    strange = sorted({str(symbol) for symbol in answer.free_symbols} - {"n", "s"})
    if strange:
        wrong(f"the expression holds {', '.join(strange)}; only n and s may remain.")
    square = 6 * (1 + s**4) / (1 + s**2) ** 2  # of one term, the mean
    mistakes = {
        "That is right for ReLU, s = 0; a leaky unit passes a part of the negative side.": 5 / n,
        "That is the mean square of a term, over n; subtract its squared mean, 1.": square / n,
        "That is the variance of one term; q is a mean of n independent ones.": square - 1,
        "That is the variance of the sum; the variance of a mean of n terms is one term's over n.": (square - 1) * n,
        "You forgot that each side of the kink comes up half of the time.": (2 * square - 1) / n,
        "You left out the factor 2/(1 + s^2) of the start.": (6 * (1 + s**4) - (1 + s**2) ** 2) / (4 * n),
        "That is the standard deviation; give the variance.": sp.sqrt((square - 1) / n),
        "That is the drift of log q, up to its sign; the variance of q is twice as much.": (square - 1) / (2 * n),
        "That is the drift of log q; give the variance of q itself.": -(square - 1) / (2 * n),
        "You took 3 for the mean of z^4, but s^2 for s^4: the slope counts in the fourth power.": (
            (6 / (1 + s**2) - 1) / n
        ),
    }
    ours = answer.subs({symbol: {"n": n, "s": s}[str(symbol)] for symbol in answer.free_symbols})
    require_close(ours, (square - 1) / n, mistakes, what="variance")
    return "5/n for ReLU (s = 0); no kink (s = 1) and a fold (s = -1) have the least, 2/n"


@exercise("why-depth-stops-learning/width-for-depth", points=3)
def _width_for_depth(answer) -> str:
    cases = [("he", 20, 0.5), ("orthogonal", 20, 0.5), ("he", 100, 1.2), ("orthogonal", 100, 0.8), ("he", 5, 0.25)]
    exact = {n: _prices(n) for n in range(16, 200)}

    def least(price_of, which=lambda start: start):
        def width(start, depth, price):
            return next(n for n in exact if depth * price_of(n)[which(start)] <= price)

        return width

    def other(start):
        return "he" if start == "orthogonal" else "orthogonal"

    mistakes = {
        "You used the approximations 1/n and 1/(2n); sum over the coins, as the proposition says.": least(
            lambda n: {"he": 1 / n, "orthogonal": 0.5 / n}
        ),
        "You put k = n/2; take the mean over the binomial k.": least(
            lambda n: {"he": _gap(n / 2), "orthogonal": _gap(n / 2) - _gap(n)}
        ),
        "You exchanged the two starts: the orthogonal one pays less.": least(exact.get, other),
        "You took He's price for both starts; the orthogonal one pays less.": least(exact.get, lambda start: "he"),
        "You took half of He's price for the orthogonal start; it is half only for large n.": least(
            lambda n: {"he": exact[n]["he"], "orthogonal": exact[n]["he"] / 2}
        ),
        "That is the price without ReLU, k = n; half of the units are silent.": least(
            lambda n: {"he": _gap(n), "orthogonal": 0.0}
        ),
    }
    require_function(answer, least(exact.get), cases, mistakes, what="least_width")
    return "right for five prices: depth over width, times a little more than 1 or 1/2"


def _gap(k: float) -> float:
    return 0.5 * float(sp.digamma(sp.Float(k) / 2) - sp.digamma((sp.Float(k) - 1) / 2))


def _prices(n: int) -> dict[str, float]:
    """The exact γ of both starts at width n, given two active units or more."""
    k = torch.arange(2, n + 1, dtype=torch.float64)
    coins = torch.exp(math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1))
    gap = (torch.digamma(k / 2) - torch.digamma((k - 1) / 2)) / 2
    he = float((coins * gap).sum() / coins.sum())
    return {"he": he, "orthogonal": he - float(gap[-1])}
