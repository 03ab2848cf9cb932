"""Singular values and what is read off them."""

import pytest
import torch

from pso_lib.analysis import jacobian as jac
from pso_lib.analysis.spectrum import isometry_error, stable_rank
from pso_lib.nn.init import seeded


def points(count: int, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, n, generator=seeded(seed), dtype=torch.float64)


def test_stable_rank_and_isometry_error():
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))).item() == pytest.approx(1.5)
    assert stable_rank(torch.eye(5)).item() == 5
    assert stable_rank(1e-30 * torch.eye(5)).item() == 5  # no underflow
    assert isometry_error(torch.diag(torch.tensor([1.0, 2.0]))).item() == 3
    assert isometry_error(torch.eye(5)[:, :3]).item() == 0
    with pytest.raises(ValueError, match="zero matrix"):
        stable_rank(torch.zeros(2, 3, 3))


def test_half_precision_has_a_spectrum():
    M = points(4, 3).bfloat16()
    assert jac.singular_values(M).dtype == torch.float32
    torch.testing.assert_close(jac.singular_values(M), torch.linalg.svdvals(M.double()).float())
    assert 1 <= stable_rank(M) <= 3
