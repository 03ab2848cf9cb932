"""The checks of the chapter on what must persist: the solution passes, each likely mistake is named."""

import pytest
import torch
from torch import nn

from pso_lib.analysis.persistence import gradient_bounds, persistent_subspace
from pso_lib.checks import Wrong, check
from pso_lib.nn.layers import FeedForward, Fold, Residual
from pso_lib.nn.networks import DeepNetwork, deep_network

DOUBLE = {"dtype": torch.float64}


def one_each(n, *, axes=None, beta=-1.0, hidden=1, x=None):
    layers = []
    for i in range(n) if axes is None else axes:
        layer = Residual(n, hidden, beta=beta, outer="tied", **DOUBLE)
        layer.set_weights(A=torch.eye(n).roll(-i, 0)[:hidden])
        layers.append(layer)
    return DeepNetwork(layers), torch.ones(n, **DOUBLE) if x is None else x


def shifts(n):
    layers = [FeedForward(n, **DOUBLE) for _ in range(n)]
    for layer in layers:
        layer.set_weights(A=torch.eye(n), B=torch.diag(torch.ones(n - 1), 1), b=1.0)
    return DeepNetwork(layers), torch.ones(n, **DOUBLE)


def both(network, x, y, reduction="sum"):
    states = [state.detach() for state in network.states(x)]
    top = states[-1].requires_grad_()
    loss = nn.functional.cross_entropy(network.readout(top), y, reduction=reduction)
    (g,) = torch.autograd.grad(loss, top)
    return gradient_bounds(network, states[0], g), states[0], g


def share(network, x, y, reduction="sum"):
    bounds, _, _ = both(network, x, y, reduction)
    return bounds.lower / bounds.upper


def at_the_input(network, x, y):
    bounds, x0, g = both(network, x, y)
    V = [persistent_subspace(network, point).basis for point in x0]
    return torch.stack([(row @ basis).norm() for row, basis in zip(g, V, strict=True)]) / bounds.upper


def common(network, x, tolerance=1e-8):
    I = torch.eye(network.dim, **DOUBLE)
    bases = [persistent_subspace(network, point).basis for point in x]
    _, s, Vh = torch.linalg.svd(torch.cat([I - V @ V.T for V in bases]), full_matrices=False)
    return Vh[s < tolerance].T


@pytest.mark.parametrize(
    "name, answer",
    [
        ("what-must-persist/shared-shift", ([[1, 0, 0]], 0)),
        ("what-must-persist/shared-shift", ([[-2.0, 0, 0]], 0)),
        ("what-must-persist/one-direction-each", (one_each,)),
        ("what-must-persist/one-direction-each", (shifts,)),
        ("what-must-persist/guaranteed-share", (share,)),
        ("what-must-persist/guaranteed-share", (lambda *a: share(*a, reduction="mean"),)),
        ("what-must-persist/common-subspace", (common,)),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, *answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("what-must-persist/shared-shift", ([[1, 0, 0], [0, 1, 0]], 0), "receives S v"),
        ("what-must-persist/shared-shift", ([[0, 1, 0]], 0), "lies at the input"),
        ("what-must-persist/shared-shift", ([[0, 0, 1]], 0), "leaves the network"),
        ("what-must-persist/shared-shift", ([], 0), "too little"),
        ("what-must-persist/shared-shift", ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 0), "sent to 0"),
        ("what-must-persist/shared-shift", ([[1, 1, 0]], 0), "last two coordinates"),
        ("what-must-persist/shared-shift", ([[1, 0]], 0), "three coordinates"),
        ("what-must-persist/shared-shift", ([[1, 0, 0]], 1), "three shifts"),
        ("what-must-persist/one-direction-each", (lambda n: one_each(n, beta=-3.0),), "stretches"),
        ("what-must-persist/one-direction-each", (lambda n: one_each(n, beta=-2.0),), "does not fire"),
        ("what-must-persist/one-direction-each", (lambda n: one_each(n, x=-torch.ones(n)),), "does not fire"),
        ("what-must-persist/one-direction-each", (lambda n: one_each(n, hidden=2),), "One unit a layer"),
        ("what-must-persist/one-direction-each", (lambda n: one_each(n - 1),), "layers of width"),
        ("what-must-persist/one-direction-each", (lambda n: (Fold(n), torch.ones(n)),), "DeepNetwork"),
        ("what-must-persist/one-direction-each", (lambda n: (one_each(n)[0].float(), torch.ones(n)),), "not float64"),
        ("what-must-persist/guaranteed-share", (lambda *a: both(*a)[0].lower,), "divide it"),
        ("what-must-persist/guaranteed-share", (lambda *a: both(*a, "mean")[0].lower,), "mean loss"),
        ("what-must-persist/guaranteed-share", (lambda *a: 1 / share(*a),), "upside down"),
        ("what-must-persist/guaranteed-share", (lambda *a: both(*a)[0].value / both(*a)[0].upper,), "does arrive"),
        (
            "what-must-persist/guaranteed-share",
            (lambda *a: both(*a)[0].lower / both(*a)[0].value,),
            "arriving gradient",
        ),
        ("what-must-persist/guaranteed-share", (at_the_input,), "lies at the input"),
        ("what-must-persist/guaranteed-share", (lambda *a: share(*a).mean(),), "one number"),
        ("what-must-persist/guaranteed-share", (lambda *a: share(*a) ** 2,), "off by"),
        ("what-must-persist/common-subspace", (lambda net, x: common(net, x[:1]),), "first input alone"),
        ("what-must-persist/common-subspace", (lambda net, x: common(net, x).T,), "columns"),
        ("what-must-persist/common-subspace", (lambda net, x: common(net, x, 0.0),), "Rounding"),
        ("what-must-persist/common-subspace", (lambda net, x: 2 * common(net, x),), "not orthonormal"),
        ("what-must-persist/common-subspace", (lambda net, x: torch.eye(net.dim, **DOUBLE),), "intersect"),
        ("what-must-persist/common-subspace", (lambda net, x: common(deep_network(2, 12, **DOUBLE), x),), "directions"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, *answer)
    assert part in str(caught.value)


def test_a_direction_given_up_twice_is_named():
    """A kink in the way: the second layer gives the first axis up again, at a point where it is no longer 0."""

    def twice(n):
        network, x = one_each(n)
        last = network.layers[-1]
        last.set_weights(A=torch.eye(n)[:1], b=1.0)  # fires at x_1 = 0, removes what is already gone
        return network, x

    with pytest.raises(Wrong) as caught:
        check("what-must-persist/one-direction-each", twice)
    assert "same direction" in str(caught.value)
