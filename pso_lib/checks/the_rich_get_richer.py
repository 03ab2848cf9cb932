"""Checks of the chapter on how the singular values of weights grow during training."""

import torch
from torch.overrides import TorchFunctionMode

from pso_lib.analysis.singularity import stable_jacobian_energy, token_similarity
from pso_lib.analysis.spectrum import stable_rank
from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, seeded


@exercise("the-rich-get-richer/blow-up-time")
def _blow_up(time) -> str:
    """``time(N, start, drive)``: when sigma' = N drive sigma^(2 - 2/N) from ``start`` reaches infinity, N >= 3."""
    cases = [(3, 0.1, 1.0), (3, 0.1, 2.5), (4, 0.3, 0.5), (6, 0.05, 1.0)]
    answers = [require_shape(float(time(*case)), (), "the time").item() for case in cases]

    def matches(formula) -> bool:
        right = [formula(*case) for case in cases]
        return all(abs(a - b) <= 1e-6 * (1 + abs(b)) for a, b in zip(answers, right, strict=True))

    def correct(N, start, drive) -> float:
        return start ** (2 / N - 1) / (drive * (N - 2))

    if matches(correct):
        return "finite for every N of at least 3, and shorter for a richer start"
    mistakes = {
        "you left out the factor N of the law: all N layers push.": lambda N, s, c: N * correct(N, s, c),
        "the drive is missing: twice the drive takes half the time.": lambda N, s, c: c * correct(N, s, c),
        "this is the time to reach 1; asked is the time to reach infinity.": lambda N, s, c: (
            correct(N, s, c) - 1 / (c * (N - 2))
        ),
        "this is right for N = 3 alone; integrate with the exponent 2 - 2/N.": lambda N, s, c: s ** (-1 / 3) / c,
        "the sign is turned round: infinity lies ahead.": lambda N, s, c: -correct(N, s, c),
        "the start enters with the inverse power: a richer start blows up sooner.": lambda N, s, c: (
            s ** (1 - 2 / N) / (c * (N - 2))
        ),
    }
    for explanation, formula in mistakes.items():
        if matches(formula):
            wrong(explanation)
    wrong(f"for N = 3, start 0.1, drive 1 the time is {correct(*cases[0]):.4g}, not {answers[0]:.4g}.")


@exercise("the-rich-get-richer/spike-strength")
def _spike(strength) -> str:
    """``strength(n)``: the least theta at which the stable rank of Q + theta u v^T is 2, with Q v = u."""
    for n in (16, 64, 101):
        theta = require_shape(float(strength(n)), (), "the strength").item()
        right = (n - 1) ** 0.5 - 1
        if abs(theta - right) <= 1e-6 * n:
            continue
        if abs(theta - (n - 1) ** 0.5) <= 1e-6 * n:
            wrong("this is the singular value that is needed; Q brings 1 of it already.")
        if abs(theta - (n**0.5 - 1)) <= 1e-6 * n:
            wrong("n singular values of 1 and one more: but the spike replaces one of the n, so n - 1 are left.")
        if abs(theta - (n - 2)) <= 1e-6 * n or abs(theta - (n - 1)) <= 1e-6 * n:
            wrong("the stable rank is made of squares; take a root.")
        if abs(theta - ((n / 2) ** 0.5 - 1)) <= 1e-6 * n:
            wrong("the spike counts in the sum above the fraction line too.")
        if theta > 0:
            spiked = torch.eye(n, dtype=torch.float64)
            spiked[0, 0] += theta
            wrong(f"for n = {n} your {theta:.4g} gives a stable rank of {stable_rank(spiked):.4g}, not 2.")
        wrong(f"for n = {n} the strength is {theta:.4g}; a spike that sharpens is positive.")
    return "about the root of n: one rank-one term against n equal values"


@exercise("the-rich-get-richer/energy-by-hand")
def _energy(energy) -> str:
    """``energy(W, G)``: the SJE with k = floor(SR), over all pairs and over |G|^2: two numbers."""
    W, G = gaussian(7, 5, 1.0, seeded(0)), gaussian(7, 5, 1.0, seeded(1))
    answer = energy(W, G)
    if not isinstance(answer, torch.Tensor):
        answer = torch.tensor([float(value) for value in answer])
    answer = require_shape(answer, (2,), "the pair of energies")

    def close(*pair) -> bool:
        return torch.allclose(answer, torch.stack([torch.as_tensor(p, device="cpu").double() for p in pair]), atol=1e-6)

    def right(k="floor"):
        return [stable_jacobian_energy(W, G, k=k, denominator=d) for d in ("pairs", "gradient")]

    if close(*right()):
        return "the second is never larger: it also counts what only turns the singular vectors"
    if close(*right()[::-1]):
        wrong("the two are swapped: first over all pairs, then over the whole gradient.")
    if close(*right("ceil")):
        wrong("you round the stable rank up; asked is the floor.")
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    inner, k = ((U.mT @ G) * Vh).sum(1), int(stable_rank(W))
    if close(inner[:k].abs().sum() / inner.abs().sum(), inner[:k].abs().sum() / G.norm()):
        wrong("square each inner product: an energy is a sum of squares.")
    if close(inner[:k].square().sum() / inner.square().sum(), inner[:k].square().sum() / G.norm()):
        wrong("the second denominator is the squared norm of G.")
    if close(*(right(k=1))):
        wrong("you look at the first pair alone; take floor(SR) pairs.")
    spread = (U.mT @ G @ Vh.mT).square()
    if close(spread[:k, :k].sum() / spread.sum(), spread[:k, :k].sum() / G.square().sum()):
        wrong("you count u_i^T G v_j with i different from j too; only the pairs i = j belong to the energy.")
    weighted = (s * inner).square()
    if close(weighted[:k].sum() / weighted.sum(), weighted[:k].sum() / G.square().sum()):
        wrong("you weight the pairs by the singular values; they only choose which pairs lead.")
    wrong(f"expected {right()[0]:.4f} and {right()[1]:.4f}, got {answer[0]:.4f} and {answer[1]:.4f}.")


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


@exercise("the-rich-get-richer/similarity-in-linear-time")
def _similarity(similarity) -> str:
    """``similarity(h)``: the mean cosine over all pairs of different rows of h (T, d), without a T x T matrix."""
    T, d = 300, 8
    h = gaussian(T, d, 1.0, seeded(0)) + 0.5
    with _Watch() as watch:
        answer = similarity(h)
    answer = require_shape(answer, (), "the similarity").item()
    unit = h / h.norm(dim=1, keepdim=True)
    total = unit.sum(0).square().sum().item()
    right = token_similarity(h).item()
    if abs(answer - right) > 1e-9:
        plain, centred = h.sum(0).square().sum().item(), (total - T) / T**2
        mistakes = {
            "each token is also paired with itself in your mean; take those T pairs out.": total / T**2,
            "you took out the T pairs of a token with itself, but still divide by T^2.": centred,
            "the rows are not normalised: this is an inner product, not a cosine.": (plain - h.square().sum().item())
            / (T * (T - 1)),
            "you are off by a factor of 2: T (T - 1) / 2 pairs, each twice in the squared sum.": 2 * right,
            "this is one half of it: each pair stands twice in the squared sum and twice in T (T - 1).": right / 2,
        }
        for explanation, value in mistakes.items():
            if abs(answer - value) <= 1e-9:
                wrong(explanation)
        wrong(f"the mean cosine is {right:.6f}, not {answer:.6f}.")
    if watch.largest >= T * T:
        wrong(f"right, but it builds a tensor of {watch.largest:,} numbers for {T} tokens: quadratic. Sum first.")
    if watch.calls >= T:
        wrong(f"right, but it makes {watch.calls:,} calls for {T} tokens: a loop over tokens. Sum first.")
    return "one sum over the tokens instead of one over the pairs"
