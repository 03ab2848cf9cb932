"""Checks on regions and kinks: Jacobians by hand, counting, empty patterns, distances, depth."""

from collections.abc import Iterable

import sympy as sp
import torch

from pso_lib.checks._compare import require_close
from pso_lib.checks._core import exercise, wrong
from pso_lib.exact.arrangement import arrangement
from pso_lib.exact.hinges import HingedLayer, affine_on, from_torch, hinged_layer
from pso_lib.exact.regions import regions

__all__: list[str] = []

# The plane network that is drawn in the chapter "Networks that are affine in pieces".
PLANE_NETWORK = (
    hinged_layer([[-2, 1], [1, 1], [0, -1]], [0, 0, 1], B=[[1, -1], [1, 0], [0, 1]]),
    hinged_layer([[-1, -1], [-1, 2], [1, 2]], [2, 1, 0], B=[[0, 1], [0, 1], [-1, -1]]),
)


def _floats(matrix) -> list[list[float]]:
    return [[float(v) for v in row] for row in sp.Matrix(matrix).tolist()]


@exercise("affine-in-pieces/jacobian-by-hand")
def jacobian_by_hand(answer) -> str:
    """The Jacobian of the plane network at (-1, -3/2): two rows of two numbers."""
    answer = answer.tolist() if isinstance(answer, torch.Tensor) else answer
    x = (-1, sp.Rational(-3, 2))
    first, second = PLANE_NETWORK
    patterns = first.pattern_at(x), second.pattern_at(first(x))
    J1, J2 = first.piece(patterns[0])[0], second.piece(patterns[1])[0]
    J = J2 * J1
    drawn = (sp.Rational(3, 4), sp.Rational(1, 4))  # the point whose Jacobian the chapter prints
    mistakes = {
        "this is the transpose: row i of a Jacobian holds the derivatives of output i.": J.T,
        "the layers stand in the wrong order: the first layer acts first, so its factor is on the right.": J1 * J2,
        "every unit counts as on: leave out the units whose pre-activation is negative (the matrix D).": affine_on(
            PLANE_NETWORK, [(1, 1, 1), (1, 1, 1)]
        )[0],
        "this is the Jacobian at (3/4, 1/4), which the chapter prints: that point lies in another region.": affine_on(
            PLANE_NETWORK, [first.pattern_at(drawn), second.pattern_at(first(drawn))]
        )[0],
        "this is the first layer alone; multiply by the second layer's Jacobian from the left.": J1,
        "this is the second layer alone; the chain rule needs the first layer's Jacobian too.": J2,
        "the second layer's pattern is that of the point x itself; "
        "take the pattern at what the first layer sends on.": second.piece(second.pattern_at(x))[0] * J1,
    }
    require_close(_floats(answer), _floats(J), {text: _floats(value) for text, value in mistakes.items()})
    return f"J = {J.tolist()} in the whole region."


@exercise("affine-in-pieces/count-lines")
def count_lines(answer) -> str:
    """The pieces of the plane under six lines, two of them parallel, three others through one point."""
    mistakes = {
        22: "22 is for six lines in general position; a parallel pair and a triple point each cost something.",
        21: "one of the two special positions is missing: the parallel pair loses a crossing, and the triple point "
        "loses one too.",
        19: "at the triple point the third line still passes two older lines there and gains one piece less, "
        "not two: count k - 1 for k lines through a point.",
        64: "64 is the number of patterns of six units; most patterns occur nowhere.",
        7: "7 = 1 + 6 forgets that crossings make pieces too.",
        14: "the count is 1 + lines + crossings (a point with k lines counts k - 1); you left out the lines "
        "or the crossings.",
    }
    if isinstance(answer, str):
        wrong(f"give a number, not text: {answer!r} stands in quotation marks.")
    if answer != 20:
        wrong(mistakes.get(answer, f"{answer} is not the number; count 1 + lines + crossings."))
    return "1 + 6 lines + 13 crossings, the triple point counted twice."


@exercise("affine-in-pieces/empty-pattern")
def empty_pattern(answer) -> str:
    """The pattern of the first layer's three units that no point of the plane has."""
    if not isinstance(answer, Iterable) or isinstance(answer, (str, dict)):
        wrong(f"give three numbers, 0 for off and 1 for on, such as (1, 0, 1); got {answer!r}.")
    bits = tuple(int(v) for v in answer)
    if len(bits) != 3 or not set(bits) <= {0, 1}:
        wrong(f"{bits} is no pattern of three units: give three numbers, 0 for off and 1 for on.")
    layer = PLANE_NETWORK[0]
    for cell in arrangement([list(layer.G.row(k)) for k in range(3)], list(layer.e)):
        if tuple(int(s > 0) for s in cell.signs) == bits:
            point = tuple(str(v) for v in cell.point)
            wrong(f"the pattern {bits} does occur, for example at x = ({', '.join(point)}).")
    return "no point has this pattern."


@exercise("affine-in-pieces/second-kink")
def second_kink(answer) -> str:
    """At (3/2, -5/4) of the plane network: the distance to the nearest kink of any unit but the nearest one."""
    mistakes = {
        "0.5 is the second smallest |z| / |grad z|. That formula follows the crease straight on, but beyond the first "
        "crease it bends. Measure to the creases as they are drawn.": 0.5,
        "this is the distance to the nearest kink; the question is about the next unit.": 2**0.5 / 8,
        "this is the square of the distance; take the root.": 5 / 16,
    }
    right = 5**0.5 / 4
    require_close(float(answer), right, mistakes, tol=1e-3 * right / (1 + right))  # three digits are enough
    return "the nearest point is the corner (1, -1)."


@exercise("affine-in-pieces/beat-one-layer")
def beat_one_layer(answer) -> str:
    """Two plane layers, at most two kinks each, with more regions than four lines can make: 12 or more."""
    layers = [layer if isinstance(layer, HingedLayer) else from_torch(layer) for layer in answer]
    if len(layers) != 2:
        wrong(f"give a list of two layers; this one holds {len(layers)}.")
    for index, layer in enumerate(layers, 1):
        if len(layer.units) > 2:
            wrong(f"layer {index} has {len(layer.units)} kinks; two a layer are allowed, as for two ReLU units.")
    count = len(regions(layers, ((-1000, 1000), (-1000, 1000))))
    first = len(regions(layers[:1], ((-1000, 1000), (-1000, 1000))))
    if first < 4:
        wrong(f"the first layer makes {first} regions only; let its two creases cross.")
    if count == first:
        wrong(
            f"{count} regions, no more than the first layer alone: the second layer creases where the first did, or "
            "where nothing arrives; move its creases."
        )
    if count <= 11:
        wrong(
            f"{count} regions; four lines make up to 11. The second layer's two creases must come back in every piece "
            "of the first: let the first layer lay its four quarters on top of each other."
        )
    return f"{count} regions from four units; one layer of four stops at 11."
