"""The checks of the chapter on depth and time: the solution passes, each likely mistake is named."""

import pytest
import torch

from pso_lib.checks import Wrong, check
from pso_lib.nn.weights import hidden_matrices


def power_rank(e, L):
    return ((e.abs() / e.abs().max()) ** (2 * L)).sum()


def gaps(network, first):
    return [W - first[name] for name, W in hidden_matrices(network).items()]


def penalty(network, first):
    return sum(g.square().sum() for g in gaps(network, first))


def stacks(network):
    return [torch.stack([getattr(layer, name) for layer in network.layers]) for name in "AB"]


def alike(network):
    return sum((W - W.mean(0)).square().sum() for W in stacks(network))


def written(network, first):
    with torch.no_grad():
        for name, W in hidden_matrices(network).items():
            W.sub_(first[name])
    return sum(W.square().sum() for W in hidden_matrices(network).values())


@pytest.mark.parametrize(
    "name, answer",
    [
        ("depth-and-time/layer-tolerance", lambda L: 1.5 ** (1 / L) - 1),
        ("depth-and-time/layer-tolerance", lambda L: torch.tensor(1.5).double().pow(1 / L) - 1),
        ("depth-and-time/power-stable-rank", power_rank),
        ("depth-and-time/distance-penalty", penalty),
        ("depth-and-time/alike-penalty", alike),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("depth-and-time/layer-tolerance", lambda L: 1.5 ** (1 / L), "subtract 1"),
        ("depth-and-time/layer-tolerance", lambda L: 0.4054651081081644 / L, "approximation"),
        ("depth-and-time/layer-tolerance", lambda L: 0.5 / L, "compound"),
        ("depth-and-time/layer-tolerance", lambda L: 2 ** (1 / L) - 1, "shrink to 0"),
        ("depth-and-time/layer-tolerance", lambda L: 1.5**L - 1, "power instead"),
        ("depth-and-time/layer-tolerance", lambda L: 0.1, "at L = 1"),
        ("depth-and-time/power-stable-rank", lambda e, L: ((e.abs() / e.abs().max()) ** L).sum(), "2L"),
        ("depth-and-time/power-stable-rank", lambda e, L: ((e.abs() / e.abs().max()) ** 2).sum(), "M itself"),
        ("depth-and-time/power-stable-rank", lambda e, L: ((e / e.max()) ** (2 * L)).sum(), "largest |eigenvalue|"),
        ("depth-and-time/power-stable-rank", lambda e, L: (e ** (2 * L)).sum(), "division"),
        ("depth-and-time/power-stable-rank", lambda e, L: power_rank(e, L) - 1, "counts 1"),
        ("depth-and-time/power-stable-rank", lambda e, L: power_rank(e, L) + 1, "the stable rank is"),
        (
            "depth-and-time/power-stable-rank",
            lambda e, L: (e.abs() ** (2 * L)).sum() / e.abs().max() ** (2 * L),
            "range of numbers",
        ),
        ("depth-and-time/distance-penalty", lambda n, f: sum(g.norm() for g in gaps(n, f)), "square them"),
        ("depth-and-time/distance-penalty", lambda n, f: penalty(n, f).sqrt(), "root"),
        ("depth-and-time/distance-penalty", lambda n, f: sum(g.square().mean() for g in gaps(n, f)), "means"),
        ("depth-and-time/distance-penalty", lambda n, f: penalty(n, f) / len(f), "average over the matrices"),
        (
            "depth-and-time/distance-penalty",
            lambda n, f: sum(W.square().sum() for W in hidden_matrices(n).values()),
            "weight decay",
        ),
        ("depth-and-time/distance-penalty", lambda n, f: sum(g.sum() for g in gaps(n, f)), "without squares"),
        ("depth-and-time/distance-penalty", lambda n, f: penalty(n, f).detach(), "no gradient"),
        ("depth-and-time/distance-penalty", lambda n, f: 3 * penalty(n, f), "no more"),
        ("depth-and-time/distance-penalty", written, "changed the weights"),
        ("depth-and-time/alike-penalty", lambda n: (stacks(n)[0] - stacks(n)[0].mean(0)).square().sum(), "A alone"),
        (
            "depth-and-time/alike-penalty",
            lambda n: (torch.cat(stacks(n)) - torch.cat(stacks(n)).mean(0)).square().sum(),
            "each",
        ),
        ("depth-and-time/alike-penalty", lambda n: alike(n) / 3, "average over the layers"),
        ("depth-and-time/alike-penalty", lambda n: sum((W - W[:1]).square().sum() for W in stacks(n)), "first layer"),
        (
            "depth-and-time/alike-penalty",
            lambda n: sum((W[1:] - W[:-1]).square().sum() for W in stacks(n)),
            "neighbours",
        ),
        ("depth-and-time/alike-penalty", lambda n: sum((W - W.mean(0)).square().mean() for W in stacks(n)), "entries"),
        ("depth-and-time/alike-penalty", lambda n: alike(n).item(), "no gradient"),
        ("depth-and-time/alike-penalty", lambda n: 2 * alike(n), "not"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, answer)
    assert part in str(caught.value)
