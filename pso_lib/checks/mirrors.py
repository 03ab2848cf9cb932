"""The exercises on mirrors: reflections, creases, two colours, torn maps, folding into a box."""

from fractions import Fraction

import sympy as sp
import torch
from torch import Tensor

from pso_lib.checks._compare import require_close
from pso_lib.checks._core import exercise, wrong
from pso_lib.exact.regions import facets, regions
from pso_lib.nn.init import seeded


def _numbers(value) -> Tensor:
    """A matrix or vector of numbers, given as lists, a tensor or sympy's, as float64; "3/5" is a number too."""
    if isinstance(value, sp.MatrixBase):
        value = value.tolist()
    if isinstance(value, list | tuple):
        value = [[_float(v) for v in row] if isinstance(row, list | tuple) else _float(row) for row in value]
    return torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()


def _float(value) -> float:
    return float(Fraction(value)) if isinstance(value, str) else float(value)


@exercise("mirrors/line")
def _line(answer) -> str:
    mirror = torch.tensor([[3.0, 4.0], [4.0, -3.0]]) / 5
    eye, along, normal = torch.eye(2), torch.tensor([2.0, 1.0]), torch.tensor([1.0, -2.0])
    mistakes = {
        "this flips the line itself: (2, 1) is the direction that stays, not the normal.": -mirror,
        "this projects onto the line; a reflection goes twice as far, with the factor 2.": (mirror + eye) / 2,
        "divide by |a|²: the normal (1, -2) is no unit vector.": eye - 2 * torch.outer(normal, normal),
        "this is |a|² times the reflection: divide all of it by |a|², for the normal (1, -2) by 5.": 5 * mirror,
        "(2, 1) is the line's direction, not its normal, and it is no unit vector either.": eye
        - 2 * torch.outer(along, along),
        "this is a rotation: its determinant is +1, and no line of points stays.": torch.tensor(
            [[3.0, -4.0], [4.0, 3.0]]
        )
        / 5,
    }
    require_close(_numbers(answer), mirror, mistakes, what="your matrix")
    return "(2, 1) stays, (1, -2) is flipped"


@exercise("mirrors/find")
def _find(answer) -> str:
    if not callable(answer):
        wrong("give the function itself, find_crease, not what it returns.")
    generator = seeded(0)
    for n in (2, 3, 5, 8):
        a = torch.nn.functional.normalize(_randn(n, generator=generator), dim=0)
        b, c1 = _randn(1, generator=generator)[0], _randn(n, generator=generator)
        Q1 = torch.linalg.qr(_randn(n, n, generator=generator)).Q
        v = -2 * Q1 @ a
        found = answer(Q1, c1, Q1 + torch.outer(v, a), c1 + b * v)
        if not isinstance(found, tuple | list) or len(found) != 2:
            wrong(f"return two things, a normal and a number: `return a, b`; you return {type(found).__name__}.")
        _compare_crease(_numbers(found[0]).reshape(-1), float(found[1]), a, float(b), Q1 @ a)
    return "the crease was found in dimensions 2, 3, 5 and 8"


def _compare_crease(normal: Tensor, offset: float, a: Tensor, b: float, jump: Tensor) -> None:
    n, size = len(a), float(normal.norm())
    if len(normal) != n:
        wrong(f"the normal has {len(normal)} entries in dimension {n}; it needs {n}.")
    if not size > 1e-9:
        wrong("the normal is zero. Q2 - Q1 = v aᵀ is not: read a from its rows.")
    flip = 1.0 if float(normal @ a) >= 0 else -1.0
    normal, offset = flip * normal / size, flip * offset / size
    if (normal - a).norm() > 1e-8:
        if min((normal - jump).norm(), (normal + jump).norm()) < 1e-8:
            wrong("you returned v, the jump, which lives in the image; a is in the rows of Q2 - Q1 = v aᵀ.")
        wrong("the normal is not perpendicular to the crease: (Q2 - Q1) w = 0 must hold for every w ⟂ a.")
    if abs(offset - b) > 1e-8 * (1 + abs(b)):
        if abs(offset + b) < 1e-8 * (1 + abs(b)):
            wrong("b has the wrong sign: on the crease a·x = -b.")
        if abs(offset) < 1e-12:
            wrong("b is zero, so the crease goes through the origin: c2 - c1 = b v says where it really is.")
        wrong("a is right, b is not: scale it like a, for c2 - c1 = b v with the v of your a.")


@exercise("mirrors/colours")
def _colours(pattern, colours) -> str:
    colours = [int(c) for c in colours]
    if len(colours) != len(pattern):
        wrong(f"there are {len(pattern)} pieces, and you give {len(colours)} colours; give one for each, in order.")
    if len(pattern) < 4:
        wrong(f"a pattern of {len(pattern)} pieces shows little; take the one with four folds.")
    if set(colours) - {1, -1}:
        wrong(f"the colours are +1 and -1, not {sorted(set(colours) - {1, -1})}.")
    if len(set(colours)) == 1:
        wrong("all pieces have the same colour; neighbours are mirror images, so det J tells them apart.")
    creases = facets(pattern)
    same = [(c.first, c.second) for c in creases if colours[c.first] == colours[c.second]]
    if same:
        wrong(
            f"{len(same)} of {len(creases)} edges lie between pieces of one colour, pieces {same[0][0]} and "
            f"{same[0][1]} for one. What does a reflection do to the determinant?"
        )
    return f"{len(creases)} edges, each between two colours"


@exercise("mirrors/torn")
def _torn(F, x, y) -> str:
    if not callable(F):
        wrong("the first part of the answer is the function, from (N, 2) to (N, 2).")
    x, y = (_numbers(p).reshape(1, 2) for p in (x, y))
    points = 4 * torch.rand(2000, 2, generator=seeded(0), dtype=torch.float64) - 2
    image = F(points)
    if image is ... or image is None or tuple(image.shape) != (2000, 2):
        wrong("the function must return a tensor (N, 2) for an input (N, 2).")
    step = 1e-6
    columns = [(F(points + step * e) - F(points - step * e)) / (2 * step) for e in torch.eye(2, dtype=torch.float64)]
    J = torch.stack(columns, dim=2)
    off_identity = (J - torch.eye(2)).abs().amax((1, 2)) > 1e-6
    off_orthogonal = (J.mT @ J - torch.eye(2)).abs().amax((1, 2)) > 1e-6
    if off_orthogonal.double().mean() > 0.02:
        wrong("the Jacobian is not even orthogonal on a good part of the plane: your map stretches.")
    if off_identity.double().mean() > 0.02:
        wrong("the Jacobian is orthogonal but not the identity: use shifts only, no rotation and no reflection.")
    before, after = float((x - y).norm()), float((F(x) - F(y)).norm())
    if before > 0.1 + 1e-6:
        wrong(f"your points are {before:.2g} apart; they must start at most 0.1 apart, on both sides of the tear.")
    if abs(after - before) < 1e-9:
        wrong("your two points keep their distance: nothing tears between them. Put one on each side of the tear.")
    if after < 1 - 1e-6:
        wrong(f"your points end {after:.2g} apart; they must end at least 1 apart. Shift further.")
    return f"J = I, and a distance of {before:.2g} became {after:.2g}: the map is not continuous"


@exercise("mirrors/box")
def _box(layers) -> str:
    layers = list(getattr(layers, "layers", layers))
    for number, layer in enumerate(layers, 1):
        A = layer.A.detach().to(torch.float64)
        if (layer.alpha, layer.beta, layer.outer, layer.dim) != (
            1.0,
            -2.0,
            "tied",
            2,
        ) or layer.activation.name != "relu":
            wrong(f"layer {number} is no Fold(2).")
        if (A @ A.T - torch.eye(len(A))).abs().max() > 1e-5:
            wrong(f"the rows of A in layer {number} are not orthonormal, so it stretches the sheet.")
    if not layers:
        wrong("the list is empty, and the sheet still has side 2.")
    if len(layers) > 12:  # the number of pieces can grow fourfold in each layer
        wrong(f"{len(layers)} layers are too many: each can halve both sides, so four are enough.")
    # The corners of all pieces, not a grid of points: a grid misses the crease, where the image ends.
    corners = [corner for piece in regions(layers, number="float") for corner in piece.image]
    sheet = torch.tensor(corners, dtype=torch.float64)
    width = float((sheet.amax(0) - sheet.amin(0)).max())
    if width > 1 / 8 + 1e-5:
        halving = " Each crease must halve what is left: where is the sheet's middle after the last fold?"
        wrong(f"after {len(layers)} layers the sheet still needs a square of side {width:.3g}, not 0.125.{halving}")
    if len(layers) > 4:
        wrong(f"it fits, with {len(layers)} layers; but each layer can halve both sides, so four are enough.")
    return "side 1/8 with 4 layers, the least there is"


def _randn(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
