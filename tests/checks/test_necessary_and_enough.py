"""The checks of the chapter on necessity and sufficiency: the solution passes, each likely mistake is named."""

import pytest
import torch

from pso_lib.checks import Wrong, check


def softened(G, c):
    s = torch.linalg.svdvals(G)
    return ((s >= c) & (s <= 1 / c)).sum(-1)


def skipped(network, x, *, before=False, after=False):
    with torch.no_grad():
        states, changed = network.states(x), []
        answer = network.readout(states[-1]).argmax(1)
        for index in range(network.depth):
            h = states[0 if before else index]
            for layer in [] if after else network.layers[index + 1 :]:
                h = layer(h)
            changed.append((network.readout(h).argmax(1) != answer).double().mean())
    return torch.stack(changed)


E1 = [[1.0, 0.0]]


@pytest.mark.parametrize(
    "name, answer",
    [
        ("necessary-and-enough/folded-together", (E1, [0.0], [1.0, 0.0], [-1.0, 0.0])),
        ("necessary-and-enough/folded-together", (torch.eye(2), [0.0, -1.0], [2.0, 3.0], [-2.0, -1.0])),
        ("necessary-and-enough/softened-dimension", (softened,)),
        ("necessary-and-enough/drift-tolerance", (0.17,)),
        ("necessary-and-enough/drift-tolerance", (torch.tensor(0.2),)),
        ("necessary-and-enough/skipped-layers", (skipped,)),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, *answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("necessary-and-enough/folded-together", (E1, [0.0], [1.0, 0.0], [2.0, 0.0]), "same side"),
        ("necessary-and-enough/folded-together", (E1, [0.0], [1.0, 0.0], [-2.0, 0.0]), "Mirror x"),
        ("necessary-and-enough/folded-together", (E1, [0.0], [1.0, 0.0], [1.0, 0.0]), "same point"),
        ("necessary-and-enough/folded-together", (E1, [0.0], [0.0, 1.0], [0.0, -1.0]), "on a crease"),
        ("necessary-and-enough/folded-together", ([[1.0, 1.0]], [0.0], [1.0, 0.0], [-1.0, 0.0]), "orthonormal"),
        ("necessary-and-enough/folded-together", (torch.eye(3), [0.0], [1.0, 0.0], [-1.0, 0.0]), "(h, 2)"),
        ("necessary-and-enough/folded-together", (E1, [0.0], [1.0], [-1.0, 0.0]), "x has shape"),
        (
            "necessary-and-enough/softened-dimension",
            (lambda G, c: (torch.linalg.svdvals(G) >= c).sum(-1),),
            "exploding",
        ),
        (
            "necessary-and-enough/softened-dimension",
            (lambda G, c: (torch.linalg.svdvals(G) <= 1 / c).sum(-1),),
            "vanishing",
        ),
        ("necessary-and-enough/softened-dimension", (lambda G, c: softened(G, c) / G.shape[-1],), "shares"),
        ("necessary-and-enough/softened-dimension", (lambda G, c: softened(G, c).sum(),), "one number"),
        (
            "necessary-and-enough/softened-dimension",
            (lambda G, c: ((e := torch.linalg.eigvals(G).abs()) >= c).logical_and(e <= 1 / c).sum(-1),),
            "eigenvalues",
        ),
        ("necessary-and-enough/softened-dimension", (lambda G, c: softened(G, c) + 1,), "the counts are"),
        ("necessary-and-enough/drift-tolerance", (0.5,), "multiply"),
        ("necessary-and-enough/drift-tolerance", (-0.17,), "sign"),
        ("necessary-and-enough/drift-tolerance", (5.8,), "inverse"),
        ("necessary-and-enough/drift-tolerance", (1.0,), "not what we measure"),
        ("necessary-and-enough/skipped-layers", (lambda network, x: 1 - skipped(network, x),), "that stay"),
        ("necessary-and-enough/skipped-layers", (lambda network, x: 100 * skipped(network, x),), "per cent"),
        ("necessary-and-enough/skipped-layers", (lambda network, x: skipped(network, x, after=True),), "all after it"),
        (
            "necessary-and-enough/skipped-layers",
            (lambda network, x: skipped(network, x, before=True),),
            "all before it",
        ),
        ("necessary-and-enough/skipped-layers", (lambda network, x: skipped(network, x).flip(0),), "from the end"),
        ("necessary-and-enough/skipped-layers", (lambda network, x: skipped(network, x)[:-1],), "shape"),
        ("necessary-and-enough/skipped-layers", (lambda network, x: 0.5 * skipped(network, x),), "off by"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, *answer)
    assert part in str(caught.value)
