"""The regions of a plane network that is affine in pieces, as polygons, each with its affine map.

``regions`` cuts a rectangle along the creases of layer after layer, in exact numbers or, for networks
too large for that, in floats. ``facets`` finds the creases between exact regions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp
import torch

from pso_lib.errors import checked, require_choice, require_positive_int
from pso_lib.exact.hinges import HingedLayer, activation_hinges, from_torch, pattern_of
from pso_lib.exact.symbolic import exact_matrix, sign, tidy

__all__ = ["Facet", "Region", "facets", "regions"]

# What counts as zero among floats, as a share of the terms that were added up to it: some thousand roundings.
_ZERO = 1e-12


@dataclass(frozen=True, eq=False)
class Region:
    """A convex polygon on which the network is F(x) = J x + c.

    Attributes:
        vertices: corners in order, counter-clockwise, pairs of numbers.
        patterns: for each layer the piece of every unit.
        J: (m, 2) and c: (m, 1), sympy matrices (exact) or numpy arrays (float).
    """

    vertices: tuple[tuple, ...]
    patterns: tuple[tuple[int, ...], ...]
    J: sp.Matrix | np.ndarray
    c: sp.Matrix | np.ndarray

    @property
    def exact(self) -> bool:
        return isinstance(self.J, sp.MatrixBase)

    @property
    def centre(self) -> tuple:
        """The mean of the corners, an interior point."""
        count = len(self.vertices)
        return tuple(sum(v[i] for v in self.vertices) / count for i in (0, 1))

    @property
    def area(self):
        """The area, by the shoelace formula."""
        pairs = zip(self.vertices, self.vertices[1:] + self.vertices[:1], strict=True)
        twice = sum(p[0] * q[1] - q[0] * p[1] for p, q in pairs)
        return tidy(twice / 2) if self.exact else twice / 2

    @property
    def image(self) -> tuple[tuple, ...]:
        """The corners of the folded polygon, F at each corner, as tuples of m numbers."""
        if self.exact:
            return tuple(tuple((self.J * sp.Matrix(v) + self.c).applyfunc(tidy)) for v in self.vertices)
        return tuple(tuple((self.J @ np.array(v) + self.c[:, 0]).tolist()) for v in self.vertices)

    def contains(self, point) -> bool:
        """Whether the point lies in the closed polygon; among floats, or not further off it than rounding."""
        pairs = zip(self.vertices, self.vertices[1:] + self.vertices[:1], strict=True)
        turns = [(q[0] - p[0]) * (point[1] - p[1]) - (q[1] - p[1]) * (point[0] - p[0]) for p, q in pairs]
        if self.exact:
            return all(sign(t) >= 0 for t in turns)
        size = max(abs(v) for corner in (*self.vertices, point) for v in corner)
        pairs = zip(self.vertices, self.vertices[1:] + self.vertices[:1], strict=True)
        lengths = [abs(q[0] - p[0]) + abs(q[1] - p[1]) for p, q in pairs]
        return all(t >= -_ZERO * size * length for t, length in zip(turns, lengths, strict=True))


@dataclass(frozen=True, eq=False)
class Facet:
    """A crease between two regions: J_second - J_first = jump normal^T, of rank one or zero."""

    first: int
    second: int
    start: tuple
    end: tuple
    normal: sp.Matrix
    jump: sp.Matrix


@checked
def regions(layers, box=((-1, 1), (-1, 1)), *, number: str = "exact", lift=None, most: int = 100_000) -> list[Region]:
    """The regions of a plane network inside a box, by clipping; recursive over layers and hinges.

    Args:
        layers: one layer or a sequence of them, each a ``HingedLayer`` or a torch layer with A, B, b,
            alpha, beta and activation. A torch layer's floats are taken as the binary fractions they are.
        box: ((left, right), (bottom, top)).
        number: "exact" for sympy numbers, "float" for float64 (large networks, to draw), where a height counts as
            zero if it is below 1e-12 of the terms that make it up, its point's included.
        lift: (W, w) with W (n, 2) and w n numbers: the plane laid into R^n before the first layer.
        most: a limit on the number of regions.

    Raises:
        ValueError: floats among exact numbers, widths that do not fit, an empty box, too many regions.
    """
    require_choice("number", number, ("exact", "float"))
    exact, most = number == "exact", require_positive_int("most", most)
    one = isinstance(layers, HingedLayer | torch.nn.Module) and not isinstance(layers, torch.nn.ModuleList)
    if not one and (isinstance(layers, str) or not isinstance(layers, Iterable)):
        raise TypeError(f"layers must be a layer or a list of them, got {layers!r}.")
    layers = [layers] if one else list(layers)
    layers = [_arrays(layer, exact) for layer in layers]
    (left, right), (bottom, top) = box
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    vertices = np.array([[_number("box", v, exact) for v in corner] for corner in corners])
    if not (sign(vertices[1, 0] - vertices[0, 0]) > 0 and sign(vertices[2, 1] - vertices[0, 1]) > 0):
        raise ValueError(f"box={box!r} is empty; give ((left, right), (bottom, top)) with left < right, bottom < top.")
    J, c = (np.eye(2, dtype=int), np.zeros(2, dtype=int)) if lift is None else lift
    J = np.array([[_number("lift", v, exact) for v in row] for row in np.asarray(J, dtype=object)])
    c = np.array([_number("lift", v, exact) for v in np.asarray(c, dtype=object).reshape(-1)])
    found = [(vertices, abs(vertices), (), J, c)]
    for index, (units, parts) in enumerate(layers):
        if parts[0].shape[1] != found[0][3].shape[0]:
            raise ValueError(
                f"layer {index} takes points of length {parts[0].shape[1]}, but gets length {found[0][3].shape[0]}; "
                "the plane has length 2, use lift=(W, w) for a wider network."
            )
        found = [piece for state in found for piece in _cut(state, units, parts, exact)]
        if len(found) > most:
            raise ValueError(f"more than {most} regions after layer {index}; draw a smaller network or raise `most`.")
    return [_region(*state, exact) for state in found]


def _number(argument: str, value, exact: bool):
    return exact_matrix(argument, [value])[0] if exact else float(value)


def _arrays(layer, exact: bool) -> tuple:
    """The hinges' units, and M, c, G, e, D as numpy arrays of sympy numbers or of floats."""
    if isinstance(layer, HingedLayer) or exact:
        layer = layer if isinstance(layer, HingedLayer) else from_torch(layer)
        matrices = (layer.M, layer.c, layer.G, layer.e, layer.D)
        kind = object if exact else float
        M, c, G, e, D = (np.array(m.tolist(), dtype=kind).reshape(m.shape) for m in matrices)
        return layer.units, (M, c[:, 0], G, e[:, 0], D)
    # A wide torch layer, to be drawn: the same formulas as in hinged_layer, without sympy's matrices.
    A, B = (np.asarray(m.detach().double().tolist()) for m in (layer.A, layer.B))
    b = np.zeros(len(A)) if layer.b is None else np.asarray(layer.b.detach().double().tolist())
    *pieces, units = activation_hinges(layer.activation, len(A))
    rows, offsets, slope, constant, lift = (np.array(m.tolist(), dtype=float).reshape(m.shape) for m in pieces)
    outer = layer.beta * B.T
    M = layer.alpha * np.eye(B.shape[1], A.shape[1]) + outer @ slope @ A
    return units, (M, outer @ (slope @ b + constant[:, 0]), rows @ A, rows @ b + offsets[:, 0], outer @ lift)


@dataclass(frozen=True, eq=False)
class _Corner:
    """A corner as the hinges of a layer see it: the heights of all K there, and on which side of each it lies.

    Among floats ``reach`` and ``terms`` are the sizes of what was added up to the point and to its heights: they are
    known to a rounding of these, however small they are themselves.
    """

    point: np.ndarray
    reach: np.ndarray
    heights: np.ndarray
    terms: np.ndarray
    sides: np.ndarray


def _cut(state, units, parts, exact: bool):
    """Cut one polygon along the hinges of a layer, and push each piece through the layer."""
    (points, reach, patterns, J, c), (M, m, G, e, D) = state, parts
    slopes, offsets = G @ J, G @ c + e  # heights of all hinges, affine on the polygon
    heights = points @ slopes.T + offsets
    terms = heights if exact else reach @ (abs(G) @ abs(J)).T + abs(G) @ abs(c) + abs(e)
    rows = zip(points, reach, heights, terms, strict=True)
    waiting = [([_Corner(*row, _sides(*row[2:], exact)) for row in rows], 0)]
    while waiting:
        corners, start = waiting.pop()
        sides = np.array([corner.sides for corner in corners])
        above, below = np.asarray((sides > 0).any(0)), np.asarray((sides < 0).any(0))
        crossed = np.flatnonzero((above & below)[start:])
        if len(crossed):
            hinge = start + int(crossed[0])
            waiting += [(half, hinge + 1) for half in _halves(corners, hinge, (slopes, offsets), exact)]
            continue
        chosen = D[:, above]
        K, k = M + chosen @ G[above], m + chosen @ e[above]
        new_J, new_c = K @ J, K @ c + k
        if exact and any(not v.is_Rational for v in (*new_J.flat, *new_c.flat)):
            new_J, new_c = (np.vectorize(tidy, otypes=[object])(part) for part in (new_J, new_c))
        if not exact:  # what cancels is zero, and no crease of the layers to come
            size, shift = abs(M) + abs(chosen) @ abs(G[above]), abs(m) + abs(chosen) @ abs(e[above])
            new_J = np.where(abs(new_J) <= _ZERO * (size @ abs(J)), 0, new_J)
            new_c = np.where(abs(new_c) <= _ZERO * (size @ abs(c) + shift), 0, new_c)
        points, reach = (np.array([getattr(corner, part) for corner in corners]) for part in ("point", "reach"))
        yield points, reach, (*patterns, pattern_of(units, above)), new_J, new_c


def _sides(heights, terms, exact: bool) -> np.ndarray:
    if exact:
        return np.array([sign(h) for h in heights], dtype=int)
    return np.where(abs(heights) <= _ZERO * terms, 0, np.sign(heights)).astype(int)


def _halves(corners: list[_Corner], hinge: int, crease, exact: bool) -> tuple[list[_Corner], list[_Corner]]:
    """The parts of a convex polygon above and below a hinge, which share the corners that it cuts."""
    above, below = [], []
    for p, q in zip(corners, corners[1:] + corners[:1], strict=True):
        if p.sides[hinge] >= 0:
            above.append(p)
        if p.sides[hinge] <= 0:
            below.append(p)
        if p.sides[hinge] * q.sides[hinge] < 0:
            cut = _between(p, q, hinge, crease, exact)
            above.append(cut)
            below.append(cut)
    return above, below


def _between(p: _Corner, q: _Corner, hinge: int, crease, exact: bool) -> _Corner:
    """The corner that a hinge cuts out of the edge from p to q.

    It lies on that hinge because it was made so, and beside the others as p and q do, whatever its rounded heights
    say; only where p and q lie on different sides of another hinge is anything tested.
    """
    share = p.heights[hinge] / (p.heights[hinge] - q.heights[hinge])
    if exact:
        slopes, offsets = crease
        point = reach = np.array([tidy(v) for v in p.point + share * (q.point - p.point)])
        heights = terms = slopes @ point + offsets
    else:
        parts = ("point", "reach", "heights", "terms")
        point, reach, heights, terms = (
            getattr(p, part) + share * (getattr(q, part) - getattr(p, part)) for part in parts
        )
    sides, open_ = np.sign(p.sides + q.sides), p.sides * q.sides < 0
    open_[hinge] = False
    sides[open_] = _sides(heights[open_], terms[open_], exact)
    return _Corner(point, reach, heights, terms, sides)


def _region(vertices, reach, patterns, J, c, exact: bool) -> Region:
    corners = tuple(tuple(v) if exact else tuple(map(float, v)) for v in vertices)
    if exact:
        return Region(corners, patterns, sp.Matrix(J.tolist()), sp.Matrix(c.tolist()))
    return Region(corners, patterns, J, c[:, None])


def facets(found: Sequence[Region]) -> list[Facet]:
    """The creases between exact regions, with the rank-one jump of the Jacobian across each.

    Raises:
        ValueError: two neighbours do not agree on their common edge, so the map is not continuous.
    """
    edges = [
        (i, p, q)
        for i, region in enumerate(found)
        for p, q in zip(region.vertices, region.vertices[1:] + region.vertices[:1], strict=True)
    ]
    shared = []
    for k, (i, p, q) in enumerate(edges):
        along = (q[0] - p[0], q[1] - p[1])
        length = along[0] ** 2 + along[1] ** 2
        for j, r, s in edges[k + 1 :]:
            if j == i or any(sign(along[0] * (t[1] - p[1]) - along[1] * (t[0] - p[0])) for t in (r, s)):
                continue
            # Both on one line: positions along p -> q, where the second edge runs the other way.
            low, high = (((t[0] - p[0]) * along[0] + (t[1] - p[1]) * along[1]) / length for t in (s, r))
            low = low if sign(low) > 0 else sp.Integer(0)
            high = high if sign(high - 1) < 0 else sp.Integer(1)
            if sign(high - low) > 0:
                ends = [tuple(tidy(p[d] + t * along[d]) for d in (0, 1)) for t in (low, high)]
                shared.append(_facet(found, i, j, *ends))
    return shared


def _facet(found, i: int, j: int, start: tuple, end: tuple) -> Facet:
    # Counter-clockwise corners: the outward normal of region i is the edge turned by -90 degrees.
    normal = sp.Matrix([end[1] - start[1], start[0] - end[0]])
    change = found[j].J - found[i].J
    jump = (change * normal / (normal.T * normal)[0]).applyfunc(tidy)
    gap = (change * sp.Matrix(start) + found[j].c - found[i].c).applyfunc(tidy)
    if any(sign(entry) for entry in (*(change - jump * normal.T), *gap)):
        raise ValueError(f"regions {i} and {j} disagree on their edge from {start} to {end}: not continuous there.")
    return Facet(i, j, start, end, normal, jump)
