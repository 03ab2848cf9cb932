"""Lengths and directions that neither underflow nor overflow: divided by the largest entry before anything is squared.

Half precision becomes float32, whose sums it could not hold.
"""

import torch
from torch import Tensor

from pso_lib.errors import checked

__all__ = ["cosines", "norm", "unit"]


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


def _scaled(x: Tensor, dim) -> tuple[Tensor, Tensor]:
    """x with its largest entry along ``dim`` at 1, and what it was divided by."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    size = x.abs().amax(dim, keepdim=True)
    size = torch.where((size > 0) & size.isfinite(), size, 1)
    return x / size, size
