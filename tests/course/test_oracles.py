"""Truths that an oracle computes as its reference does, computed here in another way."""

import itertools
import math
import random
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from pso_lib.course.assignment import read
from pso_lib.exact import origami

ROOT = Path(__file__).resolve().parents[2] / "assignments"


@pytest.fixture(scope="module")
def oracles():
    """The oracles' own functions, by the assignment's number."""
    return {n: next(iter(read(str(n), ROOT).exercises.values())).cases.__globals__ for n in range(1, 6)}


def test_logarithms_add_up_to_those_of_the_determinants(oracles):
    matrices = torch.randn(80, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logs = oracles[1]["exact_logs"](matrices, math.e)
    assert sum(logs) == pytest.approx(float(matrices.det().abs().log().sum()), abs=1e-9)
    norms = 0.0  # the largest one, by a product that is kept at length one
    G = torch.eye(4, dtype=torch.float64)
    for J in matrices:
        G = J @ G
        norms += float(G.norm().log())
        G = G / G.norm()
    assert logs[0] == pytest.approx(norms + float(torch.linalg.matrix_norm(G, 2).log()), abs=1e-9)


@pytest.mark.parametrize("kind", ["relu", "abs", "leaky"])
def test_corners_are_where_a_fine_grid_bends(oracles, kind):
    one, slopes = oracles[1], oracles[1]["SLOPES"][kind]
    for case in one["bends_cases"]({"activation": kind}, random.Random(kind)):
        layers, p, q = case.arguments
        grid = [Fraction(k, 997) for k in range(998)]

        def output(t, layers=layers, p=p, q=q):
            h = [a + t * (b - a) for a, b in zip(p, q, strict=True)]
            for number, (W, b) in enumerate(layers):
                h = [sum(w * v for w, v in zip(row, h, strict=True)) + c for row, c in zip(W, b, strict=True)]
                h = h if number == len(layers) - 1 else [(slopes[1] if z > 0 else slopes[0]) * z for z in h]
            return h

        values = [output(t) for t in grid]
        bent = [
            any(a + c != 2 * b for a, b, c in zip(*three, strict=True))
            for three in zip(values, values[1:], values[2:], strict=False)
        ]
        corners = [float(t) for t in one["corners"](one["curve"](layers, p, q, slopes)[0])]
        for at, (t, bends) in enumerate(zip(grid[1:], bent, strict=False)):
            near = any(abs(c - float(t)) < 1 / 997 for c in corners)
            assert bends == near or (near and not bends and at), (float(t), corners)
        assert sum(bent) <= 2 * len(corners) and all(
            any(bends and abs(c - float(t)) <= 1 / 997 for t, bends in zip(grid[1:], bent, strict=False))
            for c in corners
        )


@pytest.mark.parametrize("dimension", [2, 3])
def test_walls_are_counted_as_by_taking_one_away(oracles, dimension):
    def regions(families, d):  # deletion and restriction: a wall cuts as many regions as its own arrangement has
        if d == 0 or not families:
            return 1
        first, rest = families[0], families[1:]
        return regions([first - 1, *rest] if first > 1 else rest, d) + regions(rest, d - 1)

    for families in ([1, 1, 1, 1], [2, 3, 1], [4], [2, 2, 2, 2, 1]):
        assert oracles[1]["flats"](families, dimension) == regions(families, dimension)


def test_pieces_are_those_of_a_zigzag(oracles):
    one = Fraction(1)
    weights = [[one], [one]], [Fraction(0), Fraction(-1)], [[one, -2 * one]], [Fraction(-1, 2)], [one]
    assert oracles[1]["count_pieces"](*weights) == 4  # 0, up from 1/2, down from 1, 0 from 3/2


def test_repairs_are_those_of_exact_trigonometry(oracles):
    import sympy as sp

    angles = oracles[2]["broken"](random.Random(3), 6)
    for i in range(6):
        others = angles[:i] + angles[i + 1 :]
        exact = {sp.nsimplify(x * 180 / sp.pi) for x in origami.kawasaki_completion([sp.rad(a) for a in others])}
        assert {sp.Rational(str(x)) for x in oracles[2]["completions"](others)} == exact


@pytest.mark.parametrize("sides", [1, 2])
def test_seeds_are_counted_outcome_by_outcome(oracles, sides):
    def chance(n, wins, p):
        return sum(
            math.prod(p if win else 1 - p for win in outcome)
            for outcome in itertools.product((0, 1), repeat=n)
            if sum(outcome) >= wins
        )

    p, alpha, power = Fraction(9, 10), Fraction(1, 10), Fraction(2, 3)
    half = Fraction(1, 2)
    for n in range(1, 11):
        evidence = [w for w in range(n + 1) if 2 * w > n and sides * chance(n, w, half) <= alpha]
        if evidence and chance(n, evidence[0], p) >= power:
            break
    assert oracles[4]["least"](p, alpha, power, sides) == n


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_detector_fires_just_beyond_the_edge(oracles, kind):
    alpha, tau, steps = 0.9, 2.0, 6
    r = oracles[5]["edge"](tau, alpha, steps, kind)
    for factor, fires in ((r - 1e-6, False), (r + 1e-6, True)):
        g = [factor**t for t in range(steps + 1)]
        m = [sum((1 - alpha) * alpha ** (t - s) * g[s] for s in range(1, t + 1)) + alpha**t for t in range(steps + 1)]
        against = m[:-1] if kind == "before" else m[1:]
        assert any(now > tau * mean for now, mean in zip(g[1:], against, strict=True)) == fires
