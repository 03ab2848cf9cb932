"""What depth adds to folding: an odd pencil in three layers, and many pieces from few units."""

import pytest
import sympy as sp

from pso_lib.exact import folds, origami
from pso_lib.exact.regions import facets, regions


def layer(angle, offset=0):
    """One fold that keeps the negative side of the normal at this angle (degrees)."""
    return folds.from_fold([list(origami.unit_normal(sp.rad(angle)))], [offset])


def test_three_lines_fold_in_three_layers_but_not_in_one():
    angles = (0, 60, 120)
    found = regions([layer(angle) for angle in angles])
    assert len(found) == 6
    assert all(region.J.T * region.J == sp.eye(2) for region in found)
    # The creases of the stack are the three full lines: both rays of each.
    creased = [facet for facet in facets(found) if not facet.jump.is_zero_matrix]
    assert len(creased) == 6
    for angle in angles:
        normal = origami.unit_normal(sp.rad(angle))
        assert sum(sp.simplify(normal.dot(sp.Matrix(f.end) - sp.Matrix(f.start))) == 0 for f in creased) == 2
    with pytest.raises(origami.NotFlatFoldable):
        origami.fold_pencil([sp.rad(angle) for angle in angles])


def test_a_stack_of_folds_keeps_every_area():
    stack = [layer(180), layer(270), layer(150), layer(165, "39/100"), layer(45, "-69/100")]
    found = regions(stack, number="float")
    assert len(found) > 16
    for region in found:
        assert abs(region.J.T @ region.J - [[1, 0], [0, 1]]).max() < 1e-12
    assert sum(region.area for region in found) == pytest.approx(4, abs=1e-12)
