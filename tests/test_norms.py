"""Lengths and cosines, against float64 and exact values, at sizes whose squares leave float32."""

import math

import pytest
import torch

from pso_lib.nn.init import seeded
from pso_lib.norms import cosines, norm, unit

SIZES = [1e-30, 1.0, 1e30]


@pytest.mark.parametrize("size", SIZES)
def test_against_float64(size):
    x = torch.randn(4, 5, generator=seeded()) * size
    lengths = x.double().norm(dim=-1)
    torch.testing.assert_close(norm(x).double(), lengths, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm(x, (0, 1)).double(), x.double().norm(), rtol=1e-6, atol=0)
    directions = x.double() / lengths[:, None]
    torch.testing.assert_close(unit(x).double(), directions, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(cosines(x).double(), directions @ directions.T, rtol=1e-6, atol=1e-6)


def test_zero_has_no_direction():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert norm(x).tolist() == [0.0, 5.0]
    assert unit(x).tolist()[0] == [0.0, 0.0]
    torch.testing.assert_close(cosines(x), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_half_precision_is_summed_in_float32():
    x = torch.full((70_000,), 2.0, dtype=torch.float16)  # the sum of squares is beyond float16
    assert norm(x).dtype == torch.float32 and norm(x).item() == pytest.approx(math.sqrt(280_000))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows(bad):
    assert not norm(torch.tensor([1.0, bad])).isfinite()


def test_one_row_has_nobody_to_compare_with():
    with pytest.raises(ValueError, match=r"x has shape \(3,\); its rows are compared, so it must be"):
        cosines(torch.ones(3))
