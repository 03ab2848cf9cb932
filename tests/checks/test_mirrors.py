"""The checks of the chapter on mirrors: the solutions pass, each likely mistake is named."""

from fractions import Fraction

import pytest
import sympy as sp
import torch

from pso_lib.checks import Wrong, check
from pso_lib.exact.hinges import hinged_layer
from pso_lib.exact.regions import regions
from pso_lib.exact.symbolic import reflection
from pso_lib.nn.layers import Fold, Residual


def refuses(part, name, *answer):
    with pytest.raises(Wrong, match=part):
        check(name, *answer)


# ---------------------------------------------------------------- mirrors-line


@pytest.mark.parametrize(
    "answer",
    [
        [[0.6, 0.8], [0.8, -0.6]],
        torch.tensor([[0.6, 0.8], [0.8, -0.6]]),
        reflection([1, -2]),
        [["3/5", "4/5"], ["4/5", "-3/5"]],
        [[Fraction(3, 5), Fraction(4, 5)], [Fraction(4, 5), Fraction(-3, 5)]],
    ],
)
def test_line_accepts_lists_tensors_sympy_and_fractions(answer, capsys):
    check("mirrors/line", answer)
    assert capsys.readouterr().out.startswith("✓")


@pytest.mark.parametrize(
    "answer, part",
    [
        (reflection([2, 1]), "flips the line itself"),
        ([[0.8, 0.4], [0.4, 0.2]], "projects"),
        ([[-1, 4], [4, -7]], "is no unit vector"),
        ([[3, 4], [4, -3]], "divide all of it by"),
        ([[-7, -4], [-4, -1]], "not its normal"),
        ([[0.6, -0.8], [0.8, 0.6]], "rotation"),
        ([[1, 0], [0, 1]], "off by"),
        ([1, 0], "shape"),
    ],
)
def test_line_names_the_mistake(answer, part):
    refuses(part, "mirrors/line", answer)


# ---------------------------------------------------------------- mirrors-find


def crease(Q1, c1, Q2, c2):
    rows, offsets = Q1.T @ (Q2 - Q1), Q1.T @ (c2 - c1)
    longest = rows.norm(dim=1).argmax()
    return rows[longest], offsets[longest]


def by_columns(Q1, c1, Q2, c2):
    jump = (Q2 - Q1).T
    return jump[jump.norm(dim=1).argmax()], crease(Q1, c1, Q2, c2)[1]


def with_offset(change):
    def find(*maps):
        a, b = crease(*maps)
        return a, change(a, b)

    return find


def test_find_accepts_any_scale(capsys):
    check("mirrors/find", crease)
    check("mirrors/find", lambda *maps: tuple(-7 * part for part in crease(*maps)))
    assert capsys.readouterr().out.count("✓") == 2


@pytest.mark.parametrize(
    "answer, part",
    [
        (by_columns, "v, the jump"),
        (with_offset(lambda a, b: -b), "wrong sign"),
        (with_offset(lambda a, b: 0.0), "b is zero"),
        (with_offset(lambda a, b: b / a.norm()), "scale it"),
        (lambda *maps: crease(*maps)[0], "two things"),
        (lambda Q1, c1, Q2, c2: (Q1[0], 0.0), "not perpendicular"),
        (lambda Q1, c1, Q2, c2: (0 * c1, 0.0), "normal is zero"),
        (lambda Q1, c1, Q2, c2: (torch.ones(1), 0.0), "has 1 entries"),
        (([1.0, 0.0], 0.0), "the function itself"),
    ],
)
def test_find_names_the_mistake(answer, part):
    refuses(part, "mirrors/find", answer)


# ---------------------------------------------------------------- mirrors-colours


@pytest.fixture(scope="module")
def pattern():
    folds = [(["3/5", "4/5"], 0), (["12/13", "-5/13"], 0), ([0, 1], "1/4")]
    return regions([hinged_layer([a], [b], alpha=1, beta=-2) for a, b in folds])


def test_colours_accepts_both_colourings(pattern, capsys):
    colours = [int(piece.J.det()) for piece in pattern]
    check("mirrors/colours", pattern, colours)
    check("mirrors/colours", pattern, [-c for c in colours])
    assert capsys.readouterr().out.count("✓") == 2


def test_colours_names_the_mistake(pattern):
    right = [int(piece.J.det()) for piece in pattern]
    refuses("give one for each", "mirrors/colours", pattern, right[1:])
    refuses("are \\+1 and -1", "mirrors/colours", pattern, [(c + 1) // 2 for c in right])
    refuses("same colour", "mirrors/colours", pattern, [1] * len(right))
    refuses("pieces of one colour", "mirrors/colours", pattern, [-right[0], *right[1:]])
    refuses("shows little", "mirrors/colours", pattern[:2], right[:2])


# ---------------------------------------------------------------- mirrors-torn


def torn(x):
    return x + (x[:, :1] > 0) * torch.tensor([0.0, 1.0])


NEAR = [-0.05, 0.0], [0.05, 0.0]


def test_torn_accepts_a_slide(capsys):
    check("mirrors/torn", torn, *NEAR)
    assert "not continuous" in capsys.readouterr().out


@pytest.mark.parametrize(
    "F, x, y, part",
    [
        (lambda x: x * torch.tensor([-1.0, 1.0]), *NEAR, "not the identity"),
        (lambda x: torch.stack([x[:, 0].abs(), x[:, 1]], dim=1), *NEAR, "not the identity"),
        (lambda x: 10 * x, *NEAR, "stretches"),
        (lambda x: x + 1.0, *NEAR, "keep their distance"),
        (torn, [0.01, 0.0], [0.05, 0.0], "keep their distance"),
        (torn, [-1.0, 0.0], [1.0, 0.0], "start at most 0.1"),
        (lambda x: x + (x[:, :1] > 0) * 0.5, *NEAR, "end at least 1"),
        (lambda x: x[:, 0], *NEAR, "must return a tensor"),
        (lambda x: ..., *NEAR, "must return a tensor"),
        (3.0, *NEAR, "is the function"),
    ],
)
def test_torn_names_the_mistake(F, x, y, part):
    refuses(part, "mirrors/torn", F, x, y)


# ---------------------------------------------------------------- mirrors-box


def folds(count, offset=lambda l: 1 - 0.5**l, scale=1.0):
    layers = [Fold(2) for _ in range(count)]
    for l, layer in enumerate(layers):
        layer.set_weights(A=scale * torch.eye(2), b=offset(l))
    return layers


def test_box_accepts_four_halvings(capsys):
    check("mirrors/box", folds(4))
    assert "4 layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    "layers, part",
    [
        (folds(3), "side 0.25"),
        (folds(4, offset=lambda l: 0.0), "side 1, not"),
        # The last crease is off the middle, and lies between the points of a grid of step 1/64.
        (folds(4, offset=lambda l: 0.8671875 if l == 3 else 1 - 0.5**l), "side 0.133"),
        (folds(4, scale=0.5), "not orthonormal"),
        (folds(5), "four are enough"),
        (folds(13), "too many"),
        ([Residual(2)], "no Fold"),
        ([], "empty"),
    ],
)
def test_box_names_the_mistake(layers, part):
    refuses(part, "mirrors/box", layers)


def test_no_stack_of_three_layers_can_fit_the_box():
    """The counting behind the last exercise: with h = 2 a layer is at most four to one, so areas fall by 4 at most."""
    piece_areas = [sum(r.area for r in regions([hinged_layer(sp.eye(2), ["1/3", "-1/4"], alpha=1, beta=-2)]))]
    assert piece_areas == [4]  # every piece keeps its area, and there are four pieces
    assert sp.Rational(4, 4**3) > sp.Rational(1, 8) ** 2 >= sp.Rational(4, 4**4)
