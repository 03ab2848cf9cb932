"""Checks of the chapter on what must persist."""

from typing import Any

import torch

from pso_lib.analysis.persistence import gradient_bounds, layer_jacobians, persistent_subspace
from pso_lib.analysis.spectrum import singular_values
from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn import init
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import FeedForward
from pso_lib.nn.networks import DeepNetwork, deep_network, plain_network

_DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def _span(vectors, n: int) -> torch.Tensor:
    """The projection onto the span of a list of vectors in R^n."""
    rows = torch.as_tensor([[float(c) for c in v] for v in vectors], **_DOUBLE).reshape(-1, n)
    _, s, Vh = torch.linalg.svd(rows, full_matrices=False)
    basis = Vh[s > 1e-9]
    return basis.T @ basis


@exercise("what-must-persist/shared-shift")
def _shift(V, dimension) -> str:
    """V: vectors that span what persists through two shifts of R^3; the persistent dimension of three shifts."""
    vectors = [list(v) for v in V]
    if any(len(v) != 3 for v in vectors):
        wrong("the subspace is given by a list of vectors with three coordinates each, such as [[1, 0, 0], [0, 1, 0]].")
    given = _span(vectors, 3)
    places = {
        (1, 1, 0): "that is where one layer keeps lengths. But the second layer receives S v, not v: is its third "
        "coordinate 0?",
        (0, 1, 0): "that is what arrives after the first layer, S V. The subspace V lies at the input.",
        (0, 0, 1): "that is what leaves the network, S S V. The subspace V lies at the input.",
        (0, 0, 0): "nothing is too little: follow each unit vector through two layers.",
        (1, 1, 1): "the third unit vector is sent to 0 by the first layer.",
    }
    for diagonal, message in places.items():
        if (given - torch.diag(torch.tensor(diagonal, **_DOUBLE))).abs().max() < 1e-6:
            wrong(message)
    if (given - torch.diag(torch.tensor([1, 0, 0], **_DOUBLE))).abs().max() > 1e-6:
        wrong("a vector keeps its length through both layers only if its last two coordinates are 0.")
    if int(dimension) != dimension or int(dimension) != 0:
        wrong(f"V is right; but after three shifts every vector is (0, 0, 0), so no dimension {dimension} persists.")
    return "S keeps a plane, S S a line, S S S nothing, although all layers are the same"


@exercise("what-must-persist/one-direction-each")
def _one_each(make) -> str:
    """``make(n)`` returns a float64 network of n layers in R^n and a point x: each gives up one direction, all do n."""
    for n in (3, 8):
        network, x = make(n)
        if not isinstance(network, DeepNetwork) or (network.depth, network.dim) != (n, n):
            wrong(f"for n={n} return a pso_lib DeepNetwork of {n} layers of width {n}, and a point.")
        x = require_shape(x, (n,), f"for n={n} the point x")
        if any(p.dtype != torch.float64 for p in network.parameters()):
            wrong("the weights are not float64; make the layers with dtype=torch.float64.")
        s = singular_values(layer_jacobians(network, x[None])[:, 0])  # (n, n)
        if s.max() > 1 + 1e-9:
            wrong(f"a layer stretches: largest singular value {s.max().item():.3g}. In x - a relu(a·x), |a| = 1.")
        kept = (s > 1 - 1e-9).sum(1).tolist()
        for where, count in enumerate(kept, 1):
            if count == n:
                wrong(
                    f"for n={n} layer {where} keeps all {n} directions at x: its unit does not fire there. "
                    "Choose x so that a·x > 0 in every layer."
                )
            if count < n - 1:
                wrong(f"for n={n} layer {where} keeps {count} directions, not {n - 1}. One unit a layer is enough.")
        left = persistent_subspace(network, x).dimension
        if left:
            wrong(f"for n={n} the persistent dimension is {left}, not 0: some layers give up the same direction.")
    return "each layer keeps n - 1 directions, n layers keep none: what each gives up adds up"


@exercise("what-must-persist/guaranteed-share")
def _share(share) -> str:
    """``share(network, x, y)``, |P_U g| / |g| for each image: (N, d), (N,) to (N,)."""
    for start, seed in ((init.looks_linear_, 0), (init.projection_, 1)):
        g = seeded(seed)
        if start is init.projection_:
            network = deep_network(4, 10, inputs=6, classes=3, generator=g, **_DOUBLE)
            init.projection_(network, 4, generator=g)
        else:
            network = plain_network(4, 10, inputs=6, classes=3, generator=g, **_DOUBLE)
            init.looks_linear_(network, g)
        x, y = torch.randn(5, 6, generator=g, **_DOUBLE), torch.tensor([0, 1, 2, 0, 1])
        answer = share(network, x, y)
        if torch.as_tensor(answer, device="cpu").ndim == 0:
            wrong("you return one number; every example has a gradient and a share of its own: shape (N,).")
        answer = require_shape(answer, (5,), "the shares of 5 examples")
        states = [state.detach() for state in network.states(x)]
        top = states[-1].requires_grad_()
        assert network.readout is not None
        loss = torch.nn.functional.cross_entropy(network.readout(top), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, top)
        bounds = gradient_bounds(network, states[0], gradient)
        if _same(answer, bounds.lower / bounds.upper):
            continue
        V = [persistent_subspace(network, point).basis for point in states[0]]
        at_input = torch.stack([(row @ basis).norm() for row, basis in zip(gradient, V, strict=True)])
        mistakes = {
            "that is |P_U g| of each example; divide it by |g|.": bounds.lower,
            "that is |P_U g| for the gradient of the mean loss, not yet divided by |g|.": bounds.lower / 5,
            "that is |g| / |P_U g|: upside down.": bounds.upper / bounds.lower,
            "that is the share that does arrive, |G^T g| / |g|. Asked is the share that must.": bounds.value
            / bounds.upper,
            "that is |P_U g| / |G^T g|: the share of the arriving gradient; divide by |g| at the output.": bounds.lower
            / bounds.value,
            "you project g on V, which lies at the input. At the output the carried subspace is U.": at_input
            / bounds.upper,
        }
        for message, mistaken in mistakes.items():
            if _same(answer, mistaken):
                wrong(message)
        wrong(
            f"the shares are off by {(answer - bounds.lower / bounds.upper).abs().max().item():.2g}. "
            "g is the gradient at x_L, the state that enters the readout; x_0 = network.lift(x)."
        )
    return "the share of each output gradient that no depth can take away"


@exercise("what-must-persist/common-subspace")
def _common(common) -> str:
    """``common(network, x)``: orthonormal columns, (n, d), of what persists at every row of x."""
    n = 12
    filters = deep_network(3, n, generator=seeded(0), **_DOUBLE)
    init.shared_orthogonal_(filters, seeded(1))
    axes = DeepNetwork([FeedForward(n, **_DOUBLE) for _ in range(3)])
    init.block_(axes, 5, generator=seeded(2))
    for network, count in ((filters, 1), (filters, 2), (axes, 2), (filters, 60)):
        x = torch.randn(count, n, generator=seeded(3), **_DOUBLE)
        each = [persistent_subspace(network, point).basis for point in x]
        expected = _meet(each)
        given = torch.as_tensor(common(network, x), device="cpu").detach().to(torch.float64)
        d, what = expected.shape[1], f"at {count} inputs"
        if given.ndim != 2 or given.shape[0] != n:
            wrong(f"{what} you return shape {tuple(given.shape)}; return columns, ({n}, d), even when d = 0.")
        if given.shape[1] > d:
            first = each[0].shape[1]
            reason = "that is the subspace of the first input alone" if given.shape[1] == first else "some direction"
            reason += " is not persistent at all of them; intersect, do not join."
            wrong(f"{what} you return {given.shape[1]} directions, {d} are common: {reason}")
        if given.shape[1] < d:
            wrong(f"{what} you return {given.shape[1]} directions, {d} are common. Rounding? Compare with 1e-8, not 0.")
        if d and (given.T @ given - torch.eye(d, **_DOUBLE)).abs().max() > 1e-8:
            wrong(f"{what} the columns are not orthonormal.")
        if d and (given @ given.T - expected @ expected.T).abs().max() > 1e-6:
            wrong(f"{what} the dimension is right, but the directions are not persistent at all inputs.")
    return "v is common if every projection P_i leaves it where it is"


def _meet(bases: list[torch.Tensor]) -> torch.Tensor:
    """Orthonormal columns of the intersection of the spans."""
    n = bases[0].shape[0]
    defect = torch.cat([torch.eye(n, **_DOUBLE) - basis @ basis.T for basis in bases])
    _, s, Vh = torch.linalg.svd(defect, full_matrices=False)
    return Vh[s < 1e-8].T


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(((a - b).abs() <= 1e-6 * (1 + b.abs())).all())
