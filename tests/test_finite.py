"""What a number is in JSON."""

import math

import pytest

from pso_lib.finite import finite_or_none


@pytest.mark.parametrize("value", [0.0, -1.5, 1e308, 3])
def test_finite_ones_stay(value):
    assert finite_or_none(value) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_others_are_none(value):
    assert finite_or_none(value) is None
