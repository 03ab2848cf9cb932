"""The cells that hyperplanes cut out of space."""

import random

import sympy as sp
from exact_draws import matrix, rational

from pso_lib.exact.arrangement import arrangement, facet_cells
from pso_lib.exact.symbolic import (
    sign,
)


def test_cells_of_hyperplanes_in_general_position():
    source = random.Random(0)
    for n, m in ((1, 4), (2, 5), (3, 4), (4, 4)):
        normals = [matrix(source, n, 1) + sp.Rational(1, 11) * sp.ones(n, 1) for _ in range(m)]
        offsets = [rational(source) for _ in range(m)]
        cells = arrangement(normals, offsets)
        assert len(cells) == sum(sp.binomial(m, k) for k in range(n + 1))  # Schläfli
        for cell in cells:
            heights = [(a.T * cell.point)[0] + b for a, b in zip(normals, offsets, strict=True)]
            assert tuple(sign(h) for h in heights) == cell.signs
        for cell in facet_cells(normals, offsets, 1):
            heights = [(a.T * cell.point)[0] + b for a, b in zip(normals, offsets, strict=True)]
            assert tuple(sign(h) for h in heights) == cell.signs and cell.signs[1] == 0


def test_cells_of_parallel_coincident_and_concurrent_lines():
    assert len(arrangement([[1, 0], [1, 0], [0, 1]], [0, 1, 0])) == 6
    assert len(arrangement([[1, 0], [2, 0], [0, 1]])) == 4
    assert len(arrangement([[1, 0], [0, 1], [1, 1], [1, -1]])) == 8
    assert len(arrangement([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])) == 12
