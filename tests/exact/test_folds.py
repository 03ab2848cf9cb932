"""Folded maps at points of any type, and exact comparisons at any scale."""

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
import torch

from pso_lib.exact.folds import FoldedMap, fold, fold_directions, from_activation, from_fold
from pso_lib.exact.origami import crossings, kawasaki
from pso_lib.exact.symbolic import exact_matrix, in_order, sign


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integer_points_do_not_truncate_the_map(dtype):
    x = torch.tensor([[1, 0], [0, 1], [1, 1]]).to(dtype)
    for name in ("householder", "maxmin", "leaky_relu"):
        folded = from_activation(name)
        at, J = folded.torch(x), folded.jacobian(x)
        assert at.dtype == J.dtype == torch.get_default_dtype()
        torch.testing.assert_close(at, folded.torch(x.double()).float())
        torch.testing.assert_close(J, folded.jacobian(x.double()).float())


def test_householder_by_hand():
    """(1, -2) lies 1/2 - sqrt 3 beyond the line normal to (1, sqrt 3)/2, and goes to its mirror image."""
    height = 0.5 - math.sqrt(3)
    image = torch.tensor([1 - height, -2 - math.sqrt(3) * height])
    torch.testing.assert_close(from_activation("householder").torch(torch.tensor([1, -2])), image)


def test_offsets_of_a_fold_at_integer_points():
    folded = from_fold([[Fraction(3, 5), Fraction(4, 5)]], [Fraction(-1, 3)])
    exact = folded([2, 1])
    found = folded.torch(torch.tensor([[2, 1]]))[0]
    assert found.tolist() == pytest.approx([float(v) for v in exact], rel=1e-6)


@pytest.mark.parametrize("size", ["1/1000000000000", "1", "1000000000000"])
def test_the_directions_do_not_depend_on_the_scale_of_the_normals(size):
    """v = -2 Q a / |a|^2: a normal c times as long has a direction c times as short."""
    size, normals = sp.Rational(size), [[3, 4], [-4, 3]]
    found = fold_directions(sp.eye(2), [[size * v for v in a] for a in normals], [size, 2 * size])
    assert [size * v for v in found] == fold_directions(sp.eye(2), normals, [1, 2])
    assert fold(sp.eye(2), [[size, 0], [0, 1]]).is_orthogonal


@pytest.mark.parametrize("gap", ["1/1000", "1/10000000000000", "1/100000000000000000000000000000000000000000000"])
def test_creases_close_together_are_two(gap):
    """A strip between two parallel mirrors: beyond both, a translation by twice its width."""
    folded = fold(sp.eye(2), [[1, 0], [1, 0]], [0, -sp.Rational(gap)])
    assert folded.is_orthogonal
    assert folded([2, 0]) - sp.Matrix([2, 0]) == sp.Matrix([-2 * sp.Rational(gap), 0])


@pytest.mark.parametrize("gap", [10**-5, 10**-20, 10**-45])
def test_angles_are_sorted_exactly(gap):
    gap = sp.Rational(gap) if gap > 1e-15 else sp.Rational(1, 10 ** round(-math.log10(gap)))
    found = kawasaki([sp.pi / 3 + gap, sp.pi / 3, 1, sp.pi / 3 - gap])
    assert found.angles == (1, sp.pi / 3 - gap, sp.pi / 3, sp.pi / 3 + gap)
    assert all(sign(sector) > 0 for sector in found.sectors)


@pytest.mark.parametrize("tiny", [sp.Rational(1, 3), sp.Rational(1, 10**40)])
def test_creases_of_a_pencil_are_sorted_exactly(tiny):
    """In 0, -t, -2t (as slopes of the normals): their angles to the first are pi - t and pi - 2t."""
    (found,) = crossings([[1, 0], [0, 1], [1, -tiny], [1, -2 * tiny]])
    assert found.creases == (0, 1, 3, 2)


def test_a_crease_given_twice_is_named():
    with pytest.raises(ValueError, match="creases 0 and 2 are one"):
        crossings([[1, 0], [0, 1], [-2, 0]], [1, 0, -2])


def test_signs_at_any_scale():
    root = sp.sqrt(2)
    near = sp.Rational(str(root.evalf(60)))  # sixty digits of it
    assert sign(root * sp.Rational(1, 10**45)) == 1 and sign(-root / 10**300) == -1
    assert sign(root - near) == (1 if near**2 < 2 else -1) and sign(near - root) == -sign(root - near)
    assert sign(root * sp.sqrt(3) - sp.sqrt(6)) == 0
    assert in_order([root, near, 1]) == ([1, near, root] if near**2 < 2 else [1, root, near])


def test_arrays_and_tensors_are_taken_wherever_numbers_are():
    rows = [torch.tensor([1, 2]), np.array([3, 4]), (np.int64(5), torch.tensor(6))]
    assert exact_matrix("rows", rows) == sp.Matrix([[1, 2], [3, 4], [5, 6]])
    given = FoldedMap.build(torch.eye(2).long(), torch.tensor([[1, 0]]), np.array([0]), [torch.tensor([-2, 0])])
    assert given.is_orthogonal and given([3, 1]) == sp.Matrix([-3, 1])
    with pytest.raises(ValueError, match="this module is exact"):
        exact_matrix("rows", [torch.tensor([1.0, 2])])
