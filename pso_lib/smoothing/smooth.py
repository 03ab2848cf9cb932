"""Make the leading singular values of a weight more alike, in place; its singular vectors and the rest stay.

Each method replaces sigma_1 >= … >= sigma_k by values between sigma_k and sigma_1. The paper names them; the
formulas of softplus, softmax and convolution, which the sources at hand do not give, are ours, chosen so that
multiplying W by a constant multiplies the result by it.

    clip          sigma_k                                             (the paper's text)
    log           sigma_k (1 + ln(sigma_i / sigma_k))                 (the paper's text)
    softplus      sigma_k softplus(sigma_i / sigma_k) / softplus(1)   (ours)
    softmax       sum_{j<=k} sigma_j, shared out as softmax(sigma / sigma_1)   (ours; keeps the sum)
    convolution   mean of sigma_{i-1}, sigma_i, sigma_{i+1}, ends repeated     (ours; keeps the sum)
    published     the top 5 % set to the next value, then everything times 0.25   (the authors' published GPT code)
    shrink        everything times 0.25                               (ours: the control for "published")

In the first four f(sigma) / sigma does not increase with sigma, so no ratio sigma_i / sigma_1 falls, and with them the
stable rank does not fall either. Under convolution it can: (10, 10, 1, 1) has stable rank 2.02, (10, 7, 4, 1) 1.66.

The paper's k is the stable rank rounded down. Then sigma_k >= sigma_1 / sqrt(r - k + 1), r singular values in all:
never tiny. And below a stable rank of 2, where a spectrum is most singular, k = 1 and the first five methods
change nothing: k="ceil" or a number does.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from pso_lib.analysis.singularity import leading_count, require_rounding
from pso_lib.errors import checked, require_choice, require_finite, require_floating, require_positive_int
from pso_lib.nn.weights import as_matrix
from pso_lib.norms import svd
from pso_lib.smoothing.randomised import randomised_svd, top_singular_value

__all__ = ["METHODS", "Smoothed", "plan_smoothing", "require_factor", "smooth_", "smoothed_spectrum"]

METHODS = ("clip", "log", "softplus", "softmax", "convolution", "published", "shrink")
FULL_UP_TO = 512  # above, a full SVD takes longer than a training step
_TOP_SHARE = 0.05  # of "published"


@dataclass(frozen=True, eq=False)
class Smoothed:
    """What a smoothing did, or would do, to one weight.

    Attributes:
        k: how many leading singular values it is about; 0 for a zero weight, which is left alone.
        before, after: the singular values that were computed, largest first; after ``method``.
        stable_rank_before, stable_rank_after: of the whole weight; NaN where it was not computed: under "shrink", which
            keeps it and needs no spectrum, and for a weight that is zero, or is so afterwards to within rounding.
        changed: whether the weight is another one now.
    """

    k: int
    before: Tensor
    after: Tensor
    stable_rank_before: float
    stable_rank_after: float
    _factor: float = field(repr=False)
    _update: tuple[Tensor, Tensor, Tensor] | None = field(repr=False)

    @property
    def changed(self) -> bool:
        return self._factor != 1 or self._update is not None

    @torch.no_grad()
    def apply_(self, W: Tensor) -> None:
        """Write to the weight that was planned for: what stays is added nothing to."""
        if self._update is not None:
            U, d, Vh = self._update
            W.add_(((U * d) @ Vh).reshape(W.shape))
        if self._factor != 1:
            W.mul_(self._factor)


@checked
def smoothed_spectrum(s: Tensor, method: str, k: int, *, factor: float = 0.25, rank: int | None = None) -> Tensor:
    """The singular values that take the place of ``s``, largest first: (r,) to (r,).

    Args:
        k: how many leading values; "shrink" has no use for it, and "published" takes 5 % of them instead.
        factor: of "shrink" and "published".
        rank: how many there are in all, if ``s`` holds the leading ones only.

    Raises:
        ValueError: an unknown method, k beyond ``s``, sigma_k = 0 (k beyond the rank), values out of order.
    """
    require_choice("method", method, METHODS)
    require_factor(factor)
    k = require_positive_int("k", k)
    require_floating("s", s)
    require_finite("s", s)
    if s.ndim != 1 or k > len(s):
        raise ValueError(f"k={k} of a spectrum of shape {tuple(s.shape)}; give s as (r,) and k <= r.")
    if (s[1:] > s[:-1]).any() or s[-1] < 0:
        raise ValueError("s must be singular values: not negative, largest first.")
    if method == "shrink":
        return s * factor
    if method == "published":
        return _published(s, rank or len(s)) * factor
    if s[k - 1] <= torch.finfo(s.dtype).eps * s[0]:
        raise ValueError(f"k={k}, but singular value {k} is {s[k - 1]:.2g}, zero to within rounding; give a smaller k.")
    if k == 1:  # nothing to compare sigma_1 with; and not to be moved by rounding
        return s.clone()
    return torch.cat([_SPECTRA[method](s[:k]), s[k:]])


@checked
def smooth_(
    W: Tensor,
    method: str = "clip",
    *,
    k: int | str = "floor",
    factor: float = 0.25,
    full_up_to: int = FULL_UP_TO,
    oversampling: int = 3,
    iterations: int = 4,
    generator: torch.Generator | None = None,
) -> Smoothed:
    """Smooth the spectrum of a weight in place: (out, in), or a kernel (out, in, *k) as (out, in * prod k).

    Args:
        method: one of ``METHODS``.
        k: "floor" or "ceil" of the stable rank, or a number.
        factor: of "shrink" and "published".
        full_up_to: weights whose smaller side is longer get a randomised SVD of ``oversampling`` times k triples,
            ``iterations`` and ``generator`` as in ``randomised_svd``; a full one if that is half of them or more.

    Raises:
        ValueError: a bad argument, or non-finite entries; the weight is then as it was.
    """
    plan = plan_smoothing(
        W, method, k=k, factor=factor, full_up_to=full_up_to, oversampling=oversampling, iterations=iterations,
        generator=generator,
    )  # fmt: skip
    plan.apply_(W)
    return plan


@checked
@torch.no_grad()
def plan_smoothing(
    W: Tensor,
    method: str = "clip",
    *,
    k: int | str = "floor",
    factor: float = 0.25,
    full_up_to: int = FULL_UP_TO,
    oversampling: int = 3,
    iterations: int = 4,
    generator: torch.Generator | None = None,
) -> Smoothed:
    """What ``smooth_`` would do, without touching the weight; ``apply_`` does it. Arguments as there."""
    require_choice("method", method, METHODS)
    k = require_rounding(k)
    require_factor(factor)
    full_up_to = require_positive_int("full_up_to", full_up_to)
    oversampling = require_positive_int("oversampling", oversampling)
    iterations = require_positive_int("iterations", iterations)
    if W.ndim < 2 or W.numel() == 0:
        raise ValueError(f"W has shape {tuple(W.shape)}; it must be a matrix or kernel, two axes or more, none empty.")
    if not W.is_floating_point():
        raise ValueError(f"W has dtype {W.dtype}; it must be floating point: only real weights can be smoothed.")
    M = as_matrix(W.detach())
    require_finite("W", M)
    if not M.any():
        return Smoothed(0, M.new_zeros(0), M.new_zeros(0), math.nan, math.nan, 1.0, None)
    if method == "shrink":  # no SVD: a spectrum that is multiplied keeps its stable rank
        return Smoothed(min(M.shape), M.new_zeros(0), M.new_zeros(0), math.nan, math.nan, factor, None)
    scale = M.abs().amax()  # squares of huge or tiny weights would leave the range of their type
    U, s, Vh = _decompose(M / scale, method, k, full_up_to, oversampling, iterations, generator)
    rank = min(M.shape)
    # the stable rank, also where only leading values are known; in the weight's own precision, see leading_count
    total = ((M / scale).square().sum() / s[0].square()).clamp(1, rank).to(M.dtype)
    count = _published_count(rank) if method == "published" else int(leading_count(total, k, rank=rank))
    new = smoothed_spectrum(s, method, max(1, count), factor=1.0, rank=rank)
    d = new - s
    touched = int(d.nonzero().max()) + 1 if d.any() else 0
    update = (U[:, :touched], d[:touched] * scale, Vh[:touched]) if touched else None
    # what a randomised SVD did not compute; as a residual, for a difference of squares would be rounding
    rest = (M / scale - (U * s) @ Vh).norm() if len(s) < rank else 0.0
    after = ((new / new[0]).square().sum() + (rest / new[0]) ** 2).item()
    if new[0] <= max(M.shape) * torch.finfo(M.dtype).eps * s[0]:  # "published" of rank 1: what is left is rounding
        after = math.nan
    factor = factor if method == "published" else 1.0
    before, later = ((values * scale).to(M.dtype) for values in (s, new * factor))
    return Smoothed(count, before, later, total.item(), after, factor, update)


def require_factor(factor: float) -> None:
    """Raise ``ValueError`` unless 0 < factor <= 1."""
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor <= 1:
        raise ValueError(f"factor must be a number above 0 and at most 1, got {factor!r}.")


def _decompose(M: Tensor, method: str, k, full_up_to: int, oversampling: int, iterations: int, generator):
    """The singular triples that the method needs, of M scaled to entries of at most 1."""
    rank = min(M.shape)
    if rank > full_up_to:
        q = oversampling * (_published_count(rank) + 1 if method == "published" else _expected_count(M, k, generator))
        if 2 * q < rank:
            return randomised_svd(M, q, iterations=iterations, generator=generator)
    return _full_svd(M)


def _full_svd(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For float32 through the Gram matrix in float64: less wrong than an SVD in float32, and faster.

    The Gram matrix loses what is below sqrt(eps) of float64, 1e-8 sigma_1; float32 has lost that already.
    """
    if M.dtype == torch.float64 or M.device.type == "mps":  # which has no float64
        return svd(M)
    if M.shape[0] < M.shape[1]:
        U, s, Vh = _full_svd(M.mT)
        return Vh.mT, s, U.mT
    A = M.double()
    squares, V = torch.linalg.eigh(A.mT @ A)  # smallest first
    s, V = squares.clamp(min=0).sqrt().flip(0), V.flip(1)
    s = torch.where(s > torch.finfo(M.dtype).eps * s[0], s, 0)
    return (A @ V) / torch.where(s > 0, s, 1), s, V.mT


def _expected_count(M: Tensor, k: int | str, generator: torch.Generator | None) -> int:
    """k before the SVD is there: power iteration finds sigma_1 from below, hence the stable rank from above."""
    if not isinstance(k, str):
        return k
    where = generator.device if generator is not None else M.device
    start = torch.randn(M.shape[1], generator=generator, dtype=M.dtype, device=where).to(M.device)
    top, _ = top_singular_value(M, start, 10)
    return math.ceil(M.square().sum().item() / top.square().item())


def _log(s: Tensor) -> Tensor:
    return s[-1] * (1 + torch.log(s / s[-1]))


def _softplus(s: Tensor) -> Tensor:
    return s[-1] * functional.softplus(s / s[-1]) / math.log1p(math.e)


def _softmax(s: Tensor) -> Tensor:
    return s.sum() * torch.softmax(s / s[0], 0)


def _convolution(s: Tensor) -> Tensor:
    padded = torch.cat([s[:1], s, s[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


_SPECTRA = {
    "clip": lambda s: s[-1].expand_as(s),
    "log": _log,
    "softplus": _softplus,
    "softmax": _softmax,
    "convolution": _convolution,
}


def _published_count(rank: int) -> int:
    return min(rank - 1, max(1, int(_TOP_SHARE * rank)))


def _published(s: Tensor, rank: int) -> Tensor:
    top = _published_count(rank)
    return torch.cat([s[top].expand(top), s[top:]]) if top else s
