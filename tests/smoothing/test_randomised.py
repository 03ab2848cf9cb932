"""The randomised decomposition of large weights."""

import pytest
import torch
from small_models import BULK, DECAYING, large

from pso_lib.analysis.spectrum import stable_rank
from pso_lib.nn.init import seeded
from pso_lib.smoothing import randomised_svd


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
