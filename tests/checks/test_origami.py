"""The exercises on folding: the solutions pass, each likely mistake is named."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from exercise_cases import named, passes

from pso_lib.checks import check
from pso_lib.exact import folds, origami

R = 0.5**0.5


# ---------------------------------------------------------------- zig-zags


def zigzag(kinks, s):
    betas = [(-2 if i % 2 == 0 else 2) / (1 - s) for i in range(len(kinks))]
    return 1 - s * sum(betas), betas


def for_relu(kinks, s):
    return 1, [(-2) * (-1) ** i for i in range(len(kinks))]


def undivided(kinks, s):
    betas = for_relu(kinks, s)[1]
    return 1 - s * sum(betas), betas


def falling(kinks, s):
    betas = [-2 / (1 - s)] * len(kinks)
    return 1 - s * sum(betas), betas


def halved(kinks, s):
    betas = [beta / 2 for beta in zigzag(kinks, s)[1]]
    return 1 - s * sum(betas), betas


# ---------------------------------------------------------------- the fourth crease


def fourth(*given):
    """One root for each place of the fourth among the three in order, if it lies there."""
    a, b, c = sorted(given)
    roots = [a + 90 - (c - b), c + (b - a) - 90, c + 90 - (b - a)]
    places = [(a, b), (b, c), (c, a + 180)]
    return [t % 180 for t, (low, high) in zip(roots, places, strict=True) if low < t < high]


def exact_fourth(*given):
    return [sp.deg(t) for t in origami.kawasaki_completion([sp.rad(int(angle)) for angle in given])]


def unchecked(*given):
    a, b, c = sorted(given)
    return [a + 90 - (c - b), c + (b - a) - 90, c + 90 - (b - a)]


def unsorted(a, b, c):
    roots = [a + 90 - (c - b), c + (b - a) - 90, c + 90 - (b - a)]
    return [t for t, low, high in zip(roots, (a, b, c), (b, c, a + 180), strict=True) if low < t < high]


def rays(*given):
    return [t + 90 for t in unchecked(*given)]


# ---------------------------------------------------------------- sorting

FIRST, SECOND, OUTER = [-R, R, 0], [0, -R, R], [-R, 0, R]

# ---------------------------------------------------------------- planes

U, V, W = np.array([2, 1, -2]), np.array([2, -2, 1]), np.array([1, 2, 2])
SIX = [(1, 0), (2, 1), (1, 1), (0, 1), (-1, 2), (-1, 1)]
PENCIL = [p * U + q * V for p, q in SIX]
SEVEN = [*PENCIL, W]
IN_PENCIL = [p * U + q * W for p, q in SIX] + [V]  # the given wall belongs to the pencil, another is the wall


SOLUTIONS = {
    "origami/zigzag": [
        zigzag,
        lambda kinks, s: (torch.tensor(zigzag(kinks, s)[0]), np.array(zigzag(kinks, s)[1])),
        lambda kinks, s: (sp.Float(zigzag(kinks, s)[0], 20), [sp.Float(b, 20) for b in zigzag(kinks, s)[1]]),
    ],
    "origami/fourth-crease": [
        fourth,
        exact_fourth,
        lambda *given: set(fourth(*given)),
        lambda *given: torch.tensor(fourth(*given)[::-1], dtype=torch.float64) + 180,
    ],
    "origami/sort-three": [
        [FIRST, SECOND, FIRST],
        torch.tensor([SECOND, FIRST, SECOND]),
        [sp.Matrix([-1, 1, 0]) / sp.sqrt(2), sp.Matrix([-1, 0, 1]) / sp.sqrt(2), sp.Matrix([0, -1, 1]) / sp.sqrt(2)],
        np.array([FIRST, SECOND, FIRST]),
    ],
    "origami/seven-planes": [
        [row.tolist() for row in SEVEN],
        np.array(SEVEN),
        torch.tensor(np.array(SEVEN), dtype=torch.float32) / 3,
        [(-1) ** k * row.astype(float) for k, row in enumerate(SEVEN)],
        [sp.Matrix(row.tolist()) for row in SEVEN[::-1]],
        np.array(IN_PENCIL),
    ],
}
MISTAKES = {
    "origami/zigzag": [
        (for_relu, "right for ReLU"),
        (lambda kinks, s: (1, zigzag(kinks, s)[1]), "The betas are right"),
        (undivided, "Divide by 1 - s"),
        (falling, "must alternate"),
        (lambda kinks, s: (-zigzag(kinks, s)[0], [-b for b in zigzag(kinks, s)[1]]), "turn all signs around"),
        (halved, "1, 0, 1"),
        (lambda kinks, s: [zigzag(kinks, s)[0], *zigzag(kinks, s)[1], 0], "return 2 things"),
        (lambda kinks, s: (1, [2]), "betas has shape"),
    ],
    "origami/fourth-crease": [
        (lambda *given: fourth(*given)[:1], "one in each of the three sectors"),
        (unchecked, "do not lie in the sector"),
        (rays, "180°, as for rays"),
        (lambda *given: [math.radians(t) for t in fourth(*given)], "radians"),
        (unsorted, "any order"),
        (lambda a, b, c: [a], "there already"),
        (lambda *given: [30, 50, 150], "the same in 5 cases"),
        (lambda *given: [], "the same"),
    ],
    "origami/sort-three": [
        ([FIRST, SECOND], "not sorted"),
        ([FIRST, SECOND, OUTER], "not sorted"),
        ([FIRST, SECOND, FIRST, SECOND], "three are enough"),
        (-np.array([FIRST, SECOND, FIRST]), "ascending"),
        ([[-1, 1, 0], [0, -1, 1], [-1, 1, 0]], "length 1"),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], "change the numbers"),
        ([FIRST[:2], SECOND[:2]], "three entries"),
        ([[math.nan] * 3] * 3, "no finite number"),
    ],
    "origami/seven-planes": [
        ([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, -1, 0], [0, 0, 1]], "seven are wanted"),
        ([*PENCIL, -2 * PENCIL[0]], "parallel"),
        ([*PENCIL[:5], U + 3 * V, W], "break Kawasaki's condition"),
        ([*PENCIL, U + 3 * V], "not among them"),
        ([U, V, U + V, W, U + W, V + W, U + V + W], "odd number"),
        ([[1, 0], [0, 1], [1, 1], [1, 2], [1, 3]], "three numbers"),
        ([*PENCIL[:5], PENCIL[5] + W, W], "share a line"),
        ([*SEVEN[:5], (PENCIL[5] + [0.001, 0, 0]).tolist(), W], "share a line"),
        ([p * U + q * W for p, q in [*SIX, (1, 3)]], "in one plane"),
        ([*PENCIL, W * math.inf], "no finite number"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


@pytest.mark.parametrize("planes, folds_up", [(SEVEN, True), (IN_PENCIL, True), ([*PENCIL[:5], U + 3 * V, W], False)])
def test_seven_planes_fold_in_every_region(planes, folds_up):
    """The exact layer, all its regions, against the check's conditions at the lines."""
    layer = folds.fold(sp.eye(3), [sp.Matrix(row.tolist()) for row in planes])
    assert layer.is_orthogonal is folds_up
    assert bool(check("origami/seven-planes", planes, strict=False)) is folds_up


def test_the_fourth_creases_are_those_of_the_library():
    for given in ((0, 40, 100), (10, 33, 51), (170, 20, 93), (15, 168, 41)):
        assert sorted(fourth(*given)) == pytest.approx(sorted(float(t) % 180 for t in exact_fourth(*given)))


@pytest.mark.parametrize("s", [0.1, -1.0, 0.5])
def test_the_zigzag_has_slopes_one_and_minus_one(s):
    kinks = [-2.0, 0.0, 1.0, 4.0]
    alpha, betas = zigzag(kinks, s)
    z = np.array([-4, -3, -1.5, -0.5, 0.25, 0.75, 2, 3, 5, 6])
    shifted = z[:, None] - np.array(kinks)
    F = alpha * z + np.where(shifted > 0, shifted, s * shifted) @ betas
    assert (np.diff(F)[::2] / np.diff(z)[::2]) == pytest.approx([1, -1, 1, -1, 1])
