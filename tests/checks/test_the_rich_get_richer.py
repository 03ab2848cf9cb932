"""The checks of the chapter on growth: right answers pass in every fair form, likely mistakes are named."""

import math

import numpy as np
import sympy as sp
import torch
from exercise_cases import named, passes
from scipy.integrate import solve_ivp

from pso_lib.analysis.singularity import token_similarity
from pso_lib.analysis.spectrum import stable_rank
from pso_lib.checks import check


def time_to_ratio(N, rich, poor, ratio, drive):
    p = 1 - 2 / N
    return (rich**-p - ratio**-p * poor**-p) / (1 - ratio**-p) / ((N - 2) * drive)


def by_integration(N, rich, poor, ratio, drive):
    """A differential equation solver, stopped at the ratio."""

    def reached(t, y):
        return y[0] / y[1] - ratio

    reached.terminal = True
    end = rich ** (2 / N - 1) / ((N - 2) * drive)
    speed = lambda t, y: N * drive * np.maximum(y, 1e-9) ** (2 - 2 / N)  # noqa: E731
    return solve_ivp(speed, (0, end), [rich, poor], events=reached, rtol=1e-11, atol=1e-13).t_events[0][0]


def strength(n, k, rank):
    return math.sqrt((n - k) / (rank - k)) - 1


def sharpening(W, G):
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    top = U[:, 0] @ G @ Vh[0]
    return 2 * s.square().sum() * top / s[0] ** 3 - 2 * (W * G).sum() / s[0] ** 2


def by_autograd(W, G):
    return -torch.func.jvp(stable_rank, (W,), (G,))[1]


def by_differences(W, G, step=1e-5):
    return (stable_rank(W - step * G) - stable_rank(W + step * G)) / (2 * step)


def of_top_alone(W, G):
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    return 2 * s.square().sum() * (U[:, 0] @ G @ Vh[0]) / s[0] ** 3


def of_norm_alone(W, G):
    return -2 * (W * G).sum() / torch.linalg.matrix_norm(W, 2) ** 2


def unit(h):
    return h / h.norm(dim=1, keepdim=True)


def so_far(h):
    total, t = unit(h).cumsum(0).square().sum(1), torch.arange(1, len(h) + 1)
    return ((total - t) / (t * (t - 1)))[1:]


def with_numpy(h):
    rows = h.numpy() / np.linalg.norm(h.numpy(), axis=1, keepdims=True)
    t = np.arange(2, len(h) + 1)
    return ((rows.cumsum(0)[1:] ** 2).sum(1) - t) / (t * (t - 1))


def by_matrix(h):
    t = torch.arange(2, len(h) + 1)
    total = (unit(h) @ unit(h).T).cumsum(0).cumsum(1).diagonal()[1:]
    return (total - t) / (t * (t - 1))


def by_numpy_matrix(h):
    rows = unit(h).numpy()
    total, t = (rows @ rows.T).cumsum(0).cumsum(1).diagonal()[1:], np.arange(2, len(h) + 1)
    return (total - t) / (t * (t - 1))


def by_loop(h):
    total, out = torch.zeros_like(h[0]), []
    for t, row in enumerate(unit(h), 1):
        total = total + row
        out.append((total @ total - t) / (t * (t - 1)) if t > 1 else None)
    return torch.stack(out[1:])


def in_place(h):
    h.div_(h.norm(dim=1, keepdim=True))
    return so_far(h)


def changed(factor):
    """With (squared sum, t) to a mean."""
    return lambda h: factor(unit(h).cumsum(0).square().sum(1)[1:], torch.arange(2, len(h) + 1))


def inner_products(h):
    t = torch.arange(2, len(h) + 1)
    total = h.cumsum(0).square().sum(1) - h.square().sum(1).cumsum(0)
    return total[1:] / (t * (t - 1))


def of_earlier(h):
    sums = unit(h).cumsum(0)[:-1]
    return (sums * unit(h)[1:]).sum(1) / torch.arange(1, len(h))


TIME, SPIKE, SHARPEN, SIMILAR = (
    f"the-rich-get-richer/{name}"
    for name in ("time-to-ratio", "spike-strength", "does-it-sharpen", "similarity-so-far")
)
SOLUTIONS = {
    TIME: [time_to_ratio, by_integration, lambda *case: sp.Float(time_to_ratio(*case))],
    SPIKE: [
        strength,
        lambda *case: torch.tensor(strength(*case)).double(),
        lambda n, k, r: sp.sqrt((n - k) / (r - k)) - 1,
    ],
    SHARPEN: [sharpening, by_autograd, by_differences, lambda W, G: sharpening(W, G).item()],
    SIMILAR: [so_far, with_numpy],
}
MISTAKES = {
    TIME: [
        (lambda N, a, b, q, c: a ** (2 / N - 1) / ((N - 2) * c), "when the larger is infinite"),
        (lambda N, *rest: N * time_to_ratio(N, *rest), "factor N"),
        (lambda N, a, b, q, c: time_to_ratio(N, a, b, q, 1), "drive is missing"),
        (lambda N, *rest: time_to_ratio(3, *rest), "N = 3 alone"),
        (lambda N, a, b, q, c: time_to_ratio(N, a, b, q * a / b, c), "from that of the start"),
        (lambda N, a, b, q, c: (a ** (2 / N - 1) - (q * a) ** (2 / N - 1)) / ((N - 2) * c), "its own start"),
        (
            lambda N, a, b, q, c: math.log(q * b / a) / (N * c * (a ** (1 - 2 / N) - b ** (1 - 2 / N))),
            "speed up on the way",
        ),
        (lambda *case: -time_to_ratio(*case), "other sign"),
        (lambda *case: 7.0, "use its arguments"),
    ],
    SPIKE: [
        (lambda n, k, r: math.sqrt((n - k) / (r - k)), "brings 1"),
        (lambda n, k, r: math.sqrt(n / (r - k)) - 1, "n - k are left"),
        (lambda n, k, r: (n - k) / (r - k) - 1, "root"),
        (lambda n, k, r: math.sqrt((n - k) / r) - 1, "fraction line"),
        (lambda n, k, r: math.sqrt((n - 1) / (r - 1)) - 1, "there are k"),
        (lambda n, k, r: round(strength(n, k, r), 3), "three digits"),
        (strength(64, 1, 2), "the function itself"),
    ],
    SHARPEN: [
        (lambda W, G: -sharpening(W, G), "descent subtracts"),
        (of_norm_alone, "not the largest singular value"),
        (of_top_alone, "but not the norm"),
        (lambda W, G: sharpening(W, G) / 2, "factor 2"),
        (lambda W, G: sharpening(W, G) / stable_rank(W), "relative"),
        (lambda W, G: stable_rank(W - G) - stable_rank(W), "whole step"),
        (lambda W, G: of_norm_alone(W, G) + of_top_alone(W, G) / 2, "2 / sigma_1"),
        (lambda W, G: sharpening(W.neg_(), G), "in place"),
        (lambda W, G: sharpening(W, G).sign(), "right value"),
    ],
    SIMILAR: [
        (changed(lambda total, t: total / t**2), "with itself in your mean"),
        (changed(lambda total, t: (total - t) / t**2), "divide by t^2"),
        (changed(lambda total, t: total / (t * (t - 1))), "in the number of pairs"),
        (changed(lambda total, t: 2 * (total - t) / (t * (t - 1))), "factor of 2"),
        (inner_products, "normalised"),
        (of_earlier, "rows before it"),
        (by_matrix, "quadratic"),
        (by_numpy_matrix, "quadratic"),
        (by_loop, "loop"),
        (in_place, "in place"),
        (token_similarity, "shape"),
        (lambda h: (h.fill_(1.0), torch.ones(len(h) - 1))[1], "in place"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


def test_the_strength_gives_the_rank():
    W = torch.eye(40, dtype=torch.float64)
    W[:3, :3] *= 1 + strength(40, 3, 4.5)
    assert abs(stable_rank(W) - 4.5) < 1e-12


def test_blanks_are_no_answers():
    def time_to_ratio(N, rich, poor, ratio, drive):
        """When?"""
        ...

    assert check(TIME, time_to_ratio).passed is None
