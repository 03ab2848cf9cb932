"""The cells that finitely many hyperplanes a_i . x + b_i = 0 cut out of R^n, exactly, in any dimension.

Built one hyperplane at a time: the old cells that the new hyperplane H cuts are the cells that the
old hyperplanes cut out of H itself, a problem in dimension n - 1.
"""

from dataclasses import dataclass

import sympy as sp

from pso_lib.exact.symbolic import exact_planes, sign, tidy

__all__ = ["Cell", "arrangement", "facet_cells"]


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of an arrangement: on which side of each hyperplane it lies, and a point inside."""

    signs: tuple[int, ...]
    point: sp.Matrix


def arrangement(normals, offsets=None) -> list[Cell]:
    """The cells of the hyperplanes a_i . x + b_i = 0 in R^n, one exact inner point each.

    Built one hyperplane at a time: the old cells that the new hyperplane H cuts are the cells that the
    old hyperplanes cut out of H itself, a problem in dimension n - 1.

    Raises:
        ValueError: a zero normal.
    """
    rows, offsets = exact_planes(normals, offsets)
    if not all(any(sign(v) for v in a) for a in rows):
        raise ValueError("normals holds a zero vector; leave that hinge out, it has no crease.")
    if not rows:
        raise ValueError("normals is empty; give at least one hyperplane.")
    return _cells(list(zip(rows, offsets, strict=True)), rows[0].rows)


def facet_cells(normals, offsets, index: int) -> list[Cell]:
    """The facets on hyperplane ``index``: its cells under the others (sign 0 in its own place)."""
    planes = list(zip(*exact_planes(normals, offsets), strict=True))
    others = planes[:index] + planes[index + 1 :]
    cells = _cells_on(planes[index], others)
    return [Cell((*cell.signs[:index], 0, *cell.signs[index:]), cell.point) for cell in cells]


def _height(plane, point) -> sp.Expr:
    return tidy((plane[0].T * point)[0] + plane[1])


def _cells(planes, n: int) -> list[Cell]:
    cells = [Cell((), sp.zeros(n, 1))]
    for k, plane in enumerate(planes):
        old = planes[:k]
        on_plane = {cell.signs: cell.point for cell in _cells_on(plane, old)}
        new = []
        for cell in cells:
            point = on_plane.get(cell.signs)
            if point is None:
                new.append(Cell((*cell.signs, sign(_height(plane, cell.point))), cell.point))
                continue
            step = _safe_step(point, plane[0], old)
            new += [Cell((*cell.signs, s), (point + s * step * plane[0]).applyfunc(tidy)) for s in (1, -1)]
        cells = new
    return cells


def _cells_on(plane, others) -> list[Cell]:
    """The cells that ``others`` cut out of one hyperplane, as cells of the whole space's coordinates."""
    normal, offset = plane
    origin = -offset * normal / (normal.T * normal)[0]
    directions = normal.T.nullspace()
    basis = sp.Matrix.hstack(*directions) if directions else sp.zeros(normal.rows, 0)
    inner = [((basis.T * a).applyfunc(tidy), tidy((a.T * origin)[0] + b)) for a, b in others]
    moving = [i for i, (a, _) in enumerate(inner) if any(sign(v) for v in a)]
    if any(i not in moving and sign(b) == 0 for i, (_, b) in enumerate(inner)):
        return []  # the same hyperplane again: it cuts nothing new
    found = []
    for cell in _cells([inner[i] for i in moving], basis.cols):
        signs = [sign(b) for _, b in inner]
        for i, s in zip(moving, cell.signs, strict=True):
            signs[i] = s
        found.append(Cell(tuple(signs), (origin + basis * cell.point).applyfunc(tidy)))
    return found


def _safe_step(point, direction, planes) -> sp.Expr:
    """A positive rational step from ``point`` along ``direction`` either way that crosses no plane."""
    step = sp.Integer(1)
    for plane in planes:
        slope, height = (plane[0].T * direction)[0], _height(plane, point)
        while sign(step * abs(slope) - abs(height)) >= 0:
            step /= 2
    return step
