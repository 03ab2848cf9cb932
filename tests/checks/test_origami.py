"""The exercises on folding: the solution passes, each likely mistake is named."""

import pytest
import sympy as sp
import torch

from pso_lib.checks import Wrong, check

R = 0.5**0.5
RIGHT = {
    "origami/leaky-fold": [
        ("-11/9", "20/9"),
        (-11 / 9, 20 / 9),
        (sp.Rational(-11, 9), sp.Rational(20, 9)),
        [-1.2222222, 2.2222222],
    ],
    "origami/maxmin-fold": [
        [[-R, R], [R, R]],
        [[-R, -R], [R, -R]],
        torch.tensor([[-R, R], [R, R]]),
        sp.Matrix([[-1, 1], [1, 1]]) / sp.sqrt(2),
    ],
    "origami/fourth-crease": [30, 50, 150, 210.0, -30, "30"],
    "origami/count-pencils": [(0, 25), [0, 25]],
    "origami/numbers-in-space": [[3, 5, 7, 9], {9, 7, 5, 3}, range(3, 11, 2)],
    "origami/five-planes": [
        [[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, -1, 0], [0, 0, 1]],
        [[0, 0, 1], [1, 0, 1], [0, 2, 0], [1, 0, -1], [1, 0, 0]],
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, -1, 0], [2, 1, 0], [1, -2, 0], [0, 0, 1]],
    ],
}
WRONG = [
    ("origami/leaky-fold", ("11/9", "-20/9"), "beta < 0"),
    ("origami/leaky-fold", ("20/9", "-11/9"), r"\(beta, alpha\)"),
    ("origami/leaky-fold", (-1, 2), "ReLU"),
    ("origami/leaky-fold", (1, -2), "ReLU.* beta < 0"),
    ("origami/leaky-fold", ("-11/9", "-20/9"), "sign of beta"),
    ("origami/leaky-fold", ("11/9", "20/9"), "sign of alpha"),
    ("origami/leaky-fold", (1, 0), "not used"),
    ("origami/leaky-fold", ("-1/9", "10/9"), "must be -1, not 0"),
    ("origami/leaky-fold", (1, 1), "off by"),
    ("origami/leaky-fold", 3, "the pair"),
    ("origami/maxmin-fold", [[R, R], [-R, R]], "min, max"),
    ("origami/maxmin-fold", [[R, -R], [R, R]], "exchanged"),
    ("origami/maxmin-fold", [[R, R], [R, -R]], "exchanged, and the normal has the other sign"),
    ("origami/maxmin-fold", [[-1, 1], [1, 1]], "length 1"),
    ("origami/maxmin-fold", [[1, 1], [0, 1]], "not orthogonal"),
    ("origami/maxmin-fold", [[1, 0], [0, 1]], "normal of the line"),
    ("origami/maxmin-fold", [[1, 0]], "shape"),
    ("origami/fourth-crease", [30, 50, 150], "give one angle"),
    ("origami/fourth-crease", 0.5236, "radians"),
    ("origami/fourth-crease", 60, "180°, as for rays"),
    ("origami/fourth-crease", 220, "already is a crease"),
    ("origami/fourth-crease", 10, "instead of 90"),
    ("origami/count-pencils", (55, 25), "on paper"),
    ("origami/count-pencils", (3, 25), "never fold"),
    ("origami/count-pencils", (0, 165), "all choices"),
    ("origami/count-pencils", (0, 150), "ordered"),
    ("origami/count-pencils", (0, 24), "each once"),
    ("origami/count-pencils", (0, 3), "1e-9"),
    ("origami/count-pencils", 25, "two numbers"),
    ("origami/five-planes", [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "five are wanted"),
    ("origami/five-planes", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [1, 1, 0]], "parallel"),
    ("origami/five-planes", [[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, -1, 0], [1, 2, 0]], "one plane"),
    (
        "origami/five-planes",
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1]],
        "odd in number|not perpendicular|Kawasaki",
    ),
    ("origami/five-planes", [[1, 0], [0, 1], [1, 1], [1, 2], [1, 3]], "three numbers"),
    ("origami/numbers-in-space", [3, 5, 6, 7, 9], "six never fold"),
    ("origami/numbers-in-space", [3, 4, 5], "count the creases"),
    ("origami/numbers-in-space", [5, 7, 9], "corner"),
    ("origami/numbers-in-space", [3], "wall across"),
    ("origami/numbers-in-space", [3, 5], "six creases"),
    ("origami/numbers-in-space", [3, 5, 7], "eight"),
    ("origami/numbers-in-space", [3, 5, 7, 9, 11], "outside"),
    ("origami/numbers-in-space", 5, "list of numbers"),
]


@pytest.mark.parametrize("name, answer", [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_right_answers_pass(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}: ")


@pytest.mark.parametrize("name, answer, part", WRONG)
def test_wrong_answers_are_explained(name, answer, part):
    with pytest.raises(Wrong, match=part):
        check(name, answer)
