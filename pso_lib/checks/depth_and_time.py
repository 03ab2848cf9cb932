"""Checks of the chapter on one disease over depth and over time."""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pso_lib.checks._compare import require_close, require_function
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, seeded
from pso_lib.nn.networks import DeepNetwork, deep_network
from pso_lib.nn.weights import hidden_matrices


def _adam(t: int, beta1: float, beta2: float) -> float:
    """The most that step t of Adam moves an entry, in rates: Cauchy and Schwarz, sum by sum."""
    sums = [sum(q**j for j in range(t)) for q in (beta1, beta2, beta1**2 / beta2)]
    return math.sqrt(sums[1] * sums[2]) / sums[0]


def _rate(L: int, n: float, travel: float, budget: float | None = None) -> float:
    """By the travel of an entry, in rates; a layer's budget is (3/2)^(1/L) - 1."""
    budget = 1.5 ** (1 / L) - 1 if budget is None else budget
    return (math.sqrt(1 + budget) - 1) / (n * travel)


def _travel(steps: int, beta1: float, beta2: float) -> float:
    return sum(_adam(t, beta1, beta2) for t in range(1, steps + 1))


@exercise("depth-and-time/rate-allowed", points=2)
def _allowed(rate_allowed) -> str:
    """``rate_allowed(L, n, steps, beta1, beta2)``: the largest rate with which the budget holds for these steps."""
    require_function(
        rate_allowed,
        lambda L, n, steps, *betas: _rate(L, n, _travel(steps, *betas)),
        [(1, 4, 1, 0.9, 0.999), (20, 64, 1, 0.9, 0.999), (50, 64, 30, 0.9, 0.95), (5, 16, 200, 0.9, 0.999)],
        {
            "you take every step to be as large as the first; later ones can be larger, by c_t.": (
                lambda L, n, steps, *betas: _rate(L, n, steps)
            ),
            "you count the last step alone; the moves of all steps add up.": (
                lambda L, n, steps, *betas: _rate(L, n, _adam(steps, *betas))
            ),
            "you take every step to be as large as the last; the first ones are smaller.": (
                lambda L, n, steps, *betas: _rate(L, n, steps * _adam(steps, *betas))
            ),
            "you let one matrix of a layer move; A and B both do.": (
                lambda L, n, steps, *betas: (1.5 ** (1 / L) - 1) / (n * _travel(steps, *betas))
            ),
            "you left out the square: |E| <= 2 m + m^2 for matrices that move by m.": (
                lambda L, n, steps, *betas: (1.5 ** (1 / L) - 1) / (2 * n * _travel(steps, *betas))
            ),
            "a budget of 1/2 for the sum of all layers forgets that departures compound.": (
                lambda L, n, steps, *betas: _rate(L, n, _travel(steps, *betas), 0.5 / L)
            ),
            "this is the move of one entry; n x n of them move a matrix by up to n times as much.": (
                lambda L, n, steps, *betas: _rate(L, 1, _travel(steps, *betas))
            ),
            "entries of size a make a matrix of norm up to n a, not sqrt(n) a: all of one sign, say.": (
                lambda L, n, steps, *betas: _rate(L, math.sqrt(n), _travel(steps, *betas))
            ),
        },
        what="the rate",
    )
    return "the budget is shared by all layers, and used up by all steps"


def _depth(n: int, weights: float, alive: int, rank: float) -> int:
    """By walking down: the first depth whose stable rank is below."""
    square, L = (n - 1) / (weights - 1), 1
    while 1 + (alive - 1) * square ** (-2 * L) >= rank:
        L += 1
    return L


def _steady(alive: float, rank: float, factor: float) -> int:
    """The first L with alive / factor^L below rank."""
    return math.floor(math.log(alive / rank) / math.log(factor)) + 1


@exercise("depth-and-time/depth-until", points=2)
def _until(depth_until) -> str:
    """``depth_until(n, weights, alive, rank)``: the first depth at which the caricature's stable rank is below."""
    require_function(
        depth_until,
        _depth,
        [(64, 60.0, 29, 1.5), (64, 63.0, 29, 2.0), (128, 100.0, 40, 1.01), (16, 15.5, 9, 4.0)],
        {
            "a factor of 2 is missing: a layer has two such matrices, and the stable rank squares their product.": (
                lambda n, w, c, rank: _steady(c - 1, rank - 1, (n - 1) / (w - 1))
            ),
            "two factors of 2 are missing: a layer has two such matrices, and the stable rank takes squares.": (
                lambda n, w, c, rank: _steady(c - 1, rank - 1, math.sqrt((n - 1) / (w - 1)))
            ),
            "this is the last depth at which it is not yet below; one more.": lambda *case: _depth(*case) - 1,
            "you are one late.": lambda *case: _depth(*case) + 1,
            "the direction that leads is one of the alive ones and counts 1 by itself: take it out on both sides.": (
                lambda n, w, c, rank: _steady(c, rank, ((n - 1) / (w - 1)) ** 2)
            ),
            "sigma^2 is not n over the stable rank: one of the n values is sigma itself.": (
                lambda n, w, c, rank: _steady(c - 1, rank - 1, (n / w) ** 2)
            ),
            "a depth is whole: the first one below.": lambda n, w, c, rank: (
                math.log((c - 1) / (rank - 1)) / math.log((n - 1) / (w - 1)) / 2
            ),
        },
        what="the depth",
    )
    return "logarithmic in the directions, and one over the logarithm of sigma"


def _require_penalty(
    penalty: Callable, right: Callable, arguments: tuple, mistakes: Mapping[str, Callable], gradient: str
) -> None:
    """Compare the value of a penalty on a network, then its gradient; the network must stay as it is."""
    if not callable(penalty):
        wrong(f"give the function itself, not what it returns; this is {type(penalty).__name__}.")
    twin, network = copy.deepcopy(arguments[0]), copy.deepcopy(arguments[0])
    value = right(twin, *arguments[1:])
    value.backward()
    with torch.no_grad():
        named = {text: mistaken(twin, *arguments[1:]) for text, mistaken in mistakes.items()}
    answer = penalty(network, *copy.deepcopy(arguments[1:]))
    if any(not torch.equal(p, q) for p, q in zip(network.parameters(), twin.parameters(), strict=True)):
        wrong("you changed the weights of the network; compute with them without writing into them.")
    if answer is None:
        wrong("your function returns None; end it with `return`.")
    require_close(answer, value.detach(), named, what="the penalty")
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        wrong("the value is right, but it has no gradient: no detach, no item, no torch.no_grad.")
    answer.sum().backward()
    for p, q in zip(network.parameters(), twin.parameters(), strict=True):
        found, wanted = (torch.zeros_like(p) if grad is None else grad for grad in (p.grad, q.grad))
        if not (found - wanted).abs().max() <= 1e-6 * value.detach().sqrt():  # the gradient's own scale
            wrong(f"the value is right, but its gradient is not {gradient}; differentiate through every matrix.")


def _network(seed: int) -> tuple[DeepNetwork, dict[str, Tensor]]:
    """A network all of whose parameters have moved, and where its hidden matrices were."""
    network = deep_network(3, 5, inputs=4, classes=2, generator=seeded(seed), dtype=torch.float64)
    first = {name: W.detach().clone() for name, W in hidden_matrices(network).items()}
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):  # lift, readout and biases move too
            p.add_(gaussian(1, p.numel(), 0.5, seeded(seed + i + 1)).view_as(p))
    return network, first


def _over(of: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """The sum over the hidden matrices, now and at first."""
    return lambda network, first: torch.stack(
        [of(W, first[name]) for name, W in hidden_matrices(network).items()]
    ).sum()


_sigma = torch.linalg.svdvals


@exercise("depth-and-time/spectral-spring", points=2)
def _spectral(spectral_spring) -> str:
    """``spectral_spring(network, first)``: the squared departures of the hidden matrices' singular values, summed."""
    right = _over(lambda W, V: (_sigma(W) - _sigma(V)).square().sum())
    _require_penalty(
        spectral_spring,
        right,
        _network(0),
        {
            "this is the distance of the matrices; a matrix may turn, and only its singular values may not move.": (
                _over(lambda W, V: (W - V).square().sum())
            ),
            "these are the singular values of W - W_0; compare those of W with those of W_0.": (
                _over(lambda W, V: _sigma(W - V).sum())
            ),
            "you sum norms; square them, or the penalty has a kink where it starts.": (
                _over(lambda W, V: (_sigma(W) - _sigma(V)).norm())
            ),
            "you compare the squares of the singular values.": (
                _over(lambda W, V: (_sigma(W) ** 2 - _sigma(V) ** 2).square().sum())
            ),
            "you compare the largest singular values alone; all of them are held.": (
                _over(lambda W, V: (_sigma(W)[0] - _sigma(V)[0]).square())
            ),
            "you compare with 1, where an orthogonal start is; this start has its own singular values.": (
                _over(lambda W, V: (_sigma(W) - 1).square().sum())
            ),
            "you take means over the singular values; sum them.": (
                _over(lambda W, V: (_sigma(W) - _sigma(V)).square().mean())
            ),
            "you average over the matrices; sum.": lambda network, first: right(network, first) / len(first),
        },
        "2 U (S - S_0) V^T",
    )
    return "a matrix may turn as it likes: a spring on its spectrum, not on its place"


def _alike_by(of: Callable[[Tensor], Tensor]) -> Callable:
    """The sum of ``of`` the layers' A, (L, n, n), and of their B."""
    return lambda network: sum(of(W) for W in _stacks(network))


def _stacks(network: DeepNetwork) -> list[Tensor]:
    return [torch.stack([getattr(layer, name) for layer in network.layers]) for name in "AB"]


@exercise("depth-and-time/alike-penalty", points=2)
def _alike(alike) -> str:
    """``alike(network)``: how far the layers' A, and B, are from their means over the layers, squared and summed."""
    right = _alike_by(lambda W: (W - W.mean(0)).square().sum())
    _require_penalty(
        alike,
        right,
        _network(5)[:1],
        {
            "this is the scatter of A alone; B must stay alike too.": lambda network: (
                (_stacks(network)[0] - _stacks(network)[0].mean(0)).square().sum()
            ),
            "A and B need not be alike: take a mean for each.": lambda network: (
                ((both := torch.cat(_stacks(network))) - both.mean(0)).square().sum()
            ),
            "you average over the layers; sum.": lambda network: right(network) / network.depth,
            "you compare with the first layer, which then has no say; compare with the mean.": (
                _alike_by(lambda W: (W - W[:1]).square().sum())
            ),
            "you compare neighbours, so that small steps add up along the depth; compare with the mean.": (
                _alike_by(lambda W: (W[1:] - W[:-1]).square().sum())
            ),
            "you take means over entries; sum.": _alike_by(lambda W: (W - W.mean(0)).square().mean()),
            "you subtract one number from all entries; the mean is a matrix, over the layers.": (
                _alike_by(lambda W: (W - W.mean()).square().sum())
            ),
        },
        "2 (A - mean of A)",
    )
    return "zero for layers that are equal, wherever they are: they may move, but together"
