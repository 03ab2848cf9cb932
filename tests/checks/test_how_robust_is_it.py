"""The checks of the chapter on robustness: right answers pass in each form, each likely mistake is named; its law."""

import math

import pytest
import sympy as sp
import torch
from exercise_cases import named, passes
from scipy.stats import binom

from pso_lib.analysis.jacobian import jacobian
from pso_lib.analysis.persistence import persistent_dimension
from pso_lib.analysis.spectrum import singular_values
from pso_lib.experiments import summary
from pso_lib.nn import activations
from pso_lib.nn.init import block_, shared_orthogonal_
from pso_lib.nn.networks import deep_network

z = sp.Symbol("z")


def units_needed(least, chance, more=0, strictly=False):
    m = 0
    while (tail := binom.sf(least + more - 1, m, 0.5)) < chance or (strictly and tail == chance):
        m += 1
    return m


def decades(runs, arm, depth, margin, *, pick="mean", keep=lambda r: True, arms=None, gaps=False, relative=False):
    runs = [r for r in runs if depth in (None, r["depth"]) and keep(r)]
    means = {key: getattr(spread, pick) for key, spread in summary(runs, "arm", "lr").items()}
    best = max(m for (a, _), m in means.items() if a in (arms or (arm,)))
    least = best * (1 - margin) if relative else best - margin
    rates = sorted(lr for a, lr in means if a == arm)
    good = [means[arm, lr] >= least for lr in rates]
    stretches = [
        (i, j)
        for i in range(len(rates))
        for j in range(i, len(rates))
        if (all(good[i : j + 1]) or gaps) and good[i] and good[j]
    ]
    return max((math.log10(rates[j] / rates[i]) for i, j in stretches), default=0.0)


def of(**options):
    return lambda runs, arm, depth, margin: decades(runs, arm, depth, margin, **options)


def rest(g):
    u = 1.0
    for _ in range(10_000):
        u = math.tanh(g * u)
    return u


def rate(g):
    return math.log(g) if g <= 1 else math.log(g * (1 - rest(g) ** 2))


def finite_rate(g, steps=20_000):
    """No case by case: the derivative of many steps."""
    u, logarithm = 0.7, 0.0
    for _ in range(steps):
        u = math.tanh(g * u)
        logarithm += math.log(g * (1 - u * u))
    return logarithm / steps


smooth = sp.Piecewise((0, z < 0), (2 * z**2 - z**3, z < 1), (z, True))


def smooth_fold(c):
    return sp.Piecewise((sp.Abs(z), sp.Abs(z) > c), ((z**2 / c + c) / 2, True))


bump = sp.exp(-1 / z) / (sp.exp(-1 / z) + sp.exp(-1 / (1 - z)))  # from 0 to 1 with all its derivatives
NAME = "how-robust-is-it/"
SOLUTIONS = {
    NAME + "enough-units": [units_needed, lambda *case: sp.Integer(units_needed(*case))],
    NAME + "rates-that-train": [decades, lambda *case: torch.tensor(decades(*case))],
    NAME + "tanh-layers-cost": [rate, finite_rate, lambda g: torch.tensor(rate(g))],
    NAME + "smooth-and-persistent": [
        smooth,
        smooth.subs(z, sp.Symbol("x")),
        smooth_fold(1),
        smooth_fold(sp.Rational(1, 1000)),
        smooth_fold(0.01),
        sp.Piecewise((0, z < -0.03), ((z + 0.03) ** 2 / 0.12, z < 0.03), (z, True)),  # joined to within rounding
        sp.Rational(1, 4) + smooth,
        sp.Piecewise((0, z <= 0), (z * bump, z < 1), (z, True)),
    ],
}
MISTAKES = {
    NAME + "enough-units": [
        (lambda least, chance: 2 * least, "half of the draws"),
        (lambda *case: units_needed(*case, strictly=True), "with >="),
        (lambda *case: units_needed(*case, more=1), "more than `least`"),
        (lambda least, chance: units_needed(1, chance), "for one dimension"),
        (lambda least, chance: least, "must be active"),
        (lambda *case: units_needed(*case) - 1, "last number that is not"),
        (lambda least, chance: math.ceil(2 * least / chance), "binomial"),
        (lambda *case: 20, "use its arguments"),
    ],
    NAME + "rates-that-train": [
        (lambda runs, arm, depth, margin: decades(runs, arm, depth, margin - 1e-9), "with >="),
        (of(relative=True), "as a share"),
        (of(pick="min"), "the worst runs"),
        (of(pick="max"), "the best runs"),
        (of(keep=lambda r: not r["diverged"]), "diverged"),
        (of(arms=("he", "shared")), "arm's own best"),
        (of(gaps=True), "breaks the stretch"),
        (lambda runs, arm, depth, margin: decades(runs, "shared", depth, margin), "right on"),
        (lambda runs, arm, depth, margin: decades(runs, arm, None, margin), "mix the depths"),
        (lambda *case: math.log(10) * decades(*case), "natural logarithm"),
        (lambda *case: 10 ** decades(*case), "give its log10"),
        (lambda runs, arm, depth, margin: decades(runs, arm, depth, 0.02), "right on"),
    ],
    NAME + "tanh-layers-cost": [
        (math.log, "other fixed point"),
        (lambda g: rate(g) if g <= 1 else math.log(1 - rest(g) ** 2), "factor g is missing"),
        (lambda g: math.log(1 - rest(g) ** 2) if g > 1 else 0.0, "factor g is missing"),
        (lambda g: -rate(g), "sign is wrong"),
        (lambda g: math.exp(rate(g)), "factor per layer"),
        (lambda g: rate(g) / math.log(10), "natural one"),
        (lambda g: rate(g) - 0.01 * (g == 1), "power law"),
        (lambda g: -1.0, "use its arguments"),
    ],
    NAME + "smooth-and-persistent": [
        (torch.relu, "sympy expression"),
        (sp.Max(z, 0), "a kink"),
        (sp.sqrt(z**2), "a kink"),
        (sp.Heaviside(z) * z, "a kink"),
        (sp.Piecewise((z + 1, z > 0), (z, True)), "not continuous"),
        (sp.log(1 + sp.exp(20 * z)) / 20, "only nearly so"),
        (sp.log(1 + sp.exp(100 * z)) / 100, "only nearly so"),
        (sp.sqrt(z**2 + sp.Rational(1, 10**8)), "only nearly so"),
        (sp.Piecewise((0, z < 0), (z * (1 - sp.exp(-40 * z**2)), True)), "only nearly so"),
        (sp.tanh(z), "only nearly so"),
        (z + sp.Piecewise((0, z < sp.Rational(29, 10)), ((z - sp.Rational(29, 10)) ** 2, True)), "differs by"),
        (z, "differs by"),
        (sp.Piecewise((0, z < 0), (z**2 / 2, z < 1), (z - sp.Rational(1, 2), True)), "map it into itself"),
        (smooth + sp.Symbol("y"), "one symbol"),
        (smooth.subs(z, z / 3) * 3, "first layer"),
        (sp.Piecewise((0, z < 0), (z, z > 1)), "cover"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


KEEP = {"relu": lambda u: u > 0, "leaky_relu": lambda u: u > 0, "abs": lambda u: u == u}


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "tanh", "gelu", "silu"])
def test_shared_layers_iterate_the_activation_on_each_coordinate(name):
    generator = torch.Generator().manual_seed(3)
    network = deep_network(20, 10, activation=name, generator=generator, dtype=torch.float64)
    shared_orthogonal_(network, generator)
    x = 2 * torch.randn(4, 10, generator=generator, dtype=torch.float64)
    u = (x @ network.layers[0].A.T).detach().requires_grad_()
    sigma, out = activations.get(name), u
    for _ in range(20):
        out = sigma(out)
    (d,) = torch.autograd.grad(out.sum(), u)
    found = singular_values(jacobian(network.trunk, x, on_kink="ignore"))
    torch.testing.assert_close(found, d.abs().sort(descending=True).values, rtol=0, atol=1e-12)
    kept = KEEP.get(name, lambda u: u != u)(u).sum(1)
    assert persistent_dimension(network, x).tolist() == kept.tolist()


@pytest.mark.parametrize("n, k", [(8, 3), (8, 7)])
def test_the_block_start_keeps_its_active_isometric_units(n, k):
    generator = torch.Generator().manual_seed(4)
    network = deep_network(12, n, generator=generator, dtype=torch.float64)
    block_(network, k, generator=generator)
    x = torch.randn(6, n, generator=generator, dtype=torch.float64)
    active = (x @ network.layers[0].A.T > 0)[:, : n - k].sum(1)
    assert persistent_dimension(network, x).tolist() == active.tolist()
