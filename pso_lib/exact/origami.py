"""Pencils of creases through a point, Kawasaki's condition, and the normal form of folds. Exact.

Angles are those of the creases' normals, in radians, as sympy numbers (``sympy.rad(30)`` is pi/6).
A crease here is a whole line, on which one unit of a layer bends. A sheet of paper may change its mind
at the crossing; a unit may not: that is why an odd pencil folds as paper but not as one layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp

from pso_lib.errors import checked, require_positive_int
from pso_lib.exact.folds import FoldedMap
from pso_lib.exact.symbolic import (
    exact_matrix,
    exact_number,
    exact_planes,
    in_order,
    jacobian_conditions,
    reflection,
    sign,
    tidy,
)
from pso_lib.nn.activations import PiecewiseAffine

__all__ = [
    "Crossing",
    "Kawasaki",
    "NormalForm",
    "NotFlatFoldable",
    "crossings",
    "fold_pencil",
    "kawasaki",
    "kawasaki_completion",
    "kawasaki_equation",
    "normal_form",
    "paper_condition",
    "require_foldable",
    "unit_normal",
]


class NotFlatFoldable(ValueError):
    """A crease pattern that one hidden layer cannot fold; the text says which condition fails."""


@dataclass(frozen=True)
class Kawasaki:
    """What Kawasaki's condition says of a pencil.

    Attributes:
        angles: of the normals, modulo pi and increasing.
        sectors: the angles between neighbouring creases; they add up to pi.
        alternating_sum: (t2 - t1) + (t4 - t3) + …, None for an odd pencil.
    """

    angles: tuple[sp.Expr, ...]
    sectors: tuple[sp.Expr, ...]
    alternating_sum: sp.Expr | None

    @property
    def holds(self) -> bool:
        """Whether one hidden layer can fold the pencil, which is a single crease, or even with sum pi/2."""
        return len(self.angles) == 1 or (self.alternating_sum is not None and sign(self.defect) == 0)

    @property
    def defect(self) -> sp.Expr | None:
        """The alternating sum minus pi/2; None for an odd pencil."""
        return None if self.alternating_sum is None else sp.expand(self.alternating_sum - sp.pi / 2)


def _angle(value) -> sp.Expr:
    angle = exact_matrix("angles", [value])[0]
    if not angle.is_real or angle.free_symbols:
        raise ValueError(f"angles holds {angle}; give real sympy numbers in radians, such as sympy.rad(30).")
    return sp.expand(angle - sp.pi * sp.floor(angle / sp.pi))


@checked
def kawasaki(angles: Sequence) -> Kawasaki:
    """Sort the normals' angles modulo pi and form the alternating sum.

    Raises:
        ValueError: floats, symbols, no angle, or the same crease twice.
    """
    found = in_order(map(_angle, angles))
    if not found:
        raise ValueError("angles is empty; give at least one normal.")
    if any(sign(q - p) == 0 for p, q in zip(found, found[1:], strict=False)):
        raise ValueError(f"angles {found} name a crease twice (they count modulo pi); give each once.")
    sectors = [sp.expand(q - p) for p, q in zip(found, [*found[1:], found[0] + sp.pi], strict=True)]
    even = len(found) % 2 == 0
    return Kawasaki(tuple(found), tuple(sectors), sp.expand(sum(sectors[::2])) if even else None)


def unit_normal(angle) -> sp.Matrix:
    """(cos angle, sin angle); the angle in radians, an exact number or a symbol."""
    angle = exact_number("angle", angle)
    return sp.Matrix([sp.cos(angle), sp.sin(angle)])


@checked
def kawasaki_equation(m: int) -> tuple[tuple[sp.Symbol, ...], sp.Expr]:
    """Derive the condition on m normals: crossing crease 1 on its other half must use the same v.

    Half a turn around the point crosses the m - 1 other creases, so R_2 … R_m e_1 = e_1.

    Returns:
        The angles t_1 … t_m, and e_1 . R_2 … R_m e_1 - 1, which must vanish. For even m it is
        -cos(2 S) - 1, S the alternating sum; for odd m cos(2 S') - 1, S' = (t_3 - t_2) + (t_5 - t_4) + ….
    """
    angles = sp.symbols(f"t1:{require_positive_int('m', m) + 1}", real=True)
    normal = unit_normal(angles[0])
    return angles, tidy((normal.T * _turn(angles[1:]) * normal)[0] - 1)


@checked
def paper_condition(m: int) -> tuple[tuple[sp.Symbol, ...], sp.Matrix]:
    """(R_1 … R_m)^2 - I: zero iff m lines through a point fold as paper, a full turn undoing itself.

    It vanishes for every odd m. A layer asks for more, see :func:`kawasaki_equation`.
    """
    angles = sp.symbols(f"t1:{require_positive_int('m', m) + 1}", real=True)
    half = _turn(angles)
    return angles, (half * half - sp.eye(2)).applyfunc(tidy)


def _turn(angles) -> sp.Matrix:
    """R_1 R_2 … for mirrors with the given normals."""
    product = sp.eye(2)
    for angle in angles:
        normal = unit_normal(angle)
        product = (product * (sp.eye(2) - 2 * normal * normal.T)).applyfunc(tidy)
    return product


@checked
def kawasaki_completion(angles: Sequence) -> list[sp.Expr]:
    """Every last normal that completes an odd number of normals to a pencil that folds.

    There is always at least one, and at most one in each sector.
    """
    given = kawasaki(angles)
    if len(given.angles) % 2 == 0:
        raise ValueError(f"angles holds {len(given.angles)} normals; give an odd number, the last one makes it even.")
    found, x = [], sp.Symbol("x")
    for place in range(1, len(given.angles) + 1):
        # With x behind the first `place` normals the alternating sum is affine in x, with slope +-1.
        row = [*given.angles[:place], x, *given.angles[place:]]
        (root,) = sp.solve(sum(q - p for p, q in zip(row[::2], row[1::2], strict=True)) - sp.pi / 2, x)
        low, high = row[place - 1], row[place + 1] if place + 1 < len(row) else row[0] + sp.pi
        if sign(root - low) > 0 and sign(high - root) > 0:
            found.append(_angle(root))
    return in_order(found)


@checked
def fold_pencil(angles: Sequence) -> FoldedMap:
    """The layer x + sum_i v_i relu(e_i . x) that folds the plane along lines through the origin.

    The identity on the negative side of all normals (sorted modulo pi), v_i = -2 R_1 … R_{i-1} e_i.

    Raises:
        NotFlatFoldable: the pencil is odd, or its alternating sum is not pi/2; says by how much.
    """
    state = kawasaki(angles)
    if not state.holds:
        raise NotFlatFoldable(_why(state))
    directions, J = [], sp.eye(2)
    for angle in state.angles:
        normal = unit_normal(angle)
        directions.append((-2 * J * normal).applyfunc(tidy))
        J = (J * reflection(normal)).applyfunc(tidy)
    return FoldedMap.build(sp.eye(2), [unit_normal(a) for a in state.angles], None, directions)


def _why(state: Kawasaki) -> str:
    names = ", ".join(f"{sp.deg(a)}°" for a in state.angles)
    if state.alternating_sum is None:
        return (
            f"{len(state.angles)} creases with normals at {names} meet in a point, an odd number: paper folds there, "
            "but the two halves of a crease need different directions v, and a unit has one. Add or remove a crease "
            "(kawasaki_completion finds one)."
        )
    rule = "the rule that two creases cross at 90°" if len(state.angles) == 2 else "Kawasaki's condition"
    return (
        f"creases with normals at {names} break {rule}: the alternating sum of angles is "
        f"{sp.deg(state.alternating_sum)}°, not 90°; it is off by {sp.deg(state.defect)}°."
    )


# ---------------------------------------------------------------- creases in any dimension


@dataclass(frozen=True)
class Crossing:
    """Creases that contain one flat of codimension two, in the order of their normals' angles.

    Attributes:
        creases: their indices. holds: whether (b) of the theorem on one hidden layer is met ((a) for two creases).
    """

    creases: tuple[int, ...]
    holds: bool


def crossings(normals, offsets=None) -> list[Crossing]:
    """Every flat of codimension two where creases cross, and whether one layer can fold there.

    Exact for any algebraic normals: R_2 … R_m a_1 = a_1 is tested, and angles are never formed.

    Raises:
        ValueError: the same crease twice, across another.
    """
    normals, offsets = exact_planes(normals, offsets)
    full = [a.col_join(sp.Matrix([b])) for a, b in zip(normals, offsets, strict=True)]
    found: dict[tuple[int, ...], Crossing] = {}
    for i in range(len(normals)):
        for j in range(i + 1, len(normals)):
            if _rank(normals[i], normals[j]) < 2 or any({i, j} <= set(c) for c in found):
                continue
            members = [k for k in range(len(normals)) if _rank(full[i], full[j], full[k]) == 2]
            found[tuple(members)] = _crossing(normals, members)
    return list(found.values())


def _rank(*columns) -> int:
    gram = sp.Matrix.hstack(*columns)
    return (gram.T * gram).applyfunc(tidy).rank(iszerofunc=lambda v: sign(tidy(v)) == 0)


def _crossing(normals, members: list[int]) -> Crossing:
    first = normals[members[0]]
    second = normals[members[1]] - first * (first.T * normals[members[1]])[0] / (first.T * first)[0]

    def slope(k: int) -> sp.Expr:
        """Minus the cotangent of the normal's angle to the first, up to a positive factor: increasing in (0, pi)."""
        x, y = (tidy((axis.T * normals[k])[0]) for axis in (first, second))
        if sign(y) == 0:
            raise ValueError(f"creases {members[0]} and {k} are one; give each once, with its directions added up.")
        return tidy(-x / y)

    order = [members[0], *in_order(members[1:], key=slope)]
    image = first
    for k in reversed(order[1:]):
        image = (reflection(normals[k]) * image).applyfunc(tidy)
    return Crossing(tuple(order), not any(sign(tidy(v)) for v in image - first))


def require_foldable(normals, offsets=None) -> None:
    """Raise :class:`NotFlatFoldable`, naming the creases, unless one layer can fold the pattern."""
    for crossing in crossings(normals, offsets):
        if not crossing.holds:
            count = len(crossing.creases)
            rule = (
                "are not perpendicular"
                if count == 2
                else ("are odd in number" if count % 2 else "break Kawasaki's condition")
            )
            raise NotFlatFoldable(f"creases {crossing.creases} meet in a flat of codimension two and {rule}.")


@dataclass(frozen=True, eq=False)
class NormalForm:
    """F(x) = Q U psi(U^T x) + c: orthogonal Q, U (n, n), psi_k of slopes 1 and -1 with psi_k(0) = 0."""

    Q: sp.Matrix
    U: sp.Matrix
    psi: tuple[PiecewiseAffine, ...]
    c: sp.Matrix

    def __call__(self, x) -> sp.Matrix:
        """F(x), exact, a column."""
        heights = self.U.T * exact_matrix("x", x)
        folded = sp.Matrix([psi.sympy(tidy(h)) for psi, h in zip(self.psi, heights, strict=True)])
        return (self.Q * self.U * folded + self.c).applyfunc(tidy)


@checked
def normal_form(folded: FoldedMap) -> NormalForm:
    """The corollary: a folded map in general position as a coordinatewise zig-zag between rotations.

    Raises:
        NotFlatFoldable: two creases cross at another angle than 90 degrees, or the map is not folded.
    """
    folded, n = folded.merged(), folded.M.cols
    normals = [sp.Matrix(folded.G[k, :].T) for k in range(folded.G.rows)]
    families: list[list[int]] = []
    for k, a in enumerate(normals):
        family = next((f for f in families if _rank(normals[f[0]], a) == 1), None)
        if family is None:
            families.append([k])
        else:
            family.append(k)
    axes = [(normals[f[0]] / sp.sqrt(tidy((normals[f[0]].T * normals[f[0]])[0]))).applyfunc(tidy) for f in families]
    for i, u in enumerate(axes):
        for j in range(i):
            if sign(tidy((u.T * axes[j])[0])):
                raise NotFlatFoldable(
                    f"creases {families[j][0]} and {families[i][0]} cross at {(u.T * axes[j])[0]} = cosine, not 0; "
                    "the normal form needs perpendicular creases (general position)."
                )
    rest = sp.Matrix.hstack(sp.zeros(n, 1), *axes).T.nullspace()  # perpendicular to every axis
    U = sp.Matrix.hstack(*axes, *sp.GramSchmidt(rest, orthonormal=True))
    # Far to the negative side of every axis, a hinge is on iff its normal points that way.
    on = [k for f, u in zip(families, axes, strict=True) for k in f if sign(tidy((normals[k].T * u)[0])) < 0]
    Q = folded.M + sum((folded.D[:, k] * folded.G[k, :] for k in on), sp.zeros(n, n))
    Q = sp.Matrix(Q).applyfunc(tidy)
    if any(sign(entry) for entry in jacobian_conditions(Q)):
        raise NotFlatFoldable("the Jacobian far out is not orthogonal, so the map does not fold.")
    psi = []
    for f, u in zip(families, axes, strict=True):
        kinks = in_order(((tidy(-folded.e[k] / (normals[k].T * u)[0]), k) for k in f), key=lambda pair: pair[0])
        for turn, (_, k) in enumerate(kinks):
            jump = folded.D[:, k] * abs((normals[k].T * u)[0]) + 2 * (-1) ** turn * Q * u
            if any(sign(tidy(v)) for v in jump):
                raise NotFlatFoldable(f"crossing crease {k} is not a mirror, so the map does not fold.")
        slopes = [(-1) ** turn for turn in range(len(kinks) + 1)]
        psi.append(PiecewiseAffine("zigzag", [kink for kink, _ in kinks], slopes))
    psi += [PiecewiseAffine("identity", [], [1])] * (n - len(axes))
    return NormalForm(Q, U, tuple(psi), folded([0] * n))
