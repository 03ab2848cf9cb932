"""The checks of the regions chapter: the right answer passes, each likely mistake is named."""

import pytest
import sympy as sp
import torch

from pso_lib.checks import Wrong, check
from pso_lib.checks.affine_in_pieces import PLANE_NETWORK
from pso_lib.exact.hinges import hinged_layer
from pso_lib.exact.regions import facets, regions
from pso_lib.nn.activations import absolute
from pso_lib.nn.layers import FeedForward

I2 = sp.eye(2)


def fold(cut):
    return hinged_layer(I2, [-cut, -cut], B="identity", activation="abs")


RIGHT = [
    ("affine-in-pieces/jacobian-by-hand", [[-2, 3], [4, -2]]),
    ("affine-in-pieces/jacobian-by-hand", sp.Matrix([[-2, 3], [4, -2]])),
    ("affine-in-pieces/jacobian-by-hand", torch.tensor([[-2.0, 3], [4, -2]])),
    ("affine-in-pieces/count-lines", 20),
    ("affine-in-pieces/empty-pattern", (0, 0, 0)),
    ("affine-in-pieces/empty-pattern", torch.zeros(3)),
    ("affine-in-pieces/second-kink", 5**0.5 / 4),
    ("affine-in-pieces/second-kink", sp.sqrt(5) / 4),
    ("affine-in-pieces/second-kink", 0.559),
    ("affine-in-pieces/beat-one-layer", [fold(0), fold(1)]),
]

MISTAKES = [
    ("affine-in-pieces/jacobian-by-hand", [[-2, 4], [3, -2]], "transpose"),
    ("affine-in-pieces/jacobian-by-hand", [[0, 4], [2, -4]], "wrong order"),
    ("affine-in-pieces/jacobian-by-hand", [[-3, 2], [1, -4]], "counts as on"),
    ("affine-in-pieces/jacobian-by-hand", [[-2, 1], [2, -2]], "first layer alone"),
    ("affine-in-pieces/jacobian-by-hand", [[-1, -2], [-2, 0]], "second layer alone"),
    ("affine-in-pieces/jacobian-by-hand", [[0, 0], [0, 1]], "that of the point x itself"),
    ("affine-in-pieces/jacobian-by-hand", [[-1, 1], [-3, -2]], "another region"),
    ("affine-in-pieces/jacobian-by-hand", [[1, 2, 3]], "shape"),
    ("affine-in-pieces/count-lines", 22, "general position"),
    ("affine-in-pieces/count-lines", 21, "one of the two"),
    ("affine-in-pieces/count-lines", 19, "triple point"),
    ("affine-in-pieces/count-lines", 64, "patterns"),
    ("affine-in-pieces/count-lines", 7, "crossings"),
    ("affine-in-pieces/count-lines", 14, "left out"),
    ("affine-in-pieces/count-lines", 3, "not the number"),
    ("affine-in-pieces/count-lines", "20", "not text"),
    ("affine-in-pieces/empty-pattern", (1, 1, 1), "does occur"),
    ("affine-in-pieces/empty-pattern", (1, 0), "three numbers"),
    ("affine-in-pieces/empty-pattern", (2, 0, 0), "three numbers"),
    ("affine-in-pieces/empty-pattern", 5, "three numbers"),
    ("affine-in-pieces/second-kink", 0.5, "bends"),
    ("affine-in-pieces/second-kink", 2**0.5 / 8, "nearest kink"),
    ("affine-in-pieces/second-kink", 0.177, "nearest kink"),
    ("affine-in-pieces/second-kink", 5 / 16, "square"),
    ("affine-in-pieces/second-kink", 0.5575, "off by"),
    ("affine-in-pieces/second-kink", 0.6, "off by"),
    ("affine-in-pieces/beat-one-layer", [fold(0)], "two layers"),
    ("affine-in-pieces/beat-one-layer", [hinged_layer([[1, 0], [0, 1], [1, 1]], alpha=1), fold(1)], "3 kinks"),
    (
        "affine-in-pieces/beat-one-layer",
        [hinged_layer(I2, B="identity"), hinged_layer(I2, [-1, -1], B="identity")],
        "9 regions",
    ),
    ("affine-in-pieces/beat-one-layer", [hinged_layer([[1, 0], [1, 0]]), fold(0)], "2 regions"),
    ("affine-in-pieces/beat-one-layer", [fold(0), fold(0)], "creases where the first did"),
    ("affine-in-pieces/beat-one-layer", [fold(0), fold(-1)], "nothing arrives"),
]


@pytest.mark.parametrize("name, answer", RIGHT)
def test_a_right_answer_passes(name, answer, capsys):
    check(name, answer)
    assert "✓" in capsys.readouterr().out


@pytest.mark.parametrize("name, answer, part", MISTAKES)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong, match=part):
        check(name, answer)


def test_torch_layers_are_accepted_too(capsys):
    layers = []
    for cut in (0.0, 1.0):
        layer = FeedForward(2, outer="identity", activation=absolute(), dtype=torch.float64)
        layer.set_weights(A=torch.eye(2), b=torch.tensor([-cut, -cut]))
        layers.append(layer)
    check("affine-in-pieces/beat-one-layer", layers)
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
