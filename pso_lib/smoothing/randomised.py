"""A few leading singular triples of a large matrix, by subspace iteration from random directions."""

import torch
from torch import Tensor

from pso_lib.errors import checked, require_matrix, require_positive_int
from pso_lib.norms import svd

__all__ = ["randomised_svd", "top_singular_value"]


@checked
def randomised_svd(
    M: Tensor, q: int, *, iterations: int = 4, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The q leading singular triples of M (m, n), approximately: U (m, q), s (q,), Vh (q, n). Halko and others (2011).

    The error falls as (sigma_{q+1} / sigma_i)^(2 iterations + 1): ask for more triples than you use. Measured at
    sigma_k, k the stable rank, q = 3 k, 4 iterations: 1e-8 where the spectrum decays like 1 / sqrt(i) or faster, but
    0.1 to 3 % where sigma_k lies in a flat bulk (Gaussian weights plus a few large directions, 768 and 2048 rows); 12
    iterations make that 0.3 % and less. With q = k and 2 iterations it is 13 %.

    Unlike ``torch.svd_lowrank`` it takes a generator (on any device; the global one if None).
    """
    q, iterations = require_positive_int("q", q), require_positive_int("iterations", iterations, least=0)
    require_matrix("M", M)
    if M.ndim != 2 or M.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"M has shape {tuple(M.shape)} and dtype {M.dtype}; it must be (m, n), float32 or float64.")
    m, n = M.shape
    if m < n:
        U, s, Vh = randomised_svd(M.mT, q, iterations=iterations, generator=generator)
        return Vh.mT, s, U.mT
    if q > n:
        raise ValueError(f"q={q} exceeds the {n} singular values of a matrix of shape {tuple(M.shape)}; give q <= {n}.")
    where = generator.device if generator is not None else M.device
    Q = torch.linalg.qr(M @ torch.randn(n, q, generator=generator, dtype=M.dtype, device=where).to(M.device))[0]
    for _ in range(iterations):  # orthonormalised each time: powers of M would drown the small values
        Q = torch.linalg.qr(M @ torch.linalg.qr(M.mT @ Q)[0])[0]
    U, s, Vh = svd(Q.mT @ M)
    return Q @ U, s, Vh


def top_singular_value(M: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Power iteration: sigma_1 of M (m, n) from below, and the direction v (n,) to start from the next time.

    A direction that a zero or overflowing M would spoil stays as it was.
    """
    v = v / v.norm()
    for _ in range(iterations):
        w = M.mT @ (M @ v)
        length = w.norm()
        v = torch.where((length > 0) & length.isfinite(), w / length, v)
    return (M @ v).norm(), v
