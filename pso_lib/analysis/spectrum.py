"""The singular values of a matrix, and what is read off them."""

import torch
from torch import Tensor

from pso_lib.errors import UndefinedError, require_finite

__all__ = ["isometry_error", "singular_values", "spectrum_stable_rank", "stable_rank"]


def singular_values(M: Tensor) -> Tensor:
    """Singular values of (..., m, n) matrices in descending order, (..., min(m, n)).

    Values below machine epsilon times the largest are rounding, not spectrum. Half precision, of which LAPACK knows
    nothing, is taken as float32, and so are the values.
    """
    require_finite("M", M)
    return torch.linalg.svdvals(M.float() if M.dtype in (torch.float16, torch.bfloat16) else M)


def isometry_error(J: Tensor) -> Tensor:
    """max |J^T J - I| over the entries of each (..., m, n) matrix: 0 for orthonormal columns. Shape (...)."""
    gram = J.mT @ J
    return (gram - torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)).abs().amax((-2, -1))


def stable_rank(M: Tensor) -> Tensor:
    """The sum of the squared singular values over the largest squared, (..., m, n) to (...); between 1 and the rank."""
    return spectrum_stable_rank(singular_values(M))


def spectrum_stable_rank(s: Tensor) -> Tensor:
    """The stable rank of the matrices whose singular values are ``s``, largest first: (..., r) to (...)."""
    top = s[..., :1]
    if (top == 0).any():
        raise UndefinedError("M holds a zero matrix, whose stable rank is not defined; leave it out.")
    return ((s / top) ** 2).sum(-1)  # divided first: squares of tiny values would underflow
