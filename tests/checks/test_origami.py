"""The exercises on folding: the solution passes, each likely mistake is named."""

import pytest
import sympy as sp
import torch

from pso_lib.checks import Wrong, check

R = 0.5**0.5
RIGHT = {
    "leaky-fold": [
        ("-11/9", "20/9"),
        (-11 / 9, 20 / 9),
        (sp.Rational(-11, 9), sp.Rational(20, 9)),
        [-1.2222222, 2.2222222],
    ],
    "maxmin-fold": [
        [[-R, R], [R, R]],
        [[-R, -R], [R, -R]],
        torch.tensor([[-R, R], [R, R]]),
        sp.Matrix([[-1, 1], [1, 1]]) / sp.sqrt(2),
    ],
    "fourth-crease": [30, 50, 150, 210.0, -30, "30"],
    "count-pencils": [(0, 25), [0, 25]],
    "numbers-in-space": [[3, 5, 7, 9], {9, 7, 5, 3}, range(3, 11, 2)],
    "five-planes": [
        [[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, -1, 0], [0, 0, 1]],
        [[0, 0, 1], [1, 0, 1], [0, 2, 0], [1, 0, -1], [1, 0, 0]],
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, -1, 0], [2, 1, 0], [1, -2, 0], [0, 0, 1]],
    ],
}
WRONG = [
    ("leaky-fold", ("11/9", "-20/9"), "beta < 0"),
    ("leaky-fold", ("20/9", "-11/9"), r"\(beta, alpha\)"),
    ("leaky-fold", (-1, 2), "ReLU"),
    ("leaky-fold", (1, -2), "ReLU.* beta < 0"),
    ("leaky-fold", ("-11/9", "-20/9"), "sign of beta"),
    ("leaky-fold", ("11/9", "20/9"), "sign of alpha"),
    ("leaky-fold", (1, 0), "not used"),
    ("leaky-fold", ("-1/9", "10/9"), "must be -1, not 0"),
    ("leaky-fold", (1, 1), "off by"),
    ("leaky-fold", 3, "the pair"),
    ("maxmin-fold", [[R, R], [-R, R]], "min, max"),
    ("maxmin-fold", [[R, -R], [R, R]], "exchanged"),
    ("maxmin-fold", [[R, R], [R, -R]], "exchanged, and the normal has the other sign"),
    ("maxmin-fold", [[-1, 1], [1, 1]], "length 1"),
    ("maxmin-fold", [[1, 1], [0, 1]], "not orthogonal"),
    ("maxmin-fold", [[1, 0], [0, 1]], "normal of the line"),
    ("maxmin-fold", [[1, 0]], "shape"),
    ("fourth-crease", [30, 50, 150], "give one angle"),
    ("fourth-crease", 0.5236, "radians"),
    ("fourth-crease", 60, "180°, as for rays"),
    ("fourth-crease", 220, "already is a crease"),
    ("fourth-crease", 10, "instead of 90"),
    ("count-pencils", (55, 25), "on paper"),
    ("count-pencils", (3, 25), "never fold"),
    ("count-pencils", (0, 165), "all choices"),
    ("count-pencils", (0, 150), "ordered"),
    ("count-pencils", (0, 24), "each once"),
    ("count-pencils", (0, 3), "1e-9"),
    ("count-pencils", 25, "two numbers"),
    ("five-planes", [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "five are wanted"),
    ("five-planes", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [1, 1, 0]], "parallel"),
    ("five-planes", [[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, -1, 0], [1, 2, 0]], "one plane"),
    (
        "five-planes",
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1]],
        "odd in number|not perpendicular|Kawasaki",
    ),
    ("five-planes", [[1, 0], [0, 1], [1, 1], [1, 2], [1, 3]], "three numbers"),
    ("numbers-in-space", [3, 5, 6, 7, 9], "six never fold"),
    ("numbers-in-space", [3, 4, 5], "count the creases"),
    ("numbers-in-space", [5, 7, 9], "corner"),
    ("numbers-in-space", [3], "wall across"),
    ("numbers-in-space", [3, 5], "six creases"),
    ("numbers-in-space", [3, 5, 7], "eight"),
    ("numbers-in-space", [3, 5, 7, 9, 11], "outside"),
    ("numbers-in-space", 5, "list of numbers"),
]


@pytest.mark.parametrize("name, answer", [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_right_answers_pass(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}: ")


@pytest.mark.parametrize("name, answer, part", WRONG)
def test_wrong_answers_are_explained(name, answer, part):
    with pytest.raises(Wrong, match=part):
        check(name, answer)
