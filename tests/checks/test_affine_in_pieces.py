"""The checks of the regions chapter: right answers pass, each likely mistake is named."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import sympy as sp
import torch
from exercise_cases import named, passes
from scipy.optimize import linprog

from pso_lib.checks import check
from pso_lib.checks.affine_in_pieces import LINES, PLANE_NETWORK
from pso_lib.exact.arrangement import arrangement
from pso_lib.exact.hinges import hinged_layer
from pso_lib.exact.regions import facets, regions
from pso_lib.nn.layers import Fold

HERE = "affine-in-pieces"


def value(layers, x):
    for A, b, B in layers:
        x = B.T @ torch.relu(A @ x + b)
    return x


def piece(layers, x):
    J = torch.func.jacrev(lambda x: value(layers, x))(x)
    return J, value(layers, x) - J @ x


def all_on(layers, x):
    J, c = torch.eye(len(x), dtype=x.dtype), 0 * x
    for A, b, B in layers:
        J, c = B.T @ A @ J, B.T @ (A @ c + b)
    return J, c


def last_shift(layers, x):
    A, b, B = layers[-1]
    on = (A @ value(layers[:-1], x) + b > 0).double()
    return piece(layers, x)[0], B.T @ (on * b)


def as_numpy(layers, x):
    return [part.numpy() for part in piece(layers, x)]


def cells_with_finite_area(lines):
    """By linear programming: a cell is bounded if all four directions are."""
    count = 0
    for cell in arrangement([line[:2] for line in lines], [line[2] for line in lines]):
        signs = np.array(cell.signs)[:, None]
        A, b = -signs * np.array(lines)[:, :2], signs[:, 0] * np.array(lines)[:, 2]
        ways = [linprog(c, A, b, bounds=(None, None)).status for c in ([1, 0], [-1, 0], [0, 1], [0, -1])]
        count += all(status == 0 for status in ways)
    return count


def points(lines):
    found = {}
    for (i, (p, q, b)), (j, (r, s, c)) in combinations(enumerate(lines), 2):
        if det := p * s - q * r:
            found.setdefault((Fraction(q * c - s * b, det), Fraction(r * b - p * c, det)), set()).update((i, j))
    return [len(through) for through in found.values()]


OBLIQUE = [(("-15/17", "8/17"), 0), (("4/5", "-3/5"), -2), ((0, -1), -3), (("-3/5", "4/5"), 2)]


def one_unit(*changes, creases=OBLIQUE):
    creases = [*creases[: 4 - len(changes)], *changes]
    return [hinged_layer([a], [b], alpha=1, beta=-2) for a, b in creases]


def torch_layers():
    layers = [Fold(2, 1, dtype=torch.float64) for _ in OBLIQUE]
    for layer, (a, b) in zip(layers, OBLIQUE, strict=True):
        layer.set_weights(A=torch.tensor([[float(Fraction(v)) for v in a]]), b=float(b))
    return layers


def fold_in_half(cut):
    return hinged_layer(sp.eye(2), [-cut, -cut], B="identity", activation="abs")


SOLUTIONS = {
    f"{HERE}/piece": [piece, as_numpy, lambda layers, x: [part.tolist() for part in piece(layers, x)]],
    f"{HERE}/bounded": [cells_with_finite_area, lambda lines: torch.tensor(cells_with_finite_area(lines))],
    f"{HERE}/empty-pattern": [
        ((0, 0, 0), (1, 2, 3)),
        (torch.zeros(3), torch.tensor([1 / 3, 2 / 3, 1])),
        ([False, False, False], ["1/3", "2/3", 1]),
        (np.zeros(3), sp.Matrix([2, 4, 6])),
    ],
    f"{HERE}/second-kink": [5**0.5 / 4, sp.sqrt(5) / 4, 0.559, torch.tensor([0.559017])],
    f"{HERE}/one-unit-a-layer": [one_unit(), torch_layers()],
}
MISTAKES = {
    f"{HERE}/piece": [
        (lambda layers, x: (piece(layers, x)[0], value(layers, x)), "c is F(x)"),
        (lambda layers, x: (piece(layers, x)[0], 0 * value(layers, x)), "c is zero"),
        (lambda layers, x: (piece(layers, x)[0], -piece(layers, x)[1]), "other sign"),
        (all_on, "counts as on"),
        (last_shift, "last layer's shift"),
        (lambda layers, x: (piece(layers, x)[0].T, piece(layers, x)[1]), "transpose"),
        (lambda layers, x: piece(layers, x)[0], "return 2 things"),
        ([[1, 0], [0, 1]], "the function itself"),
    ],
    f"{HERE}/bounded": [
        (lambda lines: (len(lines) - 1) * (len(lines) - 2) // 2, "general position only"),
        (lambda lines: len(arrangement([t[:2] for t in lines], [t[2] for t in lines])), "all regions"),
        (lambda lines: 1 - len(lines) + len(points(lines)) if points(lines) else 0, "each crossing point once"),
        (lambda lines: 1 - len(lines) + sum(k - 1 for k in points(lines)), "never cross"),
        (
            lambda lines: 1 - len(lines) + sum(k * (k - 1) // 2 for k in points(lines)) if points(lines) else 0,
            "each pair of lines",
        ),
        (lambda lines: 6, "must use its arguments"),
    ],
    f"{HERE}/empty-pattern": [
        (((1, 1, 1), (1, 1, 1)), "does occur"),
        (((0, 0, 0), (1, 1, 1)), "still depends on x"),
        (((0, 0, 0), (-1, -2, -3)), "may be negative"),
        (((0, 0, 0), (0, 0, 0)), "all weights zero"),
        (((0, 0, 0), [float("inf")] * 3), "no finite number"),
        (((0, 0, 0.4), (1, 2, 3)), "0 for off"),
        (((0, 0), (1, 2, 3)), "shape"),
        (((0, 0, 0), (1.0, 2.0, 3.001)), "still depends on x"),
    ],
    f"{HERE}/second-kink": [
        (0.5, "bends"),
        (2**0.5 / 8, "nearest kink"),
        (0.177, "nearest kink"),
        (5 / 16, "square"),
        (0.75, "along the axes"),
        (0.5575, "two or three digits"),
    ],
    f"{HERE}/one-unit-a-layer": [
        ([fold_in_half(0), fold_in_half(1)], "four layers"),
        ([fold_in_half(0), *one_unit()[1:]], "has 2 kinks"),
        (one_unit(((1, 0), 0), ((0, 1), 0), ((1, 0), "1/2"), ((0, 1), "1/2")), "parallel or perpendicular"),
        (one_unit((("-3/5", "4/5"), 20)), "2, 4, 8, 8 regions"),
        (one_unit((("-3/5", "4/5"), -900)), "2, 4, 8, 12 regions"),
        (one_unit((("-15/17", "8/17"), -2000), *OBLIQUE[1:]), "does not meet"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


def test_the_truth_of_bounded_regions_is_that_of_linear_programming():
    assert [cells_with_finite_area(lines) for lines in LINES] == [8, 6, 6, 0, 0, 6, 0]


def test_all_creases_count_and_no_more_than_double(capsys):
    check(f"{HERE}/one-unit-a-layer", torch_layers(), strict=True)
    assert "16 regions" in capsys.readouterr().out


def test_the_second_nearest_kink_by_measuring_all_creases():
    found = regions(list(PLANE_NETWORK), ((-4, 4), (-4, 4)))
    point, squares = sp.Matrix(["3/2", "-5/4"]), {}
    for crease in facets(found):
        start, end = sp.Matrix(crease.start), sp.Matrix(crease.end)
        along = end - start
        share = min(max((point - start).dot(along) / along.dot(along), 0), 1)
        gap = point - start - share * along
        one, two = (sum(found[i].patterns, ()) for i in (crease.first, crease.second))
        (unit,) = [k for k in range(6) if one[k] != two[k]]
        squares[unit] = min(gap.dot(gap), squares.get(unit, sp.oo))
    assert sorted(squares.values())[:2] == [sp.Rational(1, 32), sp.Rational(5, 16)]
