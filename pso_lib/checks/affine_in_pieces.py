"""Checks on regions and kinks: one piece, bounded regions, an empty pattern, distances, depth."""

from fractions import Fraction
from itertools import combinations

import torch
from torch import Tensor

from pso_lib.checks._compare import (
    as_number,
    require_close,
    require_finite,
    require_function,
    require_parts,
    require_shape,
)
from pso_lib.checks._core import exercise, wrong
from pso_lib.exact.arrangement import arrangement
from pso_lib.exact.hinges import HingedLayer, from_torch, hinged_layer
from pso_lib.exact.regions import regions
from pso_lib.nn.init import seeded

__all__: list[str] = []

# The plane network that is drawn in the chapter "Networks that are affine in pieces".
PLANE_NETWORK = (
    hinged_layer([[-2, 1], [1, 1], [0, -1]], [0, 0, 1], B=[[1, -1], [1, 0], [0, 1]]),
    hinged_layer([[-1, -1], [-1, 2], [1, 2]], [2, 1, 0], B=[[0, 1], [0, 1], [-1, -1]]),
)


@exercise("affine-in-pieces/piece", points=2)
def piece_of(answer) -> str:
    """``piece(layers, x)`` returns J (m, n) and c (m,) of the affine piece at x; the layers are triples (A, b, B)."""
    generator = seeded(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def network(*widths: int) -> list:
        ends = zip(widths, widths[1:], strict=False)
        return [(randn(9, n) / n**0.5, randn(9), randn(9, m) / 3) for n, m in ends]

    cases = [(network(*widths), randn(widths[0])) for widths in ((2, 2), (3, 2), (2, 4, 3), (4, 4, 4, 2)) * 2]

    def mistake(**what):
        return lambda layers, x: _piece(layers, x, **what)

    mistakes = {
        "J is the transpose: row i of a Jacobian holds the derivatives of output i.": (
            lambda layers, x: (_piece(layers, x)[0].T, _piece(layers, x)[1])
        ),
        "every unit counts as on: leave out the units whose pre-activation is negative (the matrix D).": mistake(
            all_on=True
        ),
        "c is F(x); J x + c must be.": lambda layers, x: (_piece(layers, x)[0], _value(layers, x)),
        "c is zero; the biases shift the piece.": lambda layers, x: (_piece(layers, x)[0], _value(layers, x) * 0),
        "c has the other sign: c = F(x) - J x.": lambda layers, x: (_piece(layers, x)[0], -_piece(layers, x)[1]),
        "c is the last layer's shift alone; those of the layers before must go through it.": mistake(carry=False),
        "this is the first layer alone; multiply by the later Jacobians from the left.": (
            lambda layers, x: _piece(layers[:1], x)
        ),
    }

    def form(pair, layers, x):
        m, n = layers[-1][2].shape[1], len(x)
        return require_parts(pair, {"J": (m, n), "c": (m,)}).reshape(-1)

    require_function(answer, _piece, cases, mistakes, form=form, what="piece")
    return "J and c are right for eight networks of one to three layers"


def _piece(layers, x: Tensor, all_on: bool = False, carry: bool = True) -> tuple[Tensor, Tensor]:
    J, c, state = torch.eye(len(x), dtype=x.dtype), torch.zeros_like(x), x
    for A, b, B in layers:
        on = (A @ state + b > 0) | all_on
        D = B.T @ torch.diag(on.to(x.dtype))
        J, c = D @ A @ J, (D @ A @ c if carry else 0) + D @ b
        state = D @ (A @ state + b)
    return J, c


def _value(layers, x: Tensor) -> Tensor:
    for A, b, B in layers:
        x = B.T @ torch.relu(A @ x + b)
    return x


LINES = [
    [(1, 0, 0), (1, 0, -1), (1, 1, -8), (1, -1, 2), (1, 2, -13), (2, 1, 7)],  # two parallel, a triple point
    [(2 * t, -1, -t * t) for t in range(5)],  # general position
    [(1, 0, -t) for t in range(3)] + [(0, 1, -t) for t in range(4)],  # a grid
    [(1, t, 0) for t in range(4)],  # one point
    [(1, 2, -t) for t in range(3)],  # parallel
    [(1, 1, 0), (1, -1, 0), (1, 0, 0), (0, 1, 0), (1, 0, -1), (0, 1, -1), (1, 1, -1)],
    [(3, 1, 4)],
]


@exercise("affine-in-pieces/bounded", points=2)
def bounded(answer) -> str:
    """``count_bounded(lines)``: how many regions of the plane under lines a1 x1 + a2 x2 + b = 0 have a finite area."""

    def crossings(lines) -> list[int]:
        points: dict = {}
        for (i, (p, q, b)), (j, (r, s, c)) in combinations(enumerate(lines), 2):
            if det := p * s - q * r:
                points.setdefault((Fraction(q * c - s * b, det), Fraction(r * b - p * c, det)), set()).update((i, j))
        return [len(through) for through in points.values()]

    def count(lines) -> int:
        through = crossings(lines)
        return 1 - len(lines) + sum(k - 1 for k in through) if through else 0

    mistakes = {
        "that is right in general position only: parallel lines and common points cost regions.": (
            lambda lines: (len(lines) - 1) * (len(lines) - 2) // 2
        ),
        "you counted all regions; those that reach to infinity do not count.": (
            lambda lines: 1 + len(lines) + sum(k - 1 for k in crossings(lines))
        ),
        "you counted each crossing point once; one with k lines counts k - 1.": (
            lambda lines: 1 - len(lines) + len(crossings(lines)) if crossings(lines) else 0
        ),
        "you counted each pair of lines that cross; a point with k lines counts k - 1, not k(k - 1)/2.": (
            lambda lines: 1 - len(lines) + sum(k * (k - 1) // 2 for k in crossings(lines)) if crossings(lines) else 0
        ),
        "lines that never cross bound nothing, and there your count is negative or wrong.": (
            lambda lines: 1 - len(lines) + sum(k - 1 for k in crossings(lines))
        ),
    }
    require_function(answer, count, [(lines,) for lines in LINES], mistakes, what="count_bounded")
    return f"right for {len(LINES)} sets of lines, parallel ones and common points among them"


@exercise("affine-in-pieces/empty-pattern", points=2)
def empty_pattern(pattern, weights) -> str:
    """The pattern of the first layer's units that no point has, and weights that prove it."""
    bits = require_shape(pattern, (3,), "the pattern")
    if not set(bits.tolist()) <= {0, 1}:
        wrong("a pattern is three numbers, 0 for off and 1 for on.")
    layer = PLANE_NETWORK[0]
    for cell in arrangement([list(layer.G.row(k)) for k in range(3)], list(layer.e)):
        if [float(sign > 0) for sign in cell.signs] == bits.tolist():
            point = ", ".join(map(str, cell.point))
            wrong(f"this pattern does occur, for example at x = ({point}).")
    weights = require_finite(require_shape(weights, (3,), "the weights"), "the list of weights")
    if weights.min() < 0:
        wrong("no weight may be negative: it would turn its inequality round.")
    if weights.max() == 0:
        wrong("with all weights zero the sum says 0 ≥ 0, which is no contradiction.")
    weights = weights / weights.max()
    signs = 2 * bits - 1  # the pattern says that each sign times its z is not negative
    slope = (weights * signs) @ torch.tensor(layer.G.tolist(), dtype=torch.float64)
    if slope.abs().max() > 1e-6:
        shown = ", ".join(f"{value:.3g}" for value in slope.tolist())
        wrong(f"the weighted sum still depends on x: its gradient is a multiple of ({shown}), and it must be zero.")
    return "no point has it: the weighted sum of its three inequalities says that a negative number is not negative"


@exercise("affine-in-pieces/second-kink", points=3)
def second_kink(answer) -> str:
    """At (3/2, -5/4) of the plane network: the distance to the nearest kink of any unit but the nearest one."""
    mistakes = {
        "0.5 is the second smallest |z| / |grad z|. That formula follows the crease straight on, but beyond the first "
        "crease it bends. Measure to the creases as they are drawn.": 0.5,
        "this is the distance to the nearest kink; the question is about the next unit.": 2**0.5 / 8,
        "this is the square of the distance; take the root.": 5 / 16,
        "this is the distance to (1, -1) along the axes, |dx| + |dy|; take the straight one.": 0.75,
    }
    require_close(as_number(answer), 5**0.5 / 4, mistakes, tol=1e-3, what="second_distance")  # three digits are enough
    return "the nearest point is the corner (1, -1)."


@exercise("affine-in-pieces/one-unit-a-layer", points=3)
def one_unit_a_layer(answer) -> str:
    """Four layers of the plane, one kink each, oblique to each other, with 16 regions; four lines make at most 11."""
    layers = [layer if isinstance(layer, HingedLayer) else from_torch(layer) for layer in answer]
    if len(layers) != 4:
        wrong(f"give a list of four layers; this one holds {len(layers)}.")
    for number, layer in enumerate(layers, 1):
        if len(layer.units) != 1:
            wrong(f"layer {number} has {len(layer.units)} kinks; each has one unit with one kink.")
    normals = torch.tensor([[float(v) for v in layer.G] for layer in layers], dtype=torch.float64)
    normals = torch.nn.functional.normalize(normals, dim=1)
    for i, j in combinations(range(4), 2):
        if min(abs(cosine := float(normals[i] @ normals[j])), (1 - min(cosine**2, 1.0)) ** 0.5) < 0.087:  # sin 5°
            wrong(f"the normals of layers {i + 1} and {j + 1} are parallel or perpendicular to within 5°; turn one.")
    counts = [len(regions(layers[:k], ((-1000, 1000), (-1000, 1000)))) for k in range(1, 5)]
    if counts[0] < 2:
        wrong("the crease of the first layer does not meet the square of radius 1,000.")
    if counts[-1] < 16:
        grown = ", ".join(map(str, counts))
        wrong(f"{grown} regions after each layer: a crease that does not double them misses a piece's image; move it.")
    return "16 regions from four units, the most there is; one layer of four stops at 11."
