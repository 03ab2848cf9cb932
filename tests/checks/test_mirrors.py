"""The checks of the chapter on mirrors: the solutions pass, each likely mistake is named."""

import numpy as np
import sympy as sp
import torch
from exercise_cases import named, passes

from pso_lib.checks import check
from pso_lib.checks.mirrors import _jump
from pso_lib.exact.hinges import hinged_layer
from pso_lib.exact.regions import regions
from pso_lib.nn.layers import Fold, Residual

# ---------------------------------------------------------------- a mirror between two points


def mirror(p, q, size=2):
    a = (q - p) / (q - p).norm()
    Q = torch.eye(len(p), dtype=p.dtype) - size * torch.outer(a, a)
    middle = (p + q) / 2
    return Q, middle - Q @ middle


def unscaled(p, q):
    Q = torch.eye(len(p), dtype=p.dtype) - 2 * torch.outer(q - p, q - p)
    return Q, (p + q) / 2 - Q @ (p + q) / 2


def flips(p, q):
    Q = -mirror(p, q)[0]
    return Q, (p + q) / 2 - Q @ (p + q) / 2


# ---------------------------------------------------------------- unfolding


def unfold(folds, x, *, carried=1.0, transpose=True, always=False):
    """By the derivative of each crease's height, in exact steps: none of the check's formula."""
    W, offsets, state, Q = [], [], x, torch.eye(len(x), dtype=x.dtype)
    for a, b in folds:
        w = Q.T @ a if transpose else Q @ a
        W.append(w)
        offsets.append(a @ state + b - w @ x if carried == 1 else a @ (carried * (state - Q @ x)) + b)
        if always or a @ state + b > 0:
            state, Q = state - 2 * (a @ state + b) * a, Q - 2 * torch.outer(a, a @ Q)
    return torch.stack(W), torch.stack(offsets)


def untouched(folds, x):
    return torch.stack([a for a, _ in folds]), torch.stack([b for _, b in folds])


# ---------------------------------------------------------------- finding a crease


def crease(Q1, c1, Q2, c2):
    rows, offsets = Q1.T @ (Q2 - Q1), Q1.T @ (c2 - c1)
    longest = rows.norm(dim=1).argmax()
    return rows[longest], offsets[longest]


def by_svd(Q1, c1, Q2, c2):
    U, size, Vh = np.linalg.svd((Q2 - Q1).numpy())
    return Vh[0], float(U[:, 0] @ (c2 - c1).numpy() / size[0])


def by_columns(Q1, c1, Q2, c2):
    jump = (Q2 - Q1).T
    longest = jump.norm(dim=1).argmax()
    return jump[longest], (c2 - c1)[longest]


def with_offset(change):
    def find(*maps):
        a, b = crease(*maps)
        return a, change(a, b)

    return find


# ---------------------------------------------------------------- torn


def torn(x):
    return x + (x[:, :1] > 0) * torch.tensor([0.0, 1.0])


def ramp(steepness, where=0.0):
    def steep(x):
        return x + torch.sigmoid(steepness * (x[:, :1] - where)) * torch.tensor([1.0, 0.0])

    return steep


def thin(x):
    """Continuous, and steep in a strip of width 1e-12."""
    return x + ((x[:, :1] - 0.03) * 1e12).clamp(0, 1) * torch.tensor([0.0, 1.0])


NEAR = [-0.05, 0.0], [0.05, 0.0]

# ---------------------------------------------------------------- the box


def folds(count, offset=lambda l: 1 - 0.5**l, scale=1.0):
    layers = [Fold(2) for _ in range(count)]
    for l, layer in enumerate(layers):
        layer.set_weights(A=scale * torch.eye(2), b=offset(l))
    return layers


def broken():
    layers = folds(4)
    layers[3].b.data.fill_(torch.nan)
    return layers


SOLUTIONS = {
    "mirrors/exchange": [mirror, lambda p, q: [part.tolist() for part in mirror(p, q)]],
    "mirrors/unfold": [unfold, lambda *given: tuple(-3 * part.numpy() for part in unfold(*given))],
    "mirrors/find": [
        crease,
        by_svd,
        lambda *maps: tuple(-7 * part for part in crease(*maps)),
        lambda *maps: tuple(1e-12 * part for part in crease(*maps)),
    ],
    "mirrors/torn": [
        (torn, *NEAR),
        (torn, torch.tensor([[-0.05, 1.0]]), np.array([0.05, 1.0])),
        (lambda x: torn(x).numpy(), *NEAR),
        (lambda x: x + torch.floor(5 * x[:, 1:]) * torch.tensor([1.0, 0.0]), [0.0, 0.19], [0.0, 0.21]),
    ],
    "mirrors/box": [folds(4), torch.nn.Sequential(*folds(4))],
}
MISTAKES = {
    "mirrors/exchange": [
        (lambda p, q: (mirror(p, q)[0], 0 * p), "c is zero"),
        (lambda p, q: (mirror(p, q)[0], -mirror(p, q)[1]), "other sign"),
        (lambda p, q: (mirror(p, q)[0], (p + q) / 2), "midpoint itself"),
        (lambda p, q: mirror(p, q, size=1), "projects"),
        (unscaled, "no unit vector"),
        (lambda p, q: (torch.eye(len(p)), q - p), "a shift"),
        (lambda p, q: (-torch.eye(len(p)), p + q), "point reflection"),
        (flips, "keeps it and flips"),
        (lambda p, q: mirror(p, q)[0], "return 2 things"),
    ],
    "mirrors/unfold": [
        (untouched, "in the folded sheet"),
        (lambda *given: (unfold(*given)[0], untouched(*given)[1]), "c moves the crease"),
        (lambda *given: unfold(*given, transpose=False, carried=1.00001), "not Qa"),
        (lambda *given: unfold(*given, always=True), "in every layer"),
        (lambda *given: unfold(*given, carried=-1), "other sign"),
        (lambda *given: unfold(*given)[0].T, "return 2 things"),
    ],
    "mirrors/find": [
        (lambda Q1, c1, Q2, c2: ((Q2 - Q1)[0], (c2 - c1)[0]), "along an axis"),
        (by_columns, "v, the jump"),
        (with_offset(lambda a, b: -b), "wrong sign"),
        (with_offset(lambda a, b: 0.0), "b is zero"),
        (with_offset(lambda a, b: b / a.norm()), "scale it like"),
        (lambda *maps: crease(*maps)[0], "return 2 things"),
        (lambda Q1, c1, Q2, c2: (Q1[0], 0.0), "differs"),
        (lambda Q1, c1, Q2, c2: (torch.ones(1), 0.0), "a has shape"),
        (with_offset(lambda a, b: b * torch.nan), "no finite number"),
        (torch.eye(2), "the function itself"),
    ],
    "mirrors/torn": [
        ((ramp(1e3), *NEAR), "of the segment"),
        ((ramp(1e9), *NEAR), "continuous"),
        ((ramp(1e15, 0.02), *NEAR), "continuous"),
        ((thin, *NEAR), "continuous"),
        ((lambda x: x * torch.tensor([-1.0, 1.0]), *NEAR), "not the identity"),
        ((lambda x: torch.stack([x[:, 0].abs(), x[:, 1]], dim=1), *NEAR), "not the identity"),
        ((lambda x: 10 * x, *NEAR), "stretches"),
        ((lambda x: x + 1.0, *NEAR), "keep their distance"),
        ((torn, [0.01, 0.0], [0.05, 0.0]), "keep their distance"),
        ((torn, [-1.0, 0.0], [1.0, 0.0]), "start at most 0.1"),
        ((lambda x: x + (x[:, :1] > 0) * 0.5, *NEAR), "end at least 1"),
        ((lambda x: x[:, 0], *NEAR), "shape"),
        ((lambda x: x.add_(1), *NEAR), "in place"),
        ((lambda x: x * torch.nan, *NEAR), "no finite number"),
    ],
    "mirrors/box": [
        (folds(3), "side 0.25"),
        (folds(4, offset=lambda l: 0.0), "side 1, not"),
        # The last crease is off the middle, and lies between the points of a grid of step 1/64.
        (folds(4, offset=lambda l: 0.8671875 if l == 3 else 1 - 0.5**l), "side 0.133"),
        (folds(4, scale=0.5), "not orthonormal"),
        (folds(5), "four are enough"),
        (folds(13), "too many"),
        ([Residual(2)], "no Fold"),
        ([torch.nn.Identity()], "no Fold"),
        (broken(), "no finite number"),
        ([], "empty"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


def test_a_jump_survives_every_halving_and_a_slope_does_not():
    x, y = torch.tensor([[-0.05, 0.0], [0.05, 0.0]], dtype=torch.float64)
    assert abs(_jump(torn, x, y) - 1) < 1e-12
    assert _jump(ramp(1e6), x, y) < 1e-6


def test_unfolded_creases_are_where_the_pieces_meet():
    """The mirror of the check's truth against exact polygons: heights vanish on the facets near a point."""
    creases = [(["3/5", "4/5"], "-1/2"), (["12/13", "-5/13"], "-1/5")]
    pieces = regions([hinged_layer([a], [b], alpha=1, beta=-2) for a, b in creases])
    corner = next(piece for piece in pieces if piece.patterns[0] == (1,))
    floats = [
        (torch.tensor([float(sp.Rational(v)) for v in a]).double(), torch.tensor(float(sp.Rational(b))))
        for a, b in creases
    ]
    W, b = unfold(floats, torch.tensor([float(v) for v in corner.centre], dtype=torch.float64))
    ends = torch.tensor([[float(v) for v in vertex] for vertex in corner.vertices], dtype=torch.float64)
    assert (((ends @ W.T + b).abs() < 1e-6).sum(0) == 2).all()


def test_no_stack_of_three_layers_can_fit_the_box():
    """The counting behind the last exercise: with h = 2 a layer is at most four to one, so areas fall by 4 at most."""
    piece_areas = [sum(r.area for r in regions([hinged_layer(sp.eye(2), ["1/3", "-1/4"], alpha=1, beta=-2)]))]
    assert piece_areas == [4]  # every piece keeps its area, and there are four pieces
    assert sp.Rational(4, 4**3) > sp.Rational(1, 8) ** 2 >= sp.Rational(4, 4**4)
    assert check("mirrors/box", ...).passed is None
