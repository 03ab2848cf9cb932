"""The checks of the chapter on growth: the solution passes, each likely mistake is named."""

import pytest
import torch

from pso_lib.checks import Wrong, check


def blow_up(N, start, drive):
    return start ** (2 / N - 1) / (drive * (N - 2))


def energies(W, G, *, k=None, power=2, second=2):
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    k = k or int((s**2).sum() / s[0] ** 2)
    pairs = ((U.mT @ G) * Vh).sum(1).abs() ** power
    return pairs[:k].sum() / pairs.sum(), pairs[:k].sum() / G.norm() ** second


def ceiling(W, G):
    s = torch.linalg.svdvals(W)
    return energies(W, G, k=int((s**2).sum() / s[0] ** 2) + 1)


def block(W, G):
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    k = int((s**2).sum() / s[0] ** 2)
    spread = (U.mT @ G @ Vh.mT).square()
    return spread[:k, :k].sum() / spread.sum(), spread[:k, :k].sum() / G.square().sum()


def weighted(W, G):
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    k = int((s**2).sum() / s[0] ** 2)
    pairs = (s * ((U.mT @ G) * Vh).sum(1)) ** 2
    return pairs[:k].sum() / pairs.sum(), pairs[:k].sum() / G.square().sum()


def unit(h):
    return h / h.norm(dim=1, keepdim=True)


def similarity(h):
    T = len(h)
    return (unit(h).sum(0).square().sum() - T) / (T * (T - 1))


def by_matrix(h):
    gram = unit(h) @ unit(h).T
    return (gram.sum() - len(h)) / (len(h) * (len(h) - 1))


def by_loop(h):
    total = torch.zeros(h.shape[1], dtype=h.dtype)
    for row in unit(h):
        total = total + row
    return (total.square().sum() - len(h)) / (len(h) * (len(h) - 1))


@pytest.mark.parametrize(
    "name, answer",
    [
        ("the-rich-get-richer/blow-up-time", blow_up),
        ("the-rich-get-richer/spike-strength", lambda n: (n - 1) ** 0.5 - 1),
        ("the-rich-get-richer/energy-by-hand", energies),
        ("the-rich-get-richer/similarity-in-linear-time", similarity),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("the-rich-get-richer/blow-up-time", lambda N, s, c: N * blow_up(N, s, c), "factor N"),
        ("the-rich-get-richer/blow-up-time", lambda N, s, c: blow_up(N, s, 1), "drive is missing"),
        ("the-rich-get-richer/blow-up-time", lambda N, s, c: blow_up(N, s, c) - blow_up(N, 1, c), "to reach 1"),
        ("the-rich-get-richer/blow-up-time", lambda N, s, c: s ** (-1 / 3) / c, "N = 3 alone"),
        ("the-rich-get-richer/blow-up-time", lambda N, s, c: -blow_up(N, s, c), "sign"),
        ("the-rich-get-richer/blow-up-time", lambda N, s, c: s ** (1 - 2 / N) / (c * (N - 2)), "inverse power"),
        ("the-rich-get-richer/blow-up-time", lambda N, s, c: 7.0, "not 7"),
        ("the-rich-get-richer/spike-strength", lambda n: (n - 1) ** 0.5, "brings 1"),
        ("the-rich-get-richer/spike-strength", lambda n: n**0.5 - 1, "n - 1 are left"),
        ("the-rich-get-richer/spike-strength", lambda n: n - 2, "root"),
        ("the-rich-get-richer/spike-strength", lambda n: (n / 2) ** 0.5 - 1, "fraction line"),
        ("the-rich-get-richer/spike-strength", lambda n: 1.0, "stable rank of"),
        ("the-rich-get-richer/spike-strength", lambda n: -1.0, "positive"),
        ("the-rich-get-richer/energy-by-hand", lambda W, G: energies(W, G)[::-1], "swapped"),
        ("the-rich-get-richer/energy-by-hand", ceiling, "floor"),
        ("the-rich-get-richer/energy-by-hand", lambda W, G: energies(W, G, power=1, second=1), "square each"),
        ("the-rich-get-richer/energy-by-hand", lambda W, G: energies(W, G, second=1), "squared norm"),
        ("the-rich-get-richer/energy-by-hand", lambda W, G: energies(W, G, k=1), "first pair"),
        ("the-rich-get-richer/energy-by-hand", block, "i different from j"),
        ("the-rich-get-richer/energy-by-hand", weighted, "weight the pairs"),
        ("the-rich-get-richer/energy-by-hand", lambda W, G: (0.5, 0.5), "expected"),
        ("the-rich-get-richer/energy-by-hand", lambda W, G: energies(W, G)[0], "has shape"),
        (
            "the-rich-get-richer/similarity-in-linear-time",
            lambda h: unit(h).sum(0).square().sum() / len(h) ** 2,
            "with itself in your",
        ),
        ("the-rich-get-richer/similarity-in-linear-time", lambda h: similarity(h) * (1 - 1 / len(h)), "divide by T^2"),
        (
            "the-rich-get-richer/similarity-in-linear-time",
            lambda h: (h.sum(0).square().sum() - h.square().sum()) / (len(h) * (len(h) - 1)),
            "normalised",
        ),
        ("the-rich-get-richer/similarity-in-linear-time", lambda h: 2 * similarity(h), "factor of 2"),
        ("the-rich-get-richer/similarity-in-linear-time", lambda h: similarity(h) / 2, "twice in the squared sum"),
        ("the-rich-get-richer/similarity-in-linear-time", lambda h: similarity(h) + 1, "the mean cosine"),
        ("the-rich-get-richer/similarity-in-linear-time", by_matrix, "quadratic"),
        ("the-rich-get-richer/similarity-in-linear-time", by_loop, "loop"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, answer)
    assert part in str(caught.value)
