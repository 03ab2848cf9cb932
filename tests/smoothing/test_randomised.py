"""The randomised decomposition of large weights."""

import pytest
import torch

from pso_lib.analysis.spectrum import stable_rank
from pso_lib.nn.init import seeded
from pso_lib.smoothing import randomised_svd


def orthonormal(m, r, seed):
    return torch.linalg.qr(torch.randn(m, r, generator=seeded(seed), dtype=torch.float64))[0]


def matrix(s, m=None, n=None, seed=0, dtype=torch.float64):
    """A matrix with the singular values s, and its singular vectors as columns."""
    s = torch.as_tensor(s, dtype=torch.float64)
    U, V = orthonormal(m or len(s), len(s), seed), orthonormal(n or len(s), len(s), seed + 1)
    return ((U * s) @ V.T).to(dtype), U, V


DECAYING, BULK = "decaying", "bulk"


def large(kind):
    """600 x 640: a spectrum that decays, stable rank 2.9, or a flat bulk below one large value, stable rank 24."""
    g = seeded(7)
    if kind == DECAYING:
        return matrix(torch.arange(1.0, 601) ** -0.7, 600, 640)[0].float()
    W = torch.randn(600, 640, generator=g) / 600**0.5
    u, v = torch.randn(600, generator=g), torch.randn(640, generator=g)
    return W + 5 * torch.outer(u / u.norm(), v / v.norm())


@pytest.mark.parametrize("kind, error", [(DECAYING, 1e-6), (BULK, 0.04)])
def test_the_error_of_the_randomised_svd(kind, error):
    W = large(kind)
    exact = torch.linalg.svdvals(W)
    k = int(stable_rank(W))
    U, s, Vh = randomised_svd(W, 3 * k, generator=seeded())
    wrong = (s[:k] / exact[:k] - 1).abs().max()
    assert wrong < error
    assert s[0].item() == pytest.approx(exact[0].item(), rel=1e-5)
    torch.testing.assert_close(U.T @ U, torch.eye(3 * k), rtol=0, atol=1e-5)
    torch.testing.assert_close(U.T @ W @ Vh.T, torch.diag(s), rtol=0, atol=1e-5)
    assert torch.equal(randomised_svd(W.T, 3 * k, generator=seeded())[1], s)  # tall or wide
    narrow = randomised_svd(W, k, iterations=2, generator=seeded())[1]
    assert (
        (narrow[k - 1] / exact[k - 1] - 1).abs() > 10 * wrong or kind == BULK and 1 - narrow[k - 1] / exact[k - 1] > 0.1
    )
    if kind == BULK:  # more iterations mend it
        more = randomised_svd(W, 3 * k, iterations=12, generator=seeded())[1]
        assert (more[:k] / exact[:k] - 1).abs().max() < 0.01
