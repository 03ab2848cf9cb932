"""Lengths and directions that neither underflow nor overflow, and singular values where LAPACK gives up.

Lengths are divided by the largest entry before anything is squared. Half precision becomes float32: it could not hold
the sums.
"""

from contextlib import suppress

import torch
from torch import Tensor

from pso_lib.errors import checked

__all__ = ["cosines", "norm", "svd", "unit"]


@checked
def norm(x: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """The Euclidean length along ``dim``, right wherever it can be written; not finite where an entry is not."""
    x, size = _scaled(x, dim)
    return x.square().sum(dim).sqrt() * size.squeeze(dim)


@checked
def unit(x: Tensor, dim: int = -1) -> Tensor:
    """``x`` over its length along ``dim``; zero vectors stay zero."""
    x, _ = _scaled(x, dim)
    length = x.square().sum(dim, keepdim=True).sqrt()  # at least 1, or 0
    return x / torch.where(length > 0, length, 1)


@checked
def cosines(x: Tensor) -> Tensor:
    """The cosines between all pairs of rows, (..., N, d) to (..., N, N); 0 for pairs with a zero row."""
    if x.ndim < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; its rows are compared, so it must be (..., N, d).")
    u = unit(x)
    return u @ u.mT


@checked
def svd(M: Tensor, full_matrices: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, Vh of (..., m, n) matrices, as ``torch.linalg.svd``, also where that does not converge.

    LAPACK's divide and conquer now and then gives up on equal singular values, as those of an isometry are. The
    transposed matrix, or its rows in reversed order, takes it another way.

    Raises:
        torch.linalg.LinAlgError: no way converges.
    """
    with suppress(torch.linalg.LinAlgError):
        return tuple(torch.linalg.svd(M, full_matrices=full_matrices))
    with suppress(torch.linalg.LinAlgError):
        V, s, Uh = torch.linalg.svd(M.mT.contiguous(), full_matrices=full_matrices)
        return Uh.mT, s, V.mT
    U, s, Vh = torch.linalg.svd(M.flip(-2), full_matrices=full_matrices)
    return U.flip(-2), s, Vh


def _scaled(x: Tensor, dim) -> tuple[Tensor, Tensor]:
    """x with its largest entry along ``dim`` at 1, and what it was divided by."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    size = x.abs().amax(dim, keepdim=True)
    size = torch.where((size > 0) & size.isfinite(), size, 1)
    return x / size, size
