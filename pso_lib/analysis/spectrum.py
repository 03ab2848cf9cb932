"""The singular values of a matrix, and what is read off them."""

import torch
from torch import Tensor

from pso_lib.errors import UndefinedError, checked, require_finite, require_floating, require_matrix
from pso_lib.norms import svd

__all__ = ["isometry_error", "singular_values", "spectrum_stable_rank", "stable_rank"]


@checked
def singular_values(M: Tensor) -> Tensor:
    """Singular values of (..., m, n) matrices in descending order, (..., min(m, n)).

    Values below machine epsilon times the largest are rounding, not spectrum. Half precision, of which LAPACK knows
    nothing, is taken as float32, and so are the values.
    """
    if M.ndim < 2:
        raise ValueError(f"M has shape {tuple(M.shape)}; it must be (..., m, n).")
    require_floating("M", M)
    require_finite("M", M)
    M = M.float() if M.dtype in (torch.float16, torch.bfloat16) else M
    try:
        return torch.linalg.svdvals(M)
    except torch.linalg.LinAlgError:
        return svd(M)[1]


@checked
def isometry_error(J: Tensor) -> Tensor:
    """max |J^T J - I| over the entries of each (..., m, n) matrix: 0 for orthonormal columns. Shape (...).

    Not finite where the matrix is not, as that of a network that has overflowed.
    """
    require_matrix("J", J, finite=False)
    gram = J.mT @ J
    return (gram - torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)).abs().amax((-2, -1))


@checked
def stable_rank(M: Tensor) -> Tensor:
    """The sum of the squared singular values over the largest squared, (..., m, n) to (...); between 1 and the rank.

    The kernel of a convolution, (out, in, h, w), is the matrix ``W.flatten(1)``; as it stands it is many small ones.
    """
    require_matrix("M", M)
    return spectrum_stable_rank(singular_values(M))


@checked
def spectrum_stable_rank(s: Tensor) -> Tensor:
    """The stable rank of the matrices whose singular values are ``s``, largest first: (..., r) to (...)."""
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ValueError(f"s has shape {tuple(s.shape)}; it must be (..., r), r at least 1.")
    require_finite("s", s)
    top = s[..., :1]
    if (top == 0).any():
        raise UndefinedError("M holds a zero matrix, whose stable rank is not defined; leave it out.")
    return ((s / top) ** 2).sum(-1)  # divided first: squares of tiny values would underflow
