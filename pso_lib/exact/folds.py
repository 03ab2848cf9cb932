"""Folded maps: one hidden layer F(x) = M x + c + sum_i v_i relu(a_i . x + b_i), and when it folds paper.

The theorem on one hidden layer: the Jacobian is orthogonal almost everywhere iff it is so in one region and
every crossing of a crease is a mirror, v_i = -2 Q a_i / |a_i|^2 with Q the Jacobian on the crease's negative side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from pso_lib.errors import checked, require_positive_int, require_shape
from pso_lib.exact.arrangement import arrangement, facet_cells
from pso_lib.exact.hinges import HingedLayer, from_torch, hinged_layer
from pso_lib.exact.regions import regions
from pso_lib.exact.symbolic import exact_matrix, exact_planes, in_order, jacobian_conditions, reflection, sign, tidy
from pso_lib.nn.activations import Activation, absolute, get

__all__ = [
    "Failure",
    "FoldedMap",
    "Patch",
    "fold",
    "fold_directions",
    "from_activation",
    "from_fold",
    "from_modified_feedforward",
]


@dataclass(frozen=True, eq=False)
class Failure:
    """Where a map is not orthogonal: a region (crease None), or a facet of a crease.

    Attributes:
        signs: the side of each crease, 0 for the crease itself. point: a point there.
        error: region: J^T J - I. Facet: v + 2 Q a / |a|^2, which a mirror makes zero.
    """

    crease: int | None
    signs: tuple[int, ...]
    point: sp.Matrix
    error: sp.Matrix

    @property
    def size(self) -> sp.Expr:
        """The largest entry of the error, exact."""
        return in_order(abs(entry) for entry in self.error)[-1]

    def __str__(self) -> str:
        place = "the region" if self.crease is None else f"crease {self.crease}, on the facet"
        return f"{place} with signs {self.signs} around {list(self.point)}: off by {self.size.evalf(3)}"


@dataclass(frozen=True, eq=False)
class Patch:
    """A region to draw: polygon (k, 2), its folded image (k, m), and 1 or -1 for the side that is up."""

    polygon: np.ndarray
    image: np.ndarray
    orientation: int


@dataclass(frozen=True, eq=False)
class FoldedMap(HingedLayer):
    """A hinged layer seen as folding. Rows of G are the normals a_i, e the offsets b_i, columns of D the v_i."""

    @classmethod
    def of(cls, layer) -> "FoldedMap":
        """Any hinged layer, or torch layer with an activation affine in pieces, as a folded map."""
        layer = layer if isinstance(layer, HingedLayer) else from_torch(layer)
        return cls(layer.M, layer.c, layer.G, layer.e, layer.D, layer.units)

    @classmethod
    def build(cls, M, normals, offsets=None, directions=(), slopes=None) -> "FoldedMap":
        """The theorem's data: F(x) = M x + sum_i v_i sigma_i(a_i . x + b_i), kinks of the sigma_i at 0.

        Args:
            M: (m, n). normals: K vectors a_i. offsets: K numbers b_i. directions: K vectors v_i.
            slopes: K pairs (left, right); (0, 1), that is relu, if None.
        """
        M = exact_matrix("M", M)
        K = len(normals)
        G = exact_matrix("normals", [list(a) for a in normals]) if K else sp.zeros(0, M.cols)
        D = exact_matrix("directions", [list(v) for v in directions]).T if K else sp.zeros(M.rows, 0)
        e = exact_matrix("offsets", list(offsets) if offsets is not None else [0] * K) if K else sp.zeros(0, 1)
        slopes = exact_matrix("slopes", [list(s) for s in slopes] if slopes is not None else [[0, 1]] * K)
        if G.shape != (K, M.cols) or D.shape != (M.rows, K) or e.rows != K or (K and slopes.shape != (K, 2)):
            raise ValueError(
                f"M is {M.shape}, with {K} normals, {e.rows} offsets, {D.cols} directions and {slopes.rows} slopes; "
                f"give as many of each, normals of length {M.cols} and directions of length {M.rows}."
            )
        left = sp.diag(*slopes[:, 0]) if K else sp.zeros(0, 0)
        jump = sp.diag(*(slopes[:, 1] - slopes[:, 0])) if K else sp.zeros(0, 0)
        parts = (M + D * left * G, D * left * e, G, e, D * jump)
        M, c, G, e, D = (sp.ImmutableMatrix(part.applyfunc(tidy)) for part in parts)
        return cls(M, c, G, e, D, tuple(range(K)))

    @cached_property
    def _floats(self) -> tuple[Tensor, ...]:
        parts = (self.M, self.c, self.G, self.e, self.D)
        return tuple(torch.tensor(np.array(p.tolist(), dtype=float).reshape(p.shape)) for p in parts)

    def torch(self, x: Tensor) -> Tensor:
        """F at points x (..., n), in the dtype and on the device of x: (..., m). Integers become torch's default."""
        require_shape("x", x, self.M.cols)
        x = _floating(x)
        M, c, G, e, D = (part.to(x) for part in self._floats)
        return x @ M.T + c[:, 0] + torch.relu(x @ G.T + e[:, 0]) @ D.T

    def jacobian(self, x: Tensor) -> Tensor:
        """The Jacobian at points x (..., n), exact up to rounding: (..., m, n). On a crease: the off side."""
        require_shape("x", x, self.M.cols)
        x = _floating(x)
        M, _, G, e, D = (part.to(x) for part in self._floats)
        on = (x @ G.T + e[:, 0] > 0).to(x)
        return M + torch.einsum("mk,...k,kn->...mn", D, on, G)

    def merged(self) -> "FoldedMap":
        """The same map with one hinge per crease: coincident hinges added up, idle ones left out."""
        M, c = sp.Matrix(self.M), sp.Matrix(self.c)
        kept: list[list] = []
        for k in range(self.G.rows):
            g, e, d = self.G[k, :], self.e[k], self.D[:, k]
            if not any(sign(v) for v in g):
                c += d * e if sign(e) > 0 else sp.zeros(*c.shape)
                continue
            for hinge in kept:
                ratio = _ratio(g.row_join(sp.Matrix([[e]])), hinge[0].row_join(sp.Matrix([[hinge[1]]])))
                if ratio is not None:
                    break
            else:
                kept.append([g, e, sp.Matrix(d)])
                continue
            hinge[2] += abs(ratio) * d
            if sign(ratio) < 0:  # relu(-z) = relu(z) - z
                M, c = M + ratio * d * hinge[0], c + ratio * d * hinge[1]
        kept = [hinge for hinge in kept if any(sign(tidy(v)) for v in hinge[2])]
        merged = FoldedMap.build(M, [h[0] for h in kept], [h[1] for h in kept], [h[2] for h in kept])
        return replace(merged, c=sp.ImmutableMatrix(c.applyfunc(tidy)))

    def _at(self, signs: Sequence[int]) -> sp.Matrix:
        on = [k for k, s in enumerate(signs) if s > 0]
        J = self.M + sum((self.D[:, k] * self.G[k, :] for k in on), sp.zeros(*self.M.shape))
        return sp.Matrix(J).applyfunc(tidy)

    def failures(self) -> list[Failure]:
        """Every region whose Jacobian is not orthogonal, decided exactly; empty if F folds paper.

        Signs refer to the creases of ``merged()``, in order.
        """
        m = self.merged()
        found = []
        points = arrangement(_rows(m.G), list(m.e)) if m.units else []
        for signs, point in [(cell.signs, cell.point) for cell in points] or [((), sp.zeros(self.M.cols, 1))]:
            J = m._at(signs)
            if any(sign(entry) for entry in jacobian_conditions(J)):
                found.append(Failure(None, signs, point, (J.T * J - sp.eye(J.cols)).applyfunc(tidy)))
        return found

    def crease_failures(self) -> list[Failure]:
        """Every facet whose crossing is not a mirror: the theorem's condition, facet by facet."""
        m = self.merged()
        normals, offsets, found = _rows(m.G), list(m.e), []
        for i, a in enumerate(normals):
            for cell in facet_cells(normals, offsets, i):
                error = (m.D[:, i] + 2 * m._at(cell.signs) * a / (a.T * a)[0]).applyfunc(tidy)
                if any(sign(entry) for entry in error):
                    found.append(Failure(i, cell.signs, cell.point, sp.Matrix(error)))
        return found

    @property
    def is_orthogonal(self) -> bool:
        """Whether the Jacobian is orthogonal almost everywhere, decided exactly."""
        return not self.failures()

    def patches(self, box=((-1, 1), (-1, 1))) -> list[Patch]:
        """The crease pattern of a plane map and its folded image, as float polygons to draw."""
        found = regions(self, box, number="float")
        return [Patch(np.array(r.vertices), np.array(r.image), int(np.sign(np.linalg.det(r.J)))) for r in found]


def _floating(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _rows(G) -> list[sp.Matrix]:
    return [sp.Matrix(G[k, :].T) for k in range(G.rows)]


def _ratio(row, other) -> sp.Expr | None:
    """r with row = r * other, or None."""
    pivot = next(i for i, v in enumerate(other) if sign(v))
    ratio = tidy(row[pivot] / other[pivot])
    return None if any(sign(tidy(v - ratio * w)) for v, w in zip(row, other, strict=True)) else ratio


def fold_directions(Q, normals, offsets=None, start=None) -> list[sp.Matrix]:
    """The only v_i that can fold along the given creases when the Jacobian at ``start`` is Q.

    One straight walk through ``start`` meets every crease once, and the mirror lemma gives v_i at each. Whether
    the other facets of a crease agree is the theorem's question: ask ``fold(...).failures()``.

    Args:
        start: a point off the creases; by default one on the negative side of all of them.
    """
    return [v for v, _ in _walk(Q, normals, offsets, start)]


def fold(Q, normals, offsets=None, start=None) -> FoldedMap:
    """The map with Jacobian Q at ``start`` and the directions of :func:`fold_directions`."""
    walked = _walk(Q, normals, offsets, start)
    normals, offsets = exact_planes(normals, offsets)
    M = sp.Matrix(exact_matrix("Q", Q))
    for a, (v, on) in zip(normals, walked, strict=True):
        M -= on * v * a.T
    return FoldedMap.build(M, normals, offsets, [v for v, _ in walked])


def _walk(Q, normals, offsets, start) -> list[tuple[sp.Matrix, int]]:
    """For each crease its direction v, and whether the hinge is on at the start."""
    Q = sp.Matrix(exact_matrix("Q", Q))
    normals, offsets = exact_planes(normals, offsets)
    if any(sign(entry) for entry in jacobian_conditions(Q)):
        raise ValueError("Q is not orthogonal: Q^T Q differs from the identity; give an orthogonal Q.")
    if start is None:
        cells = arrangement(normals, list(offsets))
        start = next((cell.point for cell in cells if max(cell.signs) < 0), None)
        if start is None:
            raise ValueError("no point is on the negative side of every crease; name a start point.")
    start = exact_matrix("start", start)
    if start.shape != (Q.cols, 1):
        raise ValueError(f"start has shape {start.shape}; it must be a point, {Q.cols} numbers.")
    heights = [tidy((a.T * start)[0] + b) for a, b in zip(normals, offsets, strict=True)]
    if any(sign(h) == 0 for h in heights):
        raise ValueError(f"start={list(start)} lies on a crease; choose a point inside a region.")
    order, speeds = _generic_line(normals, heights)
    found: dict[int, tuple[sp.Matrix, int]] = {}
    for ahead in (True, False):
        J = Q
        for time, i in order if ahead else reversed(order):
            if (time > 0) != ahead:
                continue
            mirror, on = reflection(normals[i]), sign(heights[i]) > 0
            negative = (J * mirror).applyfunc(tidy) if on else J
            square = (normals[i].T * normals[i])[0]
            found[i] = ((-2 * negative * normals[i] / square).applyfunc(tidy), int(on))
            J = (J * mirror).applyfunc(tidy)
    return [found[i] for i in range(len(normals))]


def _generic_line(normals, heights) -> tuple[list, list]:
    """The creases in the order in which a line through the start meets them, at different times."""
    n = normals[0].rows
    for attempt in range(2, 200):
        line = sp.Matrix([sp.Rational((-1) ** (attempt * i), attempt**i) for i in range(n)])
        speeds = [tidy((a.T * line)[0]) for a in normals]
        if not all(sign(s) for s in speeds):
            continue
        times = [(tidy(-h / s), i) for i, (h, s) in enumerate(zip(heights, speeds, strict=True))]
        times = in_order(times, key=lambda pair: pair[0])
        if all(sign(q[0] - p[0]) for p, q in zip(times, times[1:], strict=False)):
            return times, speeds
    raise ValueError("normals or offsets hold the same crease twice; merge them into one.")


# ---------------------------------------------------------------- one family


@checked
def from_activation(activation: str | Activation, dim: int = 2) -> FoldedMap:
    """sigma on R^dim: |.|, MaxMin, Householder, and any other that is affine in pieces."""
    dim = require_positive_int("dim", dim)
    return FoldedMap.of(hinged_layer(sp.eye(dim), activation=get(activation)))


def from_fold(A, b=None) -> FoldedMap:
    """The modified ResNet layer x - 2 A^T relu(A x + b)."""
    return FoldedMap.of(hinged_layer(A, b, alpha=1, beta=-2))


def from_modified_feedforward(A, B, b=None) -> FoldedMap:
    """The modified feedforward layer B^T |A x + b|."""
    return FoldedMap.of(hinged_layer(A, b, B=B, activation=absolute()))
