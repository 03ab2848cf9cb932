"""Checks of the chapter on how the singular values of weights grow during training."""

import math
import tracemalloc
from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pso_lib.checks._compare import call, require_function
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, seeded


def _time_to_ratio(N: int, rich: float, poor: float, ratio: float, drive: float) -> float:
    p = 1 - 2 / N  # sigma^-p falls at the constant speed (N - 2) drive
    w = ratio**-p
    return (rich**-p - w * poor**-p) / ((1 - w) * (N - 2) * drive)


@exercise("the-rich-get-richer/time-to-ratio", points=2)
def _ratio(time_to_ratio) -> str:
    """``time_to_ratio(N, rich, poor, ratio, drive)``: when the larger is ``ratio`` times the smaller, N >= 3."""
    right = _time_to_ratio
    require_function(
        time_to_ratio,
        right,
        [(3, 0.4, 0.2, 5.0, 1.0), (4, 0.3, 0.1, 10.0, 0.5), (6, 0.05, 0.04, 2.0, 2.5), (3, 0.1, 0.01, 11.0, 0.7)],
        {
            "this is when the larger is infinite; its ratio to the smaller is `ratio` before that.": (
                lambda N, a, b, q, c: a ** (2 / N - 1) / ((N - 2) * c)
            ),
            "you left out the factor N of the law: all N layers push.": lambda N, *rest: N * right(N, *rest),
            "the drive is missing: twice the drive takes half the time.": lambda N, a, b, q, c: right(N, a, b, q, 1.0),
            "this is right for N = 3 alone; the exponent is 2 - 2/N.": lambda N, *rest: right(3, *rest),
            "you count the ratio from that of the start; asked is the ratio itself.": (
                lambda N, a, b, q, c: right(N, a, b, q * a / b, c)
            ),
            "this is when the larger is `ratio` times its own start; the smaller one grows as well.": (
                lambda N, a, b, q, c: (1 - q ** (2 / N - 1)) * a ** (2 / N - 1) / ((N - 2) * c)
            ),
            "you keep the relative speeds of the start; both values speed up on the way.": (
                lambda N, a, b, q, c: math.log(q * b / a) / (N * c * (a ** (1 - 2 / N) - b ** (1 - 2 / N)))
            ),
        },
        what="the time",
    )
    return "sigma^(2/N - 1) falls in a straight line, for both alike; the ratio is infinite when the first arrives at 0"


@exercise("the-rich-get-richer/spike-strength", points=1)
def _spike(strength) -> str:
    """``strength(n, k, rank)``: the theta at which Q + theta sum_(i <= k) u_i v_i^T, Q v_i = u_i, has this rank."""
    require_function(
        strength,
        lambda n, k, rank: ((n - k) / (rank - k)) ** 0.5 - 1,
        [(64, 1, 2.0), (16, 3, 5.0), (101, 10, 11.5)],
        {
            "this is the singular value that is needed; Q brings 1 of it already.": (
                lambda n, k, rank: ((n - k) / (rank - k)) ** 0.5
            ),
            "the spikes replace k of the n values 1, so that n - k are left.": (
                lambda n, k, rank: (n / (rank - k)) ** 0.5 - 1
            ),
            "the stable rank is made of squares; take a root.": lambda n, k, rank: (n - k) / (rank - k) - 1,
            "the spikes count in the sum above the fraction line too: each of them gives 1.": (
                lambda n, k, rank: ((n - k) / rank) ** 0.5 - 1
            ),
            "you count one spike; there are k.": lambda n, k, rank: ((n - 1) / (rank - 1)) ** 0.5 - 1,
        },
        what="the strength",
    )
    return "k directions and about the root of n / (rank - k): sharpening is cheap"


def _sharpening(W: Tensor, G: Tensor) -> Tensor:
    U, s, Vh = torch.linalg.svd(W)
    return 2 * (W.square().sum() * (U[:, 0] @ G @ Vh[0]) / s[0] ** 3 - (W * G).sum() / s[0] ** 2)


def _rank(W: Tensor) -> Tensor:
    s = torch.linalg.svdvals(W)
    return s.square().sum() / s[0] ** 2


@exercise("the-rich-get-richer/does-it-sharpen", points=3)
def _sharpen(sharpening) -> str:
    """``sharpening(W, G)``: the derivative of the stable rank of W - eta G by eta, at eta = 0."""
    cases = [
        (gaussian(*shape, 1.0, seeded(i)), gaussian(*shape, 1.0, seeded(9 + i))) for i, shape in enumerate(_SHAPES)
    ]
    right = _sharpening
    require_function(
        sharpening,
        right,
        cases,
        {
            "this is the derivative along + G; a step of gradient descent subtracts it.": lambda W, G: -right(W, G),
            "you let the norm change, but not the largest singular value.": (
                lambda W, G: -2 * (W * G).sum() / _top(W) ** 2
            ),
            "you let the largest singular value change, but not the norm.": (
                lambda W, G: right(W, G) + 2 * (W * G).sum() / _top(W) ** 2
            ),
            "the derivative of a square has a factor 2.": lambda W, G: right(W, G) / 2,
            "this is the change relative to the stable rank; asked is the derivative itself.": (
                lambda W, G: right(W, G) / _rank(W)
            ),
            "this is the change over a whole step of size 1; asked is the derivative at 0.": (
                lambda W, G: _rank(W - G) - _rank(W)
            ),
            "the largest singular value enters squared: its derivative comes with 2 / sigma_1.": (
                lambda W, G: (right(W, G) - 2 * (W * G).sum() / _top(W) ** 2) / 2
            ),
        },
        tol=1e-5,
        what="the derivative",
    )
    return "only <W, G> and u_1^T G v_1 enter: a step sharpens when it feeds the first value more than its share"


_SHAPES = ((6, 4), (5, 5), (4, 7))


def _top(W: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(W, 2)


class _Watch(TorchFunctionMode):
    """Notes the largest tensor that any torch function returns, and how many are called."""

    def __init__(self):
        super().__init__()
        self.largest = self.calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls += 1
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.numel())
        return result


def _so_far(h: Tensor, mean: Callable | None = None) -> Tensor:
    """Over the first t rows, t = 2, 3, …: ``mean`` of the sum of all cosines, also of a row with itself, and of t."""
    unit = h / h.norm(dim=1, keepdim=True)
    gram, mean = unit @ unit.T, mean or (lambda total, t: (total - t) / (t * (t - 1)))
    return torch.stack([mean(gram[:t, :t].sum(), t) for t in range(2, len(h) + 1)])


@exercise("the-rich-get-richer/similarity-so-far", points=2)
def _similarity(similarity_so_far) -> str:
    """``similarity_so_far(h)``: of the first 2, 3, … T rows of h (T, d) the mean cosine over pairs, in linear time."""
    h = gaussian(300, 8, 1.0, seeded(0)) + 0.5
    unit, plain = h / h.norm(dim=1, keepdim=True), h @ h.T
    require_function(
        similarity_so_far,
        _so_far,
        [(h,)],
        {
            "each row is also paired with itself in your mean; take those t pairs out.": (
                lambda h: _so_far(h, lambda total, t: total / t**2)
            ),
            "you took out the t pairs of a row with itself, but still divide by t^2.": (
                lambda h: _so_far(h, lambda total, t: (total - t) / t**2)
            ),
            "you left the t pairs of a row with itself in the sum, and not in the number of pairs.": (
                lambda h: _so_far(h, lambda total, t: total / (t * (t - 1)))
            ),
            "the rows are not normalised: this is an inner product, not a cosine.": lambda h: torch.stack(
                [(plain[:t, :t].sum() - plain[:t, :t].trace()) / (t * (t - 1)) for t in range(2, len(h) + 1)]
            ),
            "this is each row against the rows before it; asked is the mean over all pairs so far.": (
                lambda h: torch.stack([(unit[:t] @ unit[t]).mean() for t in range(1, len(h))])
            ),
            "a factor of 2: the squared sum holds each pair twice, and t (t - 1) counts it twice.": (
                lambda h: 2 * _so_far(h)
            ),
        },
        what="the list of means",
    )
    _require_linear(similarity_so_far, h)
    return "one running sum over the rows instead of one over the pairs"


def _require_linear(function: Callable, h: Tensor) -> None:
    T = len(h)
    tracemalloc.start()  # sees what numpy allocates
    with _Watch() as watch:
        call(function, h)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if watch.largest >= T * T or memory >= 4 * T * T:
        wrong(f"right, but for {T} rows it builds a table of all pairs: quadratic. Sum first.")
    if watch.calls >= T:
        wrong(f"right, but it makes {watch.calls:,} calls for {T} rows: a loop over rows. Sum first.")
