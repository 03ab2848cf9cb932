"""Lengths and cosines, against float64 and exact values, at sizes whose squares leave float32."""

import math

import pytest
import torch

from pso_lib.nn.init import seeded
from pso_lib.norms import cosines, norm, svd, unit

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


@pytest.mark.parametrize("failures", [0, 1, 2])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 4, 4)])
def test_svd_goes_another_way_where_lapack_gives_up(monkeypatch, failures, full, shape):
    M = torch.randn(*shape, dtype=torch.float64, generator=seeded())
    real, calls = torch.linalg.svd, []

    def fails_at_first(*args, **options):
        calls.append(1)
        if len(calls) <= failures:
            raise torch.linalg.LinAlgError("failed to converge")
        return real(*args, **options)

    monkeypatch.setattr(torch.linalg, "svd", fails_at_first)
    U, s, Vh = svd(M, full_matrices=full)
    r, (m, n) = min(shape[-2:]), shape[-2:]
    assert U.shape[-2:] == (m, m if full else r) and Vh.shape[-2:] == (n if full else r, n)
    torch.testing.assert_close((U[..., :r] * s.unsqueeze(-2)) @ Vh[..., :r, :], M)
    torch.testing.assert_close(s, torch.linalg.svdvals(M))
    for Q in (U, Vh.mT):
        torch.testing.assert_close(Q.mT @ Q, torch.eye(Q.shape[-1], dtype=M.dtype).expand(*Q.shape[:-2], -1, -1))
    assert len(calls) == failures + 1


def test_svd_that_no_way_converges_says_so(monkeypatch):
    def fails(*args, **options):
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    with pytest.raises(torch.linalg.LinAlgError):
        svd(torch.eye(2))
