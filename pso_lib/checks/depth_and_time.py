"""Checks of the chapter on one disease over depth and over time."""

import torch

from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.experiments.survival import distance
from pso_lib.nn.init import gaussian, layers_of, seeded
from pso_lib.nn.networks import DeepNetwork, deep_network
from pso_lib.nn.weights import hidden_matrices


def _network() -> DeepNetwork:
    return deep_network(3, 5, inputs=4, classes=2, generator=seeded(0), dtype=torch.float64)


@exercise("depth-and-time/layer-tolerance")
def _tolerance(tolerance) -> str:
    """``tolerance(L)``: the largest eps with (1 + eps)^L <= 3/2."""
    depths = torch.tensor([1.0, 2, 20, 50, 200]).double()
    answer = torch.stack([require_shape(tolerance(int(L)), (), "the tolerance") for L in depths])

    def is_(other) -> bool:
        return torch.allclose(answer, other, rtol=1e-6, atol=1e-12)

    if is_(1.5 ** (1 / depths) - 1):
        return "so L layers share a budget of log 3/2, each about 0.4 / L"
    if is_(1.5 ** (1 / depths)):
        wrong("this is 1 + eps; subtract 1.")
    if is_(torch.tensor(1.5).double().log() / depths):
        wrong("this is the approximation log(3/2) / L, a little too small. Take the L-th root itself.")
    if is_(0.5 / depths):
        wrong("L eps <= 1/2 forgets that departures compound: (1 + 1/2L)^L is above 3/2. Take the L-th root.")
    if is_(2 ** (1 / depths) - 1):
        wrong("with (1 + eps)^L = 2 the error may be 1, and a length may shrink to 0. It must stay below 1/2.")
    if is_(1.5**depths - 1):
        wrong("you took the power instead of the root: the tolerance must fall as L grows.")
    wrong(f"at L = 1 the tolerance is 0.5 and at L = 2 it is 0.2247…, you have {answer[0]:.4f} and {answer[1]:.4f}.")


@exercise("depth-and-time/power-stable-rank")
def _power(power_rank) -> str:
    """``power_rank(eigenvalues, L)``: the stable rank of M^L, M symmetric with these eigenvalues."""
    cases = [([1.5, 1.0, 1.0, 0.0], 3), ([0.2, -2.0, 1.0], 2), ([1.0, 0.5, 0.5], 1)]
    for values, L in cases:
        e = torch.tensor(values).double()
        answer = require_shape(power_rank(e.clone(), L), (), "the stable rank")
        q = e.abs() / e.abs().max()
        others = {
            "a stable rank sums squares, and a power L of an eigenvalue squared is a power 2L.": (q**L).sum(),
            "this is the stable rank of M itself; take its power.": (q**2).sum(),
            "the largest singular value is the largest |eigenvalue|; you divide by the largest eigenvalue.": (
                (e / e.max()) ** (2 * L)
            ).sum(),
            "you left out the division by the largest.": (e ** (2 * L)).sum(),
            "you left out the largest itself, which counts 1.": (q ** (2 * L)).sum() - 1,
        }
        right = (q ** (2 * L)).sum()
        if torch.allclose(answer, right):
            continue
        for mistake, value in others.items():
            if torch.allclose(answer, value) and not torch.allclose(value, right):
                wrong(mistake)
        wrong(f"for eigenvalues {values} and L = {L} the stable rank is {right:.4f}, not {answer:.4f}.")
    deep = require_shape(power_rank(torch.tensor([40.0, 30.0]).double(), 2000), (), "the stable rank")
    if not torch.allclose(deep, torch.ones(()).double()):
        wrong("at L = 2000 the powers leave the range of numbers. Divide the eigenvalues by the largest first.")
    return "each ratio to the power 2L: the product sharpens what each factor has"


@exercise("depth-and-time/distance-penalty")
def _distance(penalty) -> str:
    """``penalty(network, first)``: the sum of |W - W_0|_F^2 over the hidden matrices, ``first`` by name."""
    network = _network()
    first = {name: W.detach().clone() for name, W in hidden_matrices(network).items()}
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):  # lift, readout and biases move too
            p.add_(gaussian(1, p.numel(), 0.5, seeded(i)).view_as(p))
    before = {name: W.detach().clone() for name, W in hidden_matrices(network).items()}
    answer = penalty(network, {name: W.clone() for name, W in first.items()})
    value = require_shape(answer, (), "the penalty")
    if any(not torch.equal(W, before[name]) for name, W in hidden_matrices(network).items()):
        wrong("you changed the weights of the network; subtract without writing into them.")
    right = distance(network, first).detach()
    gaps = [(W - first[name]).detach() for name, W in hidden_matrices(network).items()]
    mistakes = {
        "you sum norms; square them, or the penalty has a kink where it starts.": sum(g.norm() for g in gaps),
        "you took the root of the whole sum; leave the square.": right.sqrt(),
        "you take means over entries; sum them.": sum(g.square().mean() for g in gaps),
        "you average over the matrices; sum.": right / len(gaps),
        "this is the size of the weights: weight decay, which pulls to 0 and not to the start.": sum(
            (g + first[name]).square().sum() for g, name in zip(gaps, first, strict=True)
        ),
        "you sum differences without squares.": sum(g.sum() for g in gaps),
    }
    if not torch.allclose(value, right):
        for mistake, other in mistakes.items():
            if torch.allclose(value, other):
                wrong(mistake)
        wrong(
            f"the penalty is {right:.4f} here, not {value:.4f}: the sum of squares over the hidden matrices, no more."
        )
    if not isinstance(answer, torch.Tensor) or not answer.requires_grad:
        wrong("the value is right, but it has no gradient: no detach, no item, no torch.no_grad.")
    answer.backward()
    W = next(iter(hidden_matrices(network).values()))
    if W.grad is None or not torch.allclose(W.grad, 2 * gaps[0]):
        wrong("the value is right, but its gradient is not 2 (W - W_0); differentiate through W.")
    return "its gradient is 2 (W - W_0): a spring to the start"


@exercise("depth-and-time/alike-penalty")
def _alike(penalty) -> str:
    """``penalty(network)``: how far the layers' A, and B, are from their means over the layers, squared and summed."""
    network = _network()
    layers = layers_of(network)
    A = torch.stack([layer.A for layer in layers]).detach()
    B = torch.stack([layer.B for layer in layers]).detach()
    answer = penalty(network)
    value = require_shape(answer, (), "the penalty")

    def scattered(W, around=None) -> torch.Tensor:
        return (W - (W.mean(0) if around is None else around)).square().sum()

    right = scattered(A) + scattered(B)
    mistakes = {
        "this is the scatter of A alone; B must stay alike too.": scattered(A),
        "A and B need not be alike: take a mean for each.": scattered(torch.cat([A, B])),
        "you average over the layers; sum.": right / len(A),
        "you compare with the first layer, which then has no say; compare with the mean.": scattered(A, A[:1])
        + scattered(B, B[:1]),
        "you compare neighbours, so that small steps add up along the depth; compare with the mean.": scattered(
            A[1:], A[:-1]
        )
        + scattered(B[1:], B[:-1]),
        "you take means over entries; sum.": (A - A.mean(0)).square().mean() + (B - B.mean(0)).square().mean(),
    }
    if not torch.allclose(value, right):
        for mistake, other in mistakes.items():
            if torch.allclose(value, other):
                wrong(mistake)
        wrong(f"the penalty is {right:.4f} here, not {value:.4f}.")
    if not isinstance(answer, torch.Tensor) or not answer.requires_grad:
        wrong("the value is right, but it has no gradient: no detach, no item, no torch.no_grad.")
    answer.backward()
    gradients = [layer.A.grad for layer in layers]
    if not all(g is not None and torch.allclose(g, 2 * (W - A.mean(0))) for g, W in zip(gradients, A, strict=True)):
        wrong("the value is right, but its gradient is not 2 (A - mean of A); differentiate through every layer.")
    return "zero for layers that are equal, wherever they are: they may move, but together"
