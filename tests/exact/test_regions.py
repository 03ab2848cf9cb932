"""Regions among floats against the exact ones: deep, contracting, expanding, and where creases fall together."""

import math
import random

import numpy as np
import pytest
import sympy as sp

from pso_lib.exact.hinges import hinged_layer
from pso_lib.exact.regions import Region, regions


def stack(depth: int, shrink, seed: int = 1) -> list:
    """Plane layers with small rational weights; each one's output is ``shrink`` times that of shrink = 1."""
    draw = random.Random(seed)

    def rational(most: int) -> sp.Rational:
        return sp.Rational(draw.randint(-most, most), 16)

    def matrix(most: int, scale) -> list:
        return [[scale * rational(most) for _ in range(2)] for _ in range(2)]

    shrink, layers = sp.Rational(shrink), []
    for index in range(depth):
        A, b = matrix(16, 1), [rational(8) * shrink**index for _ in range(2)]
        layers.append(hinged_layer(A, b, B=matrix(8, shrink), alpha=shrink))
    return layers


BOX = ((-1, 0), (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("shrink", ["1/8", "1/2", "1", "16"])
@pytest.mark.parametrize("depth", [20, 40])
def test_deep_networks_have_the_same_regions_among_floats(depth, shrink):
    """At 1/8 the states are 1e-18 of the input after 20 layers, 1e-36 after 40; at 16 they are 1e24 and 1e48."""
    layers = stack(depth, shrink)
    exact = {region.patterns: region for region in regions(layers, BOX)}
    floats = {region.patterns: region for region in regions(layers, BOX, number="float")}
    assert len(exact) > 50 and floats.keys() == exact.keys()
    for patterns, region in exact.items():
        found, J = floats[patterns], np.array(region.J.tolist(), dtype=float)
        assert abs(found.J - J).max() <= 1e-12 * abs(J).max()
        assert found.area == pytest.approx(float(region.area), rel=1e-6)
        image = np.array(region.image, dtype=float)
        assert abs(np.array(found.image) - image).max() <= 1e-10 * abs(image).max()


def test_a_cut_lies_on_its_own_crease():
    """Left of -5e-6 the slope is -0.6, right of it 0: the crease's rounded place is on neither side of it."""
    left, right = sorted(
        regions(hinged_layer([["-3/5", 0]], ["-3/1000000"], B=[[1, 0]]), number="float"), key=lambda r: r.centre
    )
    assert left.J[0].tolist() == [-0.6, 0] and right.J[0].tolist() == [0, 0]
    assert left.centre[0] == pytest.approx(-0.5000025) and right.centre[0] == pytest.approx(0.4999975)


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("offset", ["1/1000", "1/10000", "1/100000", "1/1000000", "1/10000000"])
@pytest.mark.parametrize("seed", range(4))
def test_creases_close_to_each_other_and_to_the_origin(seed, offset, alpha):
    """Corners are where numbers of size 1 cancel: known to a rounding of these, not of themselves."""
    draw = random.Random(seed)

    def matrix() -> list:
        return [[sp.Rational(draw.randint(-16, 16), 16) for _ in range(2)] for _ in range(3)]

    def layer():
        return hinged_layer(matrix(), [sp.Rational(offset) * a[0] for a in matrix()], B=matrix(), alpha=alpha)

    layers = [layer(), layer()]
    exact = {region.patterns: region for region in regions(layers)}
    found = regions(layers, number="float")
    assert len(found) == len(exact)
    for region in found:
        twin = exact[region.patterns]
        assert region.J.tolist() == np.array(twin.J.tolist(), dtype=float).tolist()
        assert region.area == pytest.approx(float(twin.area), rel=1e-6)


@pytest.mark.parametrize("legs", [(3, 4, 5), (5, 12, 13), (8, 15, 17), (20, 21, 29)])
def test_what_a_projection_sends_to_zero_has_no_creases_any_more(legs):
    """I - A^T A is 1e-17 among floats: the next layer shall not cut along it."""
    p, q, r = map(sp.Integer, legs)
    project = hinged_layer([[p / r, q / r], [-q / r, p / r]], alpha=1, beta=-1)
    fold = hinged_layer([[q / r, p / r], [-p / r, q / r]], ["1/3", 0], alpha=1, beta=-1)
    for layers in ([project] * 3, [project, fold] * 2):
        patterns = [region.patterns for region in regions(layers, number="float")]
        assert sorted(patterns) == sorted(region.patterns for region in regions(layers))


@pytest.mark.parametrize("degrees", range(3, 180, 11))
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_crease_that_is_there_already_is_not_cut_along_again(degrees, scale):
    """Folded twice along one line: what lies on it does so to within rounding only."""
    turn = math.radians(degrees)
    A = [[sp.Rational(math.cos(turn)), sp.Rational(math.sin(turn))]]
    square = sum(a**2 for a in A[0])  # 1 to within rounding
    fold = hinged_layer(A, [sp.Rational(scale) / 3], alpha=1, beta=-2 / square)
    assert len(regions([fold] * 4, ((-scale, scale), (-scale, scale)), number="float")) == 2


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("width, count", [(1e-10, 3), (1e-15, 2)])
def test_a_narrow_strip_is_a_region_down_to_rounding(scale, width, count):
    edges = [sp.Rational(-0.3 * scale), sp.Rational(-(0.3 + width) * scale)]
    layer = hinged_layer([[1, 0], [1, 0]], edges)
    found = regions(layer, ((-scale, scale), (-scale, scale)), number="float")
    assert len(found) == count


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_point_beside_a_region_is_not_in_it_at_any_scale(scale):
    (square,) = regions(hinged_layer([[0, 0]]), ((-scale, scale), (-scale, scale)), number="float")
    inside = [(0.0, 0.0), (scale, scale / 3), (scale * (1 + 1e-15), 0.0)]
    outside = [(1.000001 * scale, 0.0), (0.0, -1.000001 * scale), (scale, 2 * scale)]
    assert [square.contains(p) for p in inside + outside] == [True] * 3 + [False] * 3


def test_corners_of_a_turned_region_are_in_it():
    turned = [(math.cos(t), math.sin(t)) for t in (0.1, 1.7, 3.3, 4.9)]
    for scale in (1e-12, 1e12):
        corners = tuple((scale * (x + 3), scale * y) for x, y in turned)
        region = Region(corners, (), np.eye(2), np.zeros((2, 1)))
        assert all(region.contains(corner) for corner in corners)
