"""The checks of the chapter on depth accept the solutions and name each likely mistake."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from exercise_cases import named, passes
from scipy import integrate, special, stats

from pso_lib.checks.why_depth_stops_learning import _leaky_map, _prices

CHAPTER = "why-depth-stops-learning"
n, s = sp.symbols("n s", positive=True)
ROOT = math.sqrt(2)


def jacobian(angle, active=(1, 1, 0, 0), size=ROOT):
    """√2 D A with an A that turns the second active direction towards a silent one."""
    A = np.eye(4)
    A[np.ix_([1, 2], [1, 2])] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return size * np.diag(active) @ A


J1, J2 = jacobian(0), jacobian(1.4)
RANDOM = ROOT * np.diag([1, 1, 0, 0]) @ np.random.default_rng(0).normal(size=(4, 4))


def fold(c):
    return 2 / math.pi * (math.sqrt(1 - c * c) + c * math.asin(c))


def leaky(c, s):
    a, b = (1 + s) ** 2, (1 - s) ** 2
    return (a * c + b * fold(c)) / (a + b)


def price(start, width):
    k = np.arange(2, width + 1)
    coins = stats.binom.pmf(k, width, 0.5)
    gap = (special.digamma(k / 2) - special.digamma((k - 1) / 2)) / 2
    return coins @ gap / coins.sum() - (gap[-1] if start == "orthogonal" else 0)


def least(price):
    def width(start, depth, most):
        return next(w for w in range(16, 1000) if depth * price(start, w) <= most)

    return width


def half(start, width):
    return (1 if start == "he" else 0.5) / width


SOLUTIONS = {
    f"{CHAPTER}/two-layers": [
        (J1, J2),
        (torch.tensor(J1), torch.tensor(J2)),
        (J1.tolist(), sp.Matrix(J2)),
        (jacobian(0.3, (0, 1, 0, 1)), jacobian(1.7, (0, 1, 0, 1))),
    ],
    f"{CHAPTER}/leaky-correlation-map": [
        leaky,
        lambda c, s: np.float64(leaky(c, s)),
        lambda c, s: sp.Float(leaky(c, s)),
    ],
    f"{CHAPTER}/drift": [
        (6 * (1 + s**4) / (1 + s**2) ** 2 - 1) / n,
        (5 - 2 * sp.Symbol("s") ** 2 + 5 * sp.Symbol("s") ** 4) / (1 + sp.Symbol("s") ** 2) ** 2 / sp.Symbol("n"),
    ],
    f"{CHAPTER}/width-for-depth": [least(price), lambda *case: torch.tensor(least(price)(*case))],
}
SQUARE = 6 * (1 + s**4) / (1 + s**2) ** 2
MISTAKES = {
    f"{CHAPTER}/two-layers": [
        ((J1, jacobian(0)), "just the plane"),
        ((J1, jacobian(0.5)), "stable rank of J2 J1 is 1.77"),
        ((J1, jacobian(math.pi / 2)), "rank 1"),
        ((jacobian(0, (1, 1, 0, 0)), jacobian(0, (0, 0, 1, 1))), "no direction passes"),
        ((J1 / ROOT, J2), "lacks the factor"),
        ((J1, jacobian(1.4).T @ np.eye(4)), "zero columns"),
        ((jacobian(0, (1, 1, 1, 0)), J2), "3 active"),
        ((RANDOM, J2), "perpendicular"),
        ((J1[:2], J2), "shape"),
    ],
    f"{CHAPTER}/leaky-correlation-map": [
        (0.5, "the function itself"),
        (lambda c, s: (1 + s) / 2 * c + (1 - s) / 2 * fold(c), "by their squares"),
        (lambda c, s: ((1 + s) ** 2 * c + (1 - s) ** 2 * fold(c)) / 4, "divide by its value"),
        (lambda c, s: leaky(c, -s), "You exchanged the parts"),
        (lambda c, s: leaky(c, 0), "map of ReLU"),
        (lambda c, s: fold(c), "of |z| alone"),
        (lambda c, s: c, "right on"),
        (lambda c, s: torch.sqrt(c), "TypeError"),
        (lambda c, s: None, "None"),
    ],
    f"{CHAPTER}/drift": [
        (5 / n, "right for ReLU"),
        (SQUARE / n, "subtract its squared mean"),
        (SQUARE - 1, "variance of one term"),
        ((SQUARE - 1) * n, "variance of the sum"),
        ((2 * SQUARE - 1) / n, "half of the time"),
        ((6 * (1 + s**4) - (1 + s**2) ** 2) / (4 * n), "left out the factor"),
        (sp.sqrt((SQUARE - 1) / n), "standard deviation"),
        (-(SQUARE - 1) / (2 * n), "drift of log q;"),
        ((SQUARE - 1) / (2 * n), "twice as much"),
        ((6 / (1 + s**2) - 1) / n, "fourth power"),
        (lambda n, s: 5 / n, "not a function"),
        (7 / n, "not equal"),
        (5 / (n * sp.Symbol("z")), "holds z"),
    ],
    f"{CHAPTER}/width-for-depth": [
        (least(half), "approximations"),
        (lambda start, depth, most: math.ceil(depth * half(start, 1) / most), "approximations"),
        (lambda start, *rest: least(price)("he", *rest), "He's price for both"),
        (lambda start, *rest: least(price)("he" if start == "orthogonal" else "orthogonal", *rest), "exchanged"),
        (lambda *case: least(price)(*case) - 1, "one too small"),
        (least(lambda start, w: price("he", w) / (1 if start == "he" else 2)), "half only for large n"),
        (lambda *case: 42, "the same in 5 cases"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


@pytest.mark.parametrize("c, slope", [(0.4, 0.0), (-0.6, 0.3), (0.95, -1.0), (0.5, 2.0)])
def test_the_leaky_map_is_the_integral(c, slope):
    def unit(z):
        return np.where(z > 0, z, slope * z)

    def product(phi):  # a normal point of the plane at angle φ, the radius integrated out
        return unit(np.cos(phi)) * unit(np.cos(phi - math.acos(c)))

    def square(phi):
        return unit(np.cos(phi)) ** 2

    turn = (0, 2 * math.pi)
    kinks = {
        "points": [math.pi / 2, 3 * math.pi / 2, math.acos(c) + math.pi / 2, math.acos(c) - math.pi / 2],
        "limit": 200,
    }
    value = integrate.quad(product, *turn, **kinks)[0] / integrate.quad(square, *turn)[0]
    assert abs(_leaky_map(c, slope) - value) < 1e-6


def test_the_variance_is_what_numbers_have():
    z = np.random.default_rng(0).normal(size=4_000_000)
    for slope in (0.0, 0.3):
        term = 2 / (1 + slope**2) * np.where(z > 0, z, slope * z) ** 2
        expected = float((SQUARE - 1).subs(s, slope))
        assert abs(term.mean() - 1) < 0.01 and abs(term.var() / expected - 1) < 0.02


def test_prices_are_those_of_scipy():
    for width in (16, 40, 190):
        for start, value in _prices(width).items():
            assert abs(value - price(start, width)) < 1e-12
