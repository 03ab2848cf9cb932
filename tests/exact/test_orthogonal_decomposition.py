"""Folds of space: the creases one layer folds split into single directions and plane pencils, all perpendicular."""

import random
from collections import Counter
from itertools import combinations, product

import pytest
import sympy as sp
import torch
from exact_draws import rotation

from pso_lib.exact.folds import fold
from pso_lib.exact.origami import NotFlatFoldable, crossings
from pso_lib.exact.orthogonal_decomposition import Splitting, orthogonal_decomposition

FOUR = [(1, 0), (1, 1), (0, 1), (-1, 1)]
SIX = [(1, 0), (2, 1), (1, 1), (0, 1), (-1, 2), (-1, 1)]  # three directions and the same turned by 90 degrees
THIRTEEN = [d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]


def in_space(n: int, first: int, directions) -> list[sp.Matrix]:
    """Plane directions as vectors of R^n, in the coordinates first and first + 1."""
    rows = [sp.zeros(n, 1) for _ in directions]
    for row, (x, y) in zip(rows, directions, strict=True):
        row[first], row[first + 1] = x, y
    return rows


def foldable_sets() -> list[tuple[int, ...]]:
    """All sets of the thirteen planes that meet the condition of the theorem on one layer at every flat."""
    flats = {c.creases for c in crossings(THIRTEEN)}
    good = {}
    for flat in flats:
        for size in range(2, len(flat) + 1):
            for members in combinations(sorted(flat), size):
                (crossing,) = crossings([THIRTEEN[k] for k in members])
                good[members] = crossing.holds
    found = []
    for size in range(1, 14):
        for chosen in combinations(range(13), size):
            parts = (tuple(k for k in chosen if k in flat) for flat in flats)
            if all(good[part] for part in parts if len(part) > 1):
                found.append(chosen)
    return found


@pytest.mark.slow
def test_all_8191_sets_of_thirteen_planes():
    """Independent of the theorem: flats alone decide which sets fold; it must accept these and no other."""
    found = foldable_sets()
    spanning = [s for s in found if sp.Matrix([THIRTEEN[k] for k in s]).rank() == 3]
    assert Counter(map(len, spanning)) == {3: 4, 5: 9}
    for chosen in found:
        assert (
            orthogonal_decomposition([THIRTEEN[k] for k in chosen]).rank
            == sp.Matrix([THIRTEEN[k] for k in chosen]).rank()
        )
    source, known = random.Random(0), set(found)
    for _ in range(60):
        chosen = tuple(sorted(source.sample(range(13), source.randint(2, 9))))
        if chosen not in known:
            with pytest.raises(NotFlatFoldable):
                orthogonal_decomposition([THIRTEEN[k] for k in chosen])


def test_two_pencils_and_a_wall_fold_r5():
    source = random.Random(5)
    turn = rotation(source, 5)
    straight = in_space(5, 0, FOUR) + in_space(5, 2, SIX) + [sp.Matrix([0, 0, 0, 0, 1])]
    normals = [turn * a for a in straight]
    start = [sp.Rational(1, p) for p in (2, 3, 7, 11, 13)]
    folded = fold(rotation(source, 5), normals, start=start)
    x = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def error(layer) -> float:
        J = layer.jacobian(x)
        return (J.mT @ J - torch.eye(5, dtype=x.dtype)).abs().max().item()

    assert error(folded) < 1e-13
    # The proof's K, the mean of F's Jacobians at x and -x, vanishes on the span of the normals.
    assert sp.simplify(folded.M + folded.D * folded.G / 2) == sp.zeros(5, 5)
    assert orthogonal_decomposition(normals) == Splitting(((10,),), ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9)))
    for k in (0, 7, 10):
        moved = [a + sp.Rational(k == i, 50) * turn[:, 4 * (i < 10)] for i, a in enumerate(normals)]
        assert error(fold(sp.eye(5), moved, start=start)) > 1e-3
        with pytest.raises(NotFlatFoldable):
            orthogonal_decomposition(moved)
    shifted = [sp.Rational(k == 1, 9) for k in range(11)]  # one crease of a pencil leaves the common flat
    assert error(fold(sp.eye(5), normals, shifted, start=start)) > 1e-3
    with pytest.raises(NotFlatFoldable, match="one flat"):
        orthogonal_decomposition(normals, shifted)


def test_parallel_creases_and_pencils_off_the_origin():
    normals = [*in_space(3, 0, FOUR), [0, 0, 1], [0, 0, 2], [0, 0, -1]]
    offsets = [1, 3, 2, 1, 0, 5, 4]  # the pencil's flat is x = -1, y = -2
    assert orthogonal_decomposition(normals, offsets) == Splitting(((4, 5, 6),), ((0, 1, 2, 3),))
    assert orthogonal_decomposition([[3, 4], [-4, 3], [6, 8]], [0, 0, 1]) == Splitting(((0, 2), (1,)), ())
    start = ["1/3", "1/7", "1/11"]
    assert fold(sp.eye(3), normals, offsets, start=start).failures() == []


@pytest.mark.parametrize(
    ("normals", "offsets", "text"),
    [
        ([[1, 0], [1, 1]], None, "Kawasaki"),
        ([[1, 0], [0, 1], [1, 1]], None, "Kawasaki"),
        ([[1, 0], [1, 1], [0, 1], [-1, 1], [1, 0]], [0, 0, 0, 0, 1], r"\(0, 1, 2, 3, 4\).* one flat"),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], None, "one flat"),
    ],
)
def test_other_creases_are_refused_by_name(normals, offsets, text):
    with pytest.raises(NotFlatFoldable, match=text):
        orthogonal_decomposition(normals, offsets)
