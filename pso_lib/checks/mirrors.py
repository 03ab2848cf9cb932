"""The exercises on mirrors: a mirror between two points, unfolding, finding creases, torn maps, folding into a box."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pso_lib.checks._compare import call, require_finite, require_function, require_parts, require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.exact.regions import regions
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import Layer


def _draws(seed: int):
    generator = seeded(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@exercise("mirrors/exchange", points=2)
def _exchange(answer) -> str:
    """``mirror_between(p, q)`` returns Q (n, n) and c (n,) of the reflection x -> Qx + c that exchanges p and q."""
    randn = _draws(0)
    cases = [(randn(n), 2 * randn(n)) for n in (2, 2, 3, 5)]

    def mirror(p: Tensor, q: Tensor, size: float = 2.0) -> tuple[Tensor, Tensor]:
        a = normalize(q - p, dim=0)
        return torch.eye(len(p), dtype=p.dtype) - size * torch.outer(a, a), size / 2 * (a @ (p + q)) * a

    def squared(p, q):
        return torch.eye(len(p), dtype=p.dtype) - 2 * torch.outer(q - p, q - p)

    mistakes = {
        "c is zero: the mirror would go through the origin. It goes through the midpoint of p and q.": (
            lambda p, q: (mirror(p, q)[0], 0 * p)
        ),
        "c has the other sign; the midpoint of p and q must stay where it is.": (
            lambda p, q: (mirror(p, q)[0], -mirror(p, q)[1])
        ),
        "c is the midpoint itself; choose c so that the midpoint stays where it is.": (
            lambda p, q: (mirror(p, q)[0], (p + q) / 2)
        ),
        "this projects onto the mirror; a reflection goes twice as far, with the factor 2.": (
            lambda p, q: mirror(p, q, size=1.0)
        ),
        "divide by |a|²: the normal q - p is no unit vector.": lambda p, q: (
            squared(p, q),
            (p + q) / 2 - squared(p, q) @ (p + q) / 2,
        ),
        "this is a shift; it takes p to q, but q not back to p.": (
            lambda p, q: (torch.eye(len(p), dtype=p.dtype), q - p)
        ),
        "this is the point reflection in the midpoint: it leaves one point fixed, not a whole mirror.": (
            lambda p, q: (-torch.eye(len(p), dtype=p.dtype), p + q)
        ),
        "q - p is the normal of the mirror, and your Q keeps it and flips the mirror's own directions.": (
            lambda p, q: (-mirror(p, q)[0], (p + q) / 2 + mirror(p, q)[0] @ (p + q) / 2)
        ),
    }
    require_function(
        answer,
        mirror,
        cases,
        mistakes,
        form=lambda pair, p, q: require_parts(pair, {"Q": (len(p), len(p)), "c": (len(p),)}),
        what="mirror_between",
    )
    return "p and q change places in dimensions 2, 3 and 5, and nothing is stretched"


@exercise("mirrors/unfold", points=2)
def _unfold(answer) -> str:
    """``unfold(folds, x)`` returns W (L, n) and b (L,): where the creases of L folds lie in the sheet, near x."""
    randn = _draws(1)
    cases = [
        ([(normalize(randn(n), dim=0), randn(()) / 2) for _ in range(L)], randn(n)) for n, L in [(2, 3), (3, 6)] * 2
    ]

    def unfold(folds, x, turn=lambda Q: Q.T, shift=1.0, always=False) -> tuple[Tensor, Tensor]:
        Q, c, rows, offsets = torch.eye(len(x), dtype=x.dtype), 0 * x, [], []
        for a, b in folds:
            rows.append(turn(Q) @ a)
            offsets.append(shift * a @ c + b)
            if always or a @ (Q @ x + c) + b > 0:
                Q, c = Q - 2 * torch.outer(a, Q.T @ a), c - 2 * (a @ c + b) * a
        return torch.stack(rows), torch.stack(offsets)

    mistakes = {
        "these are the creases in the folded sheet; each must be taken back through the folds before it.": (
            lambda folds, x: unfold(folds, x, turn=lambda Q: torch.eye(len(Q), dtype=Q.dtype), shift=0.0)
        ),
        "the normals are right, the offsets are not: where the folds so far are Qx + c, c moves the crease too.": (
            lambda folds, x: unfold(folds, x, shift=0.0)
        ),
        "the part c of the folds so far enters the offset with the other sign.": (
            lambda folds, x: unfold(folds, x, shift=-1.0)
        ),
        "the normal in the sheet is Qᵀa, not Qa: put Qx + c into a·x + b and collect what stands with x.": (
            lambda folds, x: unfold(folds, x, turn=lambda Q: Q)
        ),
        "you reflect in every layer; a fold moves x only where a·x + b > 0.": (
            lambda folds, x: unfold(folds, x, always=True)
        ),
    }

    def form(pair, folds, x):
        L, n = len(folds), len(x)
        found = require_parts(pair, {"W": (L, n), "b": (L,)})
        return _without_scale(found[: L * n].reshape(L, n), found[L * n :])

    require_function(answer, unfold, cases, mistakes, form=form, what="unfold")
    return "eighteen creases in the plane and in space were taken back to the sheet"


@exercise("mirrors/find", points=2)
def _find(answer) -> str:
    """``find_crease(Q1, c1, Q2, c2)`` returns a (n,) and b with a·x + b = 0 on the crease, in any scale."""
    randn = _draws(0)

    def pieces(a: Tensor, Q1: Tensor, b: Tensor) -> tuple:
        c1, v = randn(len(a)), -2 * Q1 @ a
        return Q1, c1, Q1 + torch.outer(v, a), c1 + b * v

    oblique = [(normalize(randn(n), dim=0), torch.linalg.qr(randn(n, n)).Q, randn(())) for n in (2, 3, 5, 8)]
    eye = torch.eye(3, dtype=torch.float64)
    along = [(axis, Q1, randn(())) for axis in eye for Q1 in (eye, eye.roll(1, 0))]
    cases = [pieces(*case) for case in oblique + along]

    def find(Q1, c1, Q2, c2):
        rows, offsets = Q1.T @ (Q2 - Q1), Q1.T @ (c2 - c1)
        longest = rows.norm(dim=1).argmax()
        return rows[longest], offsets[longest]

    def columns(Q1, c1, Q2, c2):
        jump = (Q2 - Q1).T
        longest = jump.norm(dim=1).argmax()
        return jump[longest], (c2 - c1)[longest]

    mistakes = {
        "you returned v, the jump, which lives in the image; a is in the rows of Q2 - Q1 = v aᵀ.": columns,
        "b has the wrong sign: on the crease a·x = -b.": lambda *maps: (find(*maps)[0], -find(*maps)[1]),
        "b is zero, so the crease goes through the origin: c2 - c1 = b v says where it really is.": (
            lambda *maps: (find(*maps)[0], 0.0)
        ),
        "a is right, but b belongs to the unit normal: scale it like your a.": (
            lambda *maps: (find(*maps)[0], find(*maps)[1] / find(*maps)[0].norm())
        ),
        "Q1 turns the image: multiply c2 - c1 by its transpose as you did Q2 - Q1.": (
            lambda Q1, c1, Q2, c2: (find(Q1, c1, Q2, c2)[0], (c2 - c1)[(Q1.T @ (Q2 - Q1)).norm(dim=1).argmax()])
        ),
    }

    def form(pair, Q1, *rest):
        found = require_parts(pair, {"a": (len(Q1),), "b": ()})
        return _without_scale(found[None, :-1], found[-1:])

    require_function(answer, find, cases, mistakes, form=form, what="find_crease")
    return "the crease was found in dimensions 2 to 8, oblique or along an axis"


def _without_scale(normals: Tensor, offsets: Tensor) -> Tensor:
    """Hyperplanes, (L, n) and (L,), in a form in which neither length nor sign of a normal counts."""
    size = normals.norm(dim=1, keepdim=True)
    require_finite(size, "the normal")
    if (size == 0).any():
        wrong(
            "a normal is zero for some of the creases: the row that you read it from vanishes where the crease lies "
            "along an axis. Take the longest row."
        )
    planes = torch.cat([normals, offsets[:, None]], dim=1) / size
    somewhere = torch.arange(1.0, normals.shape[1] + 1, dtype=torch.float64).cos()  # perpendicular to no normal here
    return planes * (normals @ somewhere).sign()[:, None]


@exercise("mirrors/torn", points=2)
def _torn(F, x, y) -> str:
    """F from (N, 2) to (N, 2) with J = I where it exists; x and y at most 0.1 apart, their images 1 or more."""
    x, y = (require_shape(require_finite(p, name).reshape(-1), (2,), name) for name, p in (("x", x), ("y", y)))

    def image(points: Tensor) -> Tensor:
        value = require_shape(call(F, points, what="torn"), tuple(points.shape), "what torn returns")
        return require_finite(value, "what torn returns")

    share = torch.rand(1000, 1, generator=seeded(1), dtype=torch.float64)
    plane = 4 * torch.rand(2000, 2, generator=seeded(0), dtype=torch.float64) - 2
    for points, where in ((plane, "of the plane"), (x + share * (y - x), "of the segment from x to y")):
        J = _differences(image, points)
        eye = torch.eye(2, dtype=torch.float64)
        if ((J.mT @ J - eye).abs().amax((1, 2)) > 1e-6).double().mean() > 0.02:
            wrong(f"the Jacobian is not even orthogonal on a good part {where}: your map stretches.")
        if ((J - eye).abs().amax((1, 2)) > 1e-6).double().mean() > 0.02:
            wrong("the Jacobian is orthogonal but not the identity: use shifts only, no rotation and no reflection.")
    before, after = float((x - y).norm()), float((image(x[None]) - image(y[None])).norm())
    if before > 0.1 + 1e-6:
        wrong(f"your points are {before:.2g} apart; they must start at most 0.1 apart, on both sides of the tear.")
    if abs(after - before) < 1e-9:
        wrong("your two points keep their distance: nothing tears between them. Put one on each side of the tear.")
    if after < 1 - 1e-6:
        wrong(f"your points end {after:.2g} apart; they must end at least 1 apart. Shift further.")
    if (left := _jump(image, x, y)) < 0.1:
        wrong(
            f"your map is continuous: between points that are as near as numbers can be, the jump is {left:.1g}. It "
            "stretches a thin strip, however steep it is; a tear has no strip."
        )
    return f"J = I, a distance of {before:.2g} became {after:.2g}, and no halving of the segment removes the jump"


def _differences(image, points: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences, (N, 2, 2)."""
    ways = torch.eye(2, dtype=torch.float64) * step
    return torch.stack([(image(points + e) - image(points - e)) / (2 * step) for e in ways], dim=2)


def _jump(image, x: Tensor, y: Tensor) -> float:
    """What is left of the jump when the segment is halved, towards the larger part, until it cannot be."""

    def shift(p: Tensor) -> Tensor:
        return (image(p[None]) - p)[0]

    for _ in range(3000):
        middle = (x + y) / 2
        if torch.equal(middle, x) or torch.equal(middle, y):
            break
        first, second = (shift(middle) - shift(x)).norm(), (shift(y) - shift(middle)).norm()
        x, y = (x, middle) if first > second else (middle, y)
    return float((shift(x) - shift(y)).norm())


@exercise("mirrors/box", points=3)
def _box(layers) -> str:
    """Four layers ``Fold(2)`` that bring the square of side 2 into one of side 1/8."""
    layers = list(getattr(layers, "layers", layers))
    for number, layer in enumerate(layers, 1):
        kind = isinstance(layer, Layer) and (layer.alpha, layer.beta, layer.outer, layer.dim, layer.activation.name)
        if kind != (1.0, -2.0, "tied", 2, "relu"):
            wrong(f"layer {number} is no Fold(2).")
        A = require_finite(layer.A, f"A in layer {number}")
        require_finite(layer.b, f"b in layer {number}")
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
