"""The checks of the chapter on what must persist: right answers pass in each form, each likely mistake is named."""

import numpy as np
import sympy as sp
import torch
from exercise_cases import named, passes
from torch import nn

from pso_lib.analysis.persistence import gradient_bounds, persistent_subspace
from pso_lib.nn.layers import FeedForward, Fold, Residual
from pso_lib.nn.networks import DeepNetwork, deep_network

DOUBLE = {"dtype": torch.float64}


def dimension(n, L):
    return max(n - L, 0)


def one_each(n, *, beta=-1.0, hidden=1, x=None):
    layers = []
    for i in range(n):
        layer = Residual(n, hidden, beta=beta, outer="tied", **DOUBLE)
        layer.set_weights(A=torch.eye(n).roll(-i, 0)[:hidden])
        layers.append(layer)
    return DeepNetwork(layers), torch.ones(n, **DOUBLE) if x is None else x


def shifts(n):
    layers = [FeedForward(n, **DOUBLE) for _ in range(n)]
    for layer in layers:
        layer.set_weights(A=torch.eye(n), B=torch.diag(torch.ones(n - 1), 1), b=1.0)
    return DeepNetwork(layers), [1] * n


def twice(n):
    """A kink in the way: the last layer gives the first axis up again, at a point where it is no longer 0."""
    network, x = one_each(n)
    network.layers[-1].set_weights(A=torch.eye(n)[:1], b=1.0)  # fires at x_1 = 0, removes what is already gone
    return network, x


def same_layer(n):
    network, x = one_each(n)
    return DeepNetwork([network.layers[0]] * n), x + 1


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


def common(network, x, tolerance=1e-8, basis=lambda found: found.basis):
    I = torch.eye(network.dim, **DOUBLE)
    bases = [basis(persistent_subspace(network, point, on_kink="ignore")) for point in x]
    _, s, Vh = torch.linalg.svd(torch.cat([I - V @ V.T for V in bases]), full_matrices=False)
    return Vh[s < tolerance].T


def joined(network, x):
    V = torch.cat([persistent_subspace(network, point, on_kink="ignore").basis for point in x], 1)
    U, s, _ = torch.linalg.svd(V, full_matrices=False)
    return U[:, s > 1e-8]


def emptied(network, x):
    found = common(network, x)
    return x.zero_().T if len(x) == 60 else found


SOLUTIONS = {
    "what-must-persist/shared-shift": [
        ([[1, 0, 0]], dimension),
        ([[-2.0, 0, 0]], lambda n, L: torch.tensor(dimension(n, L))),
        ([1, 0, 0], dimension),
        ([sp.Matrix([3, 0, 0])], lambda n, L: sp.Integer(dimension(n, L))),
        (np.array([[1, 0, 0], [0, 0, 0]]), lambda n, L: n - min(n, L)),
    ],
    "what-must-persist/one-direction-each": [one_each, shifts, lambda n: list(one_each(n))],
    "what-must-persist/guaranteed-share": [
        share,
        lambda *a: share(*a, reduction="mean"),
        lambda *a: share(*a).tolist(),
    ],
    "what-must-persist/common-subspace": [
        common,
        lambda *a: -common(*a).flip(1).numpy(),
        lambda *a: torch.linalg.qr(common(*a) @ torch.linalg.qr(torch.randn(2 * [common(*a).shape[1]]).double()).Q).Q,
    ],
}
MISTAKES = {
    "what-must-persist/shared-shift": [
        (([[1, 0, 0], [0, 1, 0]], dimension), "receives S v"),
        (([[0, 1, 0]], dimension), "lies at the input"),
        (([[0, 0, 1]], dimension), "leaves the network"),
        (([], dimension), "too little"),
        (([[0, 0, 0]], dimension), "too little"),
        (([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dimension), "sent to 0"),
        (([[1, 1, 0]], dimension), "span of your vectors"),
        (([[1, 0]], dimension), "three coordinates"),
        (([[float("nan"), 0, 0]], dimension), "no finite number"),
        (([[1, 0, 0]], 0), "give the function"),
        (([[1, 0, 0]], lambda n, L: n - 1), "what one layer keeps"),
        (([[1, 0, 0]], lambda n, L: n - L), "not negative"),
        (([[1, 0, 0]], lambda n, L: max(n - L + 1, 0)), "one layer too few"),
        (([[1, 0, 0]], lambda n, L: max(n - L - 1, 0)), "one layer too many"),
        (([[1, 0, 0]], lambda n, L: min(n, L)), "are lost"),
        (([[1, 0, 0]], lambda n, L: 0), "use its arguments"),
    ],
    "what-must-persist/one-direction-each": [
        (lambda n: one_each(n, beta=-3.0), "stretches"),
        (lambda n: one_each(n, beta=-2.0), "does not fire"),
        (lambda n: one_each(n, x=-torch.ones(n)), "does not fire"),
        (lambda n: one_each(n, hidden=2), "One unit a layer"),
        (lambda n: one_each(n - 1), "layers of width"),
        (lambda n: (Fold(n), torch.ones(n)), "DeepNetwork"),
        (lambda n: one_each(n)[0], "two things"),
        (lambda n: (one_each(n)[0].float(), torch.ones(n)), "not float64"),
        (lambda n: one_each(n, x=torch.full((n,), torch.nan)), "no finite number"),
        (twice, "same direction"),
        (same_layer, "does not fire"),
    ],
    "what-must-persist/guaranteed-share": [
        (lambda *a: both(*a)[0].lower, "divide it"),
        (lambda *a: both(*a, "mean")[0].lower, "mean loss"),
        (lambda *a: 1 / share(*a), "upside down"),
        (lambda *a: both(*a)[0].value / both(*a)[0].upper, "does arrive"),
        (lambda *a: both(*a)[0].lower / both(*a)[0].value, "gradient that arrives"),
        (at_the_input, "lies at the input"),
        (lambda *a: share(*a).mean(), "one number"),
        (lambda *a: share(*a) ** 2, "is the square"),
        (lambda net, x, y: share(net, x, torch.zeros_like(y)), "differs in"),
        (lambda net, x, y: (share(net, x, y), x.zero_())[0], "in place"),
    ],
    "what-must-persist/common-subspace": [
        (lambda net, x: common(net, x[:1]), "first input alone"),
        (lambda net, x: common(net, x[-1:]), "last input alone"),
        (joined, "do not join"),
        (lambda net, x: common(net, x, basis=lambda found: found.carried[-1]), "at the output"),
        (lambda net, x: common(net, x).T, "columns"),
        (lambda net, x: common(net, x, 0.0), "Rounding"),
        (lambda net, x: 2 * common(net, x), "not orthonormal"),
        (lambda net, x: torch.linalg.qr(common(net, x), mode="complete").Q[:, common(net, x).shape[1] :], "complement"),
        (lambda net, x: torch.eye(net.dim, **DOUBLE), "span of your columns"),
        (lambda net, x: common(deep_network(2, 12, **DOUBLE), x), "Rounding"),
        (emptied, "in place"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)
