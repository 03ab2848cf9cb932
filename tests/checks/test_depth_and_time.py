"""The checks of the chapter on depth and time: right answers pass in every fair form, likely mistakes are named."""

import math

import sympy as sp
import torch
from exercise_cases import named, passes

from pso_lib.checks import check
from pso_lib.experiments.survival import distance
from pso_lib.nn.weights import hidden_matrices


def largest_move(t, beta1, beta2):
    """By the chapter's formula."""
    q = beta1**2 / beta2
    ratio = (1 - beta2**t) / (1 - beta2) * (1 - q**t) / (1 - q)
    return (1 - beta1) / (1 - beta1**t) * math.sqrt(ratio)


def moved(steps, *betas):
    return sum(largest_move(t, *betas) for t in range(1, steps + 1))


def rate_allowed(L, n, steps, *betas):
    return (1.5 ** (1 / (2 * L)) - 1) / (n * moved(steps, *betas))


def by_root_finding(L, n, steps, *betas):
    """Bisection of the budget itself."""
    low, high = 0.0, 1.0
    for _ in range(80):
        rate = (low + high) / 2
        m = n * rate * moved(steps, *betas)
        low, high = (rate, high) if (1 + 2 * m + m**2) ** L <= 1.5 else (low, rate)
    return low


def depth_until(n, weights, alive, rank):
    return math.floor(math.log((alive - 1) / (rank - 1)) / (2 * math.log((n - 1) / (weights - 1)))) + 1


def by_matrices(n, weights, alive, rank):
    """The stable rank of a true product, layer by layer."""
    sigma = math.sqrt((n - 1) / (weights - 1))
    top = torch.ones(n, dtype=torch.float64)
    top[0] = sigma
    G, keeps, L = torch.ones(n, dtype=torch.float64), (torch.arange(n) < alive).double(), 0
    while L == 0 or (G / G[0]).square().sum() >= rank:
        G, L = top * keeps * top * G, L + 1
        G = G / G[0]
    return L


def sigma(W):
    return torch.linalg.svdvals(W)


def spring(of):
    return lambda network, first: sum(of(W, first[name]) for name, W in hidden_matrices(network).items())


spectral = spring(lambda W, V: (sigma(W) - sigma(V)).square().sum())


def by_nearest(W, V):
    """The distance to the nearest matrix with the spectrum of V."""
    U, _, Vh = torch.linalg.svd(W)
    return (W - (U * sigma(V)) @ Vh).square().sum()


def with_the_ends(network, first):
    return spectral(network, first) + sum(sigma(m.weight).sum() for m in (network.lift, network.readout))


def written(network, first):
    with torch.no_grad():
        for name, W in hidden_matrices(network).items():
            W.sub_(first[name])
    return spectral(network, first)


def stacks(network):
    return [torch.stack([getattr(layer, name) for layer in network.layers]) for name in "AB"]


def alike(network):
    return sum((W - W.mean(0)).square().sum() for W in stacks(network))


def half_seen(network):
    A, B = stacks(network)
    return (A - A.mean(0)).square().sum() + (B - B.mean(0)).square().sum().detach()


RATE, UNTIL, SPRING, ALIKE = (
    f"depth-and-time/{name}" for name in ("rate-allowed", "depth-until", "spectral-spring", "alike-penalty")
)
SOLUTIONS = {
    RATE: [rate_allowed, by_root_finding, lambda *case: sp.Float(rate_allowed(*case))],
    UNTIL: [depth_until, by_matrices, lambda *case: torch.tensor(depth_until(*case))],
    SPRING: [spectral, spring(by_nearest), spring(lambda W, V: (torch.linalg.svd(W)[1] - sigma(V)).norm() ** 2)],
    ALIKE: [alike, lambda n: sum(len(W) * W.var(0, correction=0).sum() for W in stacks(n))],
}
MISTAKES = {
    RATE: [
        (lambda L, n, steps, *b: (1.5 ** (0.5 / L) - 1) / (n * steps), "as large as the first"),
        (lambda L, n, steps, *b: (1.5 ** (0.5 / L) - 1) / (n * largest_move(steps, *b)), "last step alone"),
        (
            lambda L, n, steps, *b: (1.5 ** (0.5 / L) - 1) / (n * steps * largest_move(steps, *b)),
            "as large as the last",
        ),
        (lambda L, n, steps, *b: (1.5 ** (1 / L) - 1) / (n * moved(steps, *b)), "both do"),
        (lambda L, n, steps, *b: (1.5 ** (1 / L) - 1) / (2 * n * moved(steps, *b)), "the square"),
        (lambda L, n, steps, *b: (math.sqrt(1 + 0.5 / L) - 1) / (n * moved(steps, *b)), "compound"),
        (lambda L, n, steps, *b: n * rate_allowed(L, n, steps, *b), "one entry"),
        (lambda L, n, steps, *b: math.sqrt(n) * rate_allowed(L, n, steps, *b), "not sqrt(n) a"),
        (lambda L, n, steps, *b: 1.5 ** (1 / L) - 1, "right value"),
        (lambda *case: round(rate_allowed(*case), 8), "accuracy"),
    ],
    UNTIL: [
        (
            lambda n, w, c, r: math.floor(math.log((c - 1) / (r - 1)) / math.log((n - 1) / (w - 1))) + 1,
            "a factor of 2 is missing",
        ),
        (
            lambda n, w, c, r: math.floor(2 * math.log((c - 1) / (r - 1)) / math.log((n - 1) / (w - 1))) + 1,
            "two factors of 2",
        ),
        (lambda *case: depth_until(*case) - 1, "one more"),
        (lambda *case: depth_until(*case) + 1, "one late"),
        (lambda n, w, c, r: math.floor(math.log(c / r) / (2 * math.log((n - 1) / (w - 1)))) + 1, "by itself"),
        (lambda n, w, c, r: math.floor(math.log((c - 1) / (r - 1)) / (2 * math.log(n / w))) + 1, "sigma itself"),
        (lambda n, w, c, r: math.log((c - 1) / (r - 1)) / (2 * math.log((n - 1) / (w - 1))), "whole"),
        (lambda *case: 85, "use its arguments"),
    ],
    SPRING: [
        (distance, "may turn"),
        (spring(lambda W, V: sigma(W - V).sum()), "singular values of W - W_0"),
        (spring(lambda W, V: (sigma(W) - sigma(V)).norm()), "a kink"),
        (spring(lambda W, V: (sigma(W) ** 2 - sigma(V) ** 2).square().sum()), "the squares"),
        (spring(lambda W, V: (sigma(W)[0] - sigma(V)[0]).square()), "largest"),
        (spring(lambda W, V: (sigma(W) - 1).square().sum()), "compare with 1"),
        (spring(lambda W, V: (sigma(W) - sigma(V)).square().mean()), "means over the singular"),
        (lambda n, f: spectral(n, f) / len(f), "over the matrices"),
        (lambda n, f: spectral(n, f).detach(), "no gradient"),
        (lambda n, f: spectral(n, f).item(), "no gradient"),
        (lambda n, f: (s := spectral(n, f)) / s * s.item(), "its gradient is not"),
        (written, "changed the weights"),
        (lambda n, f: None, "returns None"),
        (0.5, "the function itself"),
    ],
    ALIKE: [
        (lambda n: (stacks(n)[0] - stacks(n)[0].mean(0)).square().sum(), "A alone"),
        (lambda n: (torch.cat(stacks(n)) - torch.cat(stacks(n)).mean(0)).square().sum(), "a mean for each"),
        (lambda n: alike(n) / 3, "average over the layers"),
        (lambda n: sum((W - W[:1]).square().sum() for W in stacks(n)), "first layer"),
        (lambda n: sum((W[1:] - W[:-1]).square().sum() for W in stacks(n)), "neighbours"),
        (lambda n: sum((W - W.mean(0)).square().mean() for W in stacks(n)), "entries"),
        (lambda n: sum((W - W.mean()).square().sum() for W in stacks(n)), "one number"),
        (lambda n: alike(n).item(), "no gradient"),
        (half_seen, "its gradient is not"),
        (lambda n: alike(n) + 0 * (stacks(n)[0] * 0).sqrt().sum(), "its gradient is not"),  # NaN by backward
        (lambda n: 2 * alike(n), "twice"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


def test_a_late_gradient_reaches_the_bound_by_which_the_rate_is_computed():
    """Adam itself, on the gradients that attain the bound of step 3, moves an entry that far."""
    beta1, beta2, t = 0.9, 0.95, 3
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=1.0, betas=(beta1, beta2), eps=0.0)
    for step in range(1, t + 1):
        before = w.item()
        w.grad = torch.full_like(w, (beta1 / beta2) ** (t - step))
        adam.step()
    assert abs(abs(w.item() - before) - largest_move(t, beta1, beta2)) < 1e-12


def test_a_blank_penalty_is_no_answer():
    def spectral_spring(network, first):
        """By the names of first."""
        ...

    assert check(SPRING, spectral_spring).passed is None
