"""Exercises on folding in one layer: scalar folds, perpendicular creases, Kawasaki's condition."""

from fractions import Fraction

import sympy as sp
import torch

from pso_lib.checks._compare import require_close, require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.exact.folds import fold
from pso_lib.exact.origami import NotFlatFoldable, kawasaki, kawasaki_completion, require_foldable
from pso_lib.exact.symbolic import exact_matrix

_THREE = (0, 40, 100)  # normals, in degrees


def _number(value) -> sp.Expr:
    """An answer as an exact number: numbers, strings such as "1/3", floats near a short fraction."""
    if isinstance(value, float):
        value = str(Fraction(value).limit_denominator(1000))
    return sp.sympify(value)


@exercise("origami/leaky-fold")
def leaky_fold(answer) -> str:
    """alpha and beta > 0 that fold the line with LeakyReLU of slope 1/10."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        wrong(f"give the pair (alpha, beta), not {answer!r}.")
    alpha, beta = (float(_number(value)) for value in answer)
    require_close(
        [alpha, beta],
        [-11 / 9, 20 / 9],
        {
            "This folds too, but with beta < 0; turn both signs around.": [11 / 9, -20 / 9],
            "You gave (beta, alpha).": [20 / 9, -11 / 9],
            "These fold with ReLU, whose left slope is 0; here it is 1/10.": [-1, 2],
            "These fold with ReLU, whose left slope is 0, and beta < 0; here the left slope is 1/10.": [1, -2],
            "The sign of beta is the other one: alpha + beta must be 1.": [-11 / 9, -20 / 9],
            "The sign of alpha is the other one: alpha = -(s1 + s2) / (s1 - s2).": [11 / 9, 20 / 9],
            "With beta = 0 the activation is not used.": [1, 0],
            "alpha + beta is 1, but the left slope alpha + beta/10 must be -1, not 0.": [-1 / 9, 10 / 9],
        },
        tol=1e-5,
        what="(alpha, beta)",
    )
    return "slopes 1 and -1"


@exercise("origami/maxmin-fold")
def maxmin_fold(answer) -> str:
    """Orthogonal U with MaxMin(x) = U psi(U^T x), psi(z) = (-|z_1|, z_2)."""
    if isinstance(answer, sp.MatrixBase):
        answer = answer.tolist()
    if not torch.is_tensor(answer):
        answer = [[float(entry) for entry in row] for row in answer]
    U = require_shape(answer, (2, 2), "U")
    if (U.T @ U - torch.eye(2, dtype=U.dtype)).abs().max() > 1e-6:
        unit = U / U.norm(dim=0)
        if (unit.T @ unit - torch.eye(2, dtype=U.dtype)).abs().max() < 1e-6:
            wrong("the columns of U are perpendicular but not of length 1; divide by their lengths.")
        wrong("U is not orthogonal: U^T U differs from the identity.")
    x = torch.tensor([[2.0, 1.0], [1.0, 2.0], [-3.0, -1.0], [-1.0, 4.0]], dtype=U.dtype)
    maxmin = x.sort(dim=1, descending=True).values

    def folded(V: torch.Tensor) -> torch.Tensor:
        z = x @ V
        return torch.stack([-z[:, 0].abs(), z[:, 1]], 1) @ V.T

    if (folded(U) - maxmin).abs().max() < 1e-6:
        return "one fold, along (1, -1)/√2"
    if (folded(U) - maxmin.flip(1)).abs().max() < 1e-6:
        wrong("this is (min, max): points with x1 > x2 move. Turn the sign of the first column.")
    if (folded(U.flip(1)) - maxmin).abs().max() < 1e-6:
        wrong("the columns are exchanged: psi folds the first coordinate, so the normal comes first.")
    if (folded(U.flip(1)) - maxmin.flip(1)).abs().max() < 1e-6:
        wrong("the columns are exchanged, and the normal has the other sign: with the columns turned it is (min, max).")
    wrong("the first column must be the normal of the line that stays fixed, x1 = x2.")


@exercise("origami/fourth-crease")
def fourth_crease(answer) -> str:
    """A fourth normal, in degrees, for creases with normals at 0, 40 and 100 degrees."""
    if isinstance(answer, list | tuple | set):
        wrong(f"give one angle in degrees, a single number, not {answer!r}.")
    angle = _number(answer)
    if not angle.is_real:
        wrong(f"give one angle in degrees, not {answer!r}.")
    given = [sp.rad(value) for value in _THREE]
    right = [sp.deg(value) for value in kawasaki_completion(given)]
    place = angle - 180 * sp.floor(angle / 180)
    if any(abs(place - value) < 1e-6 for value in right):
        return f"the alternating sum of 0°, 40°, 100° and {sp.N(place, 4):g}° is 90°"
    if 0 < angle < sp.pi and any(abs(sp.deg(angle) - value) < 1 for value in right):
        wrong("this looks like radians; give degrees.")
    if any(abs(place - value) < 1e-6 for value in _THREE):
        wrong(f"there already is a crease with its normal at {place}°; on one line two creases are one.")
    total = sp.N(sp.deg(kawasaki([*given, sp.rad(place)]).alternating_sum), 4)
    if abs(angle - 240) < 1e-6 or abs(angle - 60) < 1e-6:
        wrong(f"you set the sum to 180°, as for rays; for full lines it is 90°. Yours is {total:g}°.")
    wrong(f"with the normals sorted, the alternating sum is {total:g}° instead of 90°.")


@exercise("origami/count-pencils")
def count_pencils(answer) -> str:
    """How many pencils of three and of four creases fold, normals at multiples of 15 degrees, one at 0."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        wrong(f"give two numbers, (with three creases, with four), not {answer!r}.")
    three, four = (int(value) for value in answer)
    if three == 55:
        wrong("all 55 triples fold on paper; in one layer the two halves of a crease need the same direction v.")
    if three:
        wrong(f"three creases through a point never fold in one layer, but you count {three}.")
    if four == 165:
        wrong("165 is the number of all choices of three more creases; most of them do not fold.")
    if four == 150:
        wrong("you counted ordered choices; the same creases in another order are the same pencil.")
    if four < 10:
        wrong(f"{four} pencils of four is too few; compare the error with a small number such as 1e-9, not with 0.")
    if four != 25:
        wrong(f"{four} pencils of four is not right: try all 165 choices beside 0°, 15° to 165°, each once.")
    return "no three, and 25 of the 165 fours"


@exercise("origami/five-planes")
def five_planes(answer) -> str:
    """Five planes through the origin of R^3 with spanning normals that one layer folds."""
    normals = [exact_matrix("normals", list(normal)) for normal in answer]
    if any(normal.shape != (3, 1) or normal.is_zero_matrix for normal in normals):
        wrong("each normal is a list of three numbers, not all zero.")
    for i, a in enumerate(normals):
        for j in range(i):
            if sp.Matrix.hstack(a, normals[j]).rank() == 1:
                wrong(f"normals {j} and {i} are parallel: they name the same plane.")
    if len(normals) < 5:
        wrong(f"you gave {len(normals)} planes; five are wanted.")
    if sp.Matrix.hstack(*normals).rank() < 3:
        wrong("the normals lie in one plane, so all creases contain one line: that is a pencil; add a wall across it.")
    try:
        require_foldable(normals)
    except NotFlatFoldable as reason:
        wrong(f"no layer folds these: {reason}")
    if not fold(sp.eye(3), normals).is_orthogonal:
        wrong("every crossing looks right, but some region is not orthogonal: please report this answer.")
    extra = "" if len(normals) == 5 else f" (and you found {len(normals)})"
    return f"every crossing is perpendicular or meets Kawasaki's condition{extra}"


@exercise("origami/numbers-in-space")
def numbers_in_space(answer) -> str:
    """The numbers from 3 to 10 of planes through the origin of R^3 that fold, their normals spanning R^3."""
    if not isinstance(answer, list | tuple | set | range):
        wrong(f"give a list of numbers from 3 to 10, not {answer!r}.")
    given = {int(value) for value in answer}
    if given - set(range(3, 11)):
        wrong(f"{sorted(given - set(range(3, 11)))} is outside 3 to 10.")
    if 6 in given:
        wrong("six never fold: a line of the splitting takes one plane through the origin, a plane takes 4, 6, …")
    if any(value % 2 == 0 for value in given):
        wrong("R^3 is three lines, or a plane and a line; count the creases that each can carry.")
    for value, reason in (
        (3, "three walls of a corner are perpendicular."),
        (5, "a pencil of four and a wall across it fold."),
        (7, "a pencil may have six creases, or eight."),
        (9, "a pencil may have six creases, or eight."),
    ):
        if value not in given:
            wrong(f"{value} is missing: {reason}")
    return "three walls, or an even pencil and one wall"
