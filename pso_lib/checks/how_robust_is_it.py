"""Checks of the chapter on robustness."""

import math
import random
from fractions import Fraction
from statistics import fmean, median

import numpy as np
import sympy as sp
import torch

from pso_lib.checks._compare import require_function
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import seeded


@exercise("how-robust-is-it/enough-units", points=2)
def _enough(units_needed) -> str:
    """``units_needed(least, chance)``: how many fair coins show at least ``least`` heads with chance ``chance``."""

    def tail(m: int, heads: int) -> Fraction:
        """The chance of at least so many heads in m tosses."""
        return Fraction(sum(math.comb(m, i) for i in range(heads, m + 1)), 2**m)

    def first(passes) -> int:
        return next(m for m in range(2_000) if passes(m))

    require_function(
        units_needed,
        lambda least, chance: first(lambda m: tail(m, least) >= chance),
        [(1, 0.75), (1, 0.99), (10, 0.9), (10, 0.99), (4, 0.6), (32, 0.999)],
        {
            "with twice as many units as dimensions the mean is right, but half of the draws have fewer.": (
                lambda least, chance: 2 * least
            ),
            "a chance equal to the one asked for is enough: compare with >=.": (
                lambda least, chance: first(lambda m: tail(m, least) > chance)
            ),
            "you ask for more than `least` dimensions; exactly so many are enough.": (
                lambda least, chance: first(lambda m: tail(m, least + 1) >= chance)
            ),
            "you divide `least` by what a unit gives on average and by the chance; sum up the binomial chances.": (
                lambda least, chance: math.ceil(2 * least / chance)
            ),
            "that is enough for one dimension; asked is the chance of at least `least`.": (
                lambda least, chance: first(lambda m: tail(m, 1) >= chance)
            ),
            "all `least` units of as few as that must be active; more units, of which some are off, do as well.": (
                lambda least, chance: least
            ),
            "you find the last number that is not enough; asked is the first that is.": (
                lambda least, chance: first(lambda m: tail(m, least) >= chance) - 1
            ),
        },
        what="units_needed",
    )
    return "a few more than twice as many: the spread of coins, not their mean, decides"


def _made_up_runs() -> list[dict]:
    """Two arms, two depths, six rates, four seeds; a run that diverged counts 0. Means are binary fractions."""
    table = {
        ("he", 5): (0.5, 0.875, 0.9375, 0.875, 0.9375, 0.25),
        ("he", 50): (0.125, 0.25, 0.625, 0.59375, 0.125, 0.125),
        ("shared", 5): (0.75, 0.9375, 0.96875, 0.953125, 0.9375, 0.75),
        ("shared", 50): (0.953125, 0.71875, 0.90625, 0.953125, 0.9375, 0.9375),
    }
    bends = (  # around the mean, four seeds
        (0.0, 0.0, 0.0, 0.0),
        (-0.0625, 0.03125, 0.03125, 0.0),
        (0.03125, -0.015625, -0.015625, 0.0),
    )
    rates = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 1e-2)
    runs = [
        {"arm": arm, "depth": depth, "lr": lr, "seed": seed, "test_accuracy": mean + bend, "diverged": False}
        for index, ((arm, depth), means) in enumerate(table.items())
        for place, (lr, mean) in enumerate(zip(rates, means, strict=True))
        for seed, bend in enumerate(bends[(index + place) % 3])
    ]
    for run in runs:
        if (run["arm"], run["depth"], run["lr"]) == ("he", 5, 1e-2):  # would train, were it not for one run
            run |= {"test_accuracy": 0.0, "diverged": True} if run["seed"] == 1 else {"test_accuracy": 0.9375}
    random.Random(0).shuffle(runs)
    return runs


@exercise("how-robust-is-it/rates-that-train", points=2)
def _rates(decades) -> str:
    """``decades(runs, arm, depth, margin)``: log10 width of the longest unbroken stretch of rates that train."""

    def means(runs, arm, depth, pick=fmean, diverged=True):
        found: dict[float, list[float]] = {}
        for r in runs:
            if r["arm"] == arm and depth in (None, r["depth"]) and (diverged or not r["diverged"]):
                found.setdefault(r["lr"], []).append(r["test_accuracy"])
        return {lr: pick(found[lr]) for lr in sorted(found)}

    def stretch(good: dict[float, bool]) -> float:
        widest, start = 0.0, None
        for lr, trains in good.items():
            start = (lr if start is None else start) if trains else None
            widest = max(widest, math.log10(lr / start) if start else 0.0)
        return widest

    def width(runs, arm, depth, margin, *, best=None, passes=lambda a, best, margin: a >= best - margin, **how):
        found = means(runs, arm, depth, **how)
        top = max(found.values()) if best is None else best
        return stretch({lr: passes(a, top, margin) for lr, a in found.items()})

    def ends(runs, arm, depth, margin):
        found = means(runs, arm, depth)
        good = [lr for lr, a in found.items() if a >= max(found.values()) - margin]
        return math.log10(good[-1] / good[0])

    def count(runs, arm, depth, margin):
        found = means(runs, arm, depth)
        return sum(a >= max(found.values()) - margin for a in found.values())

    def any_arm(runs, arm, depth, margin):
        best = max(max(means(runs, other, depth).values()) for other in ("he", "shared"))
        return width(runs, arm, depth, margin, best=best)

    runs = _made_up_runs()
    wide = [("shared", 5, 0.03125), ("shared", 5, 0.02), ("he", 5, 0.0625), ("he", 5, 0.02)]
    deep = [("shared", 50, 0.015625), ("shared", 50, 0.0625), ("he", 50, 0.04), ("he", 50, 0.01)]
    require_function(
        decades,
        width,
        [(runs, *case) for case in wide + deep],
        {
            "a mean exactly `margin` below the best still trains: compare with >=.": (
                lambda *case: width(*case, passes=lambda a, best, margin: a > best - margin)
            ),
            "you take the margin as a share of the best mean; it is a difference of accuracies.": (
                lambda *case: width(*case, passes=lambda a, best, margin: a >= best * (1 - margin))
            ),
            "you compare the worst runs; compare the means over the seeds.": lambda *case: width(*case, pick=min),
            "you compare the best runs; compare the means over the seeds.": lambda *case: width(*case, pick=max),
            "you compare medians; compare the means over the seeds.": lambda *case: width(*case, pick=median),
            "you leave out a run that diverged; it counts, with accuracy 0.": (
                lambda *case: width(*case, diverged=False)
            ),
            "you measure against the best of all arms; the definition takes the arm's own best.": any_arm,
            "you mix the depths.": lambda runs, arm, depth, margin: width(runs, arm, None, margin),
            "you go from the smallest rate that trains to the largest; a rate between that does not breaks the "
            "stretch.": ends,
            "you count rates; asked is the width in decades, log10 of the largest over the smallest.": count,
            "that is the natural logarithm; a decade is a factor of 10.": lambda *case: math.log(10) * width(*case),
            "that is the largest rate over the smallest; give its log10.": lambda *case: 10 ** width(*case),
        },
        what="decades",
    )
    return "unbroken, within the margin of the arm's own best mean, diverged runs counted as 0"


def _tanh_rest(g: float) -> float:
    """The positive solution of u = tanh(g u), g > 1."""
    low, high = 1e-9, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.tanh(g * middle) > middle else (low, middle)
    return (low + high) / 2


@exercise("how-robust-is-it/tanh-layers-cost", points=2)
def _gain(rate) -> str:
    """``rate(g)`` is lim (1/L) log |d_L| at a positive input, d_L the derivative of L steps of u -> tanh(g u)."""

    def truth(g):
        return math.log(g) if g <= 1 else math.log(g * (1 - _tanh_rest(g) ** 2))

    require_function(
        rate,
        truth,
        [(0.5,), (0.9,), (1.0,), (1.2,), (2.0,), (4.0,)],
        {
            "you take the slope at 0 also for g > 1, where the orbit runs to the other fixed point, u = tanh(g u).": (
                math.log
            ),
            "the factor g is missing: the derivative of tanh(g u) is g (1 - tanh(g u)^2).": (
                lambda g: 0.0 if g <= 1 else math.log(1 - _tanh_rest(g) ** 2)
            ),
            "the factor g is missing for g > 1: the derivative of tanh(g u) is g (1 - tanh(g u)^2).": (
                lambda g: math.log(g) if g <= 1 else math.log(1 - _tanh_rest(g) ** 2)
            ),
            "where derivatives shrink, their logarithm is negative: the sign is wrong.": lambda g: -truth(g),
            "you return the factor per layer; its logarithm is asked for.": lambda g: math.exp(truth(g)),
            "that is a logarithm to another base; take the natural one.": lambda g: truth(g) / math.log(10),
            "at g = 1 the loss is a power law, and (log L) / L goes to 0; elsewhere you are right.": (
                lambda g: rate(g) if g == 1 else truth(g)
            ),
        },
        tol=2e-3,
        what="rate",
    )
    return "negative on both sides of g = 1, and zero there: only then do layers cost no factor"


@exercise("how-robust-is-it/smooth-and-persistent", points=3)
def _smooth(sigma) -> str:
    """A sympy expression in one symbol: near relu or |z|, its slope continuous, and shared starts of it persist."""
    pieces, z = _pieces(sigma)
    for (_, before), (where, after) in zip(pieces, pieces[1:], strict=False):
        place = where.inf
        for what, here, there in (("value", before, after), ("slope", before.diff(z), after.diff(z))):
            gap = sp.simplify(sp.limit(here, z, place, "-") - sp.limit(there, z, place, "+"))
            if abs(float(gap)) > (1e-9 if gap.has(sp.Float) else 0):
                wrong(
                    f"sigma is not continuous: it jumps by {abs(float(gap)):.3g} at z = {place}."
                    if what == "value"
                    else f"the slope jumps by {abs(float(gap)):.3g} at z = {place}: a kink. Join the pieces with equal "
                    "slopes."
                )
    isometric = [where for where, piece in pieces if sp.simplify(piece.diff(z) ** 2 - 1) == 0]
    if not isometric:
        wrong(
            "on no interval is the slope exactly 1 or -1, only nearly so, and the persistent dimension is 0. What is "
            "analytic on the whole line cannot do it; give sp.Piecewise."
        )
    functions = [(where, sp.lambdify(z, piece, ["scipy", "numpy"])) for where, piece in pieces]
    at = torch.linspace(-6, 6, 12_001, dtype=torch.float64)
    value = _values(functions, at)
    if not value.isfinite().all():
        wrong("sigma is not finite everywhere.")
    away = min((value - known).abs().max().item() for known in (torch.relu(at), at.abs()))
    if away > 0.5 + 1e-9:
        wrong(f"sigma differs by {away:.3g} from both relu and |z| somewhere; at most 1/2 is allowed.")
    u = torch.randn(100, 64, generator=seeded(0), dtype=torch.float64)
    kept, first = torch.ones_like(u, dtype=torch.bool), 0
    for layer in range(200):
        kept &= torch.stack([_inside(where, u) for where in isometric]).any(0)
        first = int(kept.sum(1).min()) if layer == 0 else first
        u = _values(functions, u)
    dimension = kept.sum(1)
    if first == 0:
        wrong(
            "at some inputs no coordinate has slope 1 or -1 even in the first layer. The slope must be exactly 1 or -1 "
            "on an interval that normal coordinates often hit."
        )
    if dimension.min() == 0:
        wrong(
            f"in the first layer at least {first} coordinates have slope 1 or -1, after 200 layers none at some "
            "inputs: their orbits leave the interval. sigma must map it into itself."
        )
    return f"no kink; {int(dimension.min())} to {int(dimension.max())} of 64 dimensions persist"


def _pieces(sigma) -> tuple[list[tuple[sp.Interval, sp.Expr]], sp.Symbol]:
    """Intervals from left to right, each with its expression, and their real symbol."""
    if callable(sigma) and not isinstance(sigma, sp.Basic):
        wrong("give sigma as a sympy expression, such as sp.Piecewise((z, z > 0), (0, True)), not as a function.")
    expression = sp.sympify(sigma)
    if len(expression.free_symbols) != 1:
        wrong(f"sigma must be an expression in one symbol, z; it has {len(expression.free_symbols)}.")
    z = sp.Symbol("z", real=True)
    expression = expression.subs(expression.free_symbols.pop(), z)
    folded = sp.piecewise_fold(expression.rewrite(sp.Piecewise))
    if not isinstance(folded, sp.Piecewise):
        return [(sp.Interval(-sp.oo, sp.oo), folded)], z
    found = []
    for piece, where in folded.as_expr_set_pairs(sp.S.Reals):
        found += [(part, piece) for part in (where.args if isinstance(where, sp.Union) else [where])]
    found = sorted(
        [(part, piece) for part, piece in found if isinstance(part, sp.Interval)], key=lambda pair: float(pair[0].inf)
    )
    ends = [-sp.oo, *(part.sup for part, _ in found)]
    if [part.inf for part, _ in found] != ends[:-1] or ends[-1] != sp.oo:
        wrong("the pieces of sigma do not cover the whole line; end sp.Piecewise with (…, True).")
    return found, z


def _inside(where: sp.Interval, u: torch.Tensor) -> torch.Tensor:
    return (u >= float(where.inf)) & (u <= float(where.sup))


def _values(functions, u: torch.Tensor) -> torch.Tensor:
    """Sigma of each entry, by the function of its own piece alone."""
    value = torch.full_like(u, torch.nan)
    for where, function in functions:
        here = _inside(where, u)
        with np.errstate(all="ignore"):  # exp(-1/z) at 0 is 0
            value[here] = torch.as_tensor(function(u[here].numpy()), dtype=u.dtype)
    return value
