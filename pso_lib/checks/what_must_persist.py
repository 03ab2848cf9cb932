"""Checks of the chapter on what must persist."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pso_lib.analysis.jacobian import cumulative_jacobians
from pso_lib.analysis.persistence import layer_jacobians
from pso_lib.analysis.spectrum import singular_values
from pso_lib.checks._compare import as_numbers, call, require_close, require_finite, require_function, require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn import init
from pso_lib.nn.init import haar, layers_of, seeded
from pso_lib.nn.layers import FeedForward
from pso_lib.nn.networks import DeepNetwork, deep_network, plain_network

_DOUBLE: dict[str, Any] = {"dtype": torch.float64}
_ZERO = 1e-8  # relative: what is smaller counts as 0


@exercise("what-must-persist/shared-shift", points=1)
def _shift(through_two, dimension) -> str:
    """Vectors that span what persists through two shifts of R^3; ``dimension(n, L)`` of L shifts of R^n."""
    rows = require_finite(through_two, "the list of vectors")
    if rows.ndim > 2 or (rows.numel() and rows.shape[-1] != 3):
        wrong("give the subspace as a list of vectors with three coordinates each, such as [[1, 0, 0], [0, 1, 0]].")
    _, s, Vh = torch.linalg.svd(rows.reshape(-1, 3), full_matrices=False)
    basis = Vh[s > _ZERO * s.amax()] if s.numel() else Vh
    places = {
        "that is where one layer keeps lengths. But the second layer receives S v, not v: is its third coordinate 0?": [
            1,
            1,
            0,
        ],
        "that is what arrives after the first layer, S V. The subspace V lies at the input.": [0, 1, 0],
        "that is what leaves the network, S S V. The subspace V lies at the input.": [0, 0, 1],
        "nothing is too little: follow each unit vector through two layers.": [0, 0, 0],
        "the third unit vector is sent to 0 by the first layer.": [1, 1, 1],
    }
    require_close(
        basis.T @ basis,
        torch.diag(torch.tensor([1, 0, 0], **_DOUBLE)),
        {words: torch.diag(torch.tensor(diagonal, **_DOUBLE)) for words, diagonal in places.items()},
        what="the projection onto the span of your vectors",
    )
    require_function(
        dimension,
        lambda n, L: max(n - L, 0),
        [(3, 1), (3, 2), (3, 3), (5, 2), (4, 9), (64, 1), (64, 200)],
        {
            "you count what one layer keeps; each further layer receives what the one before it has shifted.": (
                lambda n, L: n - 1
            ),
            "after more than n layers nothing is left; a dimension is not negative.": lambda n, L: n - L,
            "you count one layer too few: already the first gives up a direction.": lambda n, L: max(n - L + 1, 0),
            "you count one layer too many.": lambda n, L: max(n - L - 1, 0),
            "you count the directions that are lost.": lambda n, L: min(n, L),
        },
        what="dimension",
    )
    return "all layers are the same, and yet each gives up another direction"


@exercise("what-must-persist/one-direction-each", points=2)
def _one_each(make) -> str:
    """``make(n)`` returns a float64 network of n layers in R^n and a point x: each gives up one direction, all do n."""
    for n in (3, 8):
        made = call(make, n, what="make")
        if not isinstance(made, tuple | list) or len(made) != 2:
            wrong(f"make({n}) must return two things, the network and the point x.")
        network, x = made
        if not isinstance(network, DeepNetwork) or (network.depth, network.dim) != (n, n):
            wrong(f"for n={n} return a pso_lib DeepNetwork of {n} layers of width {n}, and a point.")
        x = require_shape(require_finite(x, f"for n={n} the point x"), (n,), f"for n={n} the point x")
        if any(p.dtype != torch.float64 for p in network.parameters()):
            wrong("the weights are not float64; make the layers with dtype=torch.float64.")
        J = layer_jacobians(network, x[None])[:, 0]
        s = singular_values(J)  # (layers, n)
        if s.max() > 1 + _ZERO:
            wrong(f"a layer stretches: largest singular value {s.max().item():.3g}. In x - a relu(a·x), |a| = 1.")
        for where, count in enumerate((s > 1 - _ZERO).sum(1).tolist(), 1):
            if count == n:
                wrong(
                    f"for n={n} layer {where} keeps all {n} directions at x: its unit does not fire there. "
                    "Choose x so that a·x > 0 in every layer."
                )
            if count < n - 1:
                wrong(f"for n={n} layer {where} keeps {count} directions, not {n - 1}. One unit a layer is enough.")
        G = torch.linalg.multi_dot([*J.flip(0)])
        left = int((singular_values(G) > 1 - _ZERO).sum())  # no layer stretches, so these persist and no others
        if left:
            wrong(f"for n={n} the persistent dimension is {left}, not 0: some layers give up the same direction.")
    return "each layer keeps n - 1 directions, n layers keep none: what each gives up adds up"


@exercise("what-must-persist/guaranteed-share", points=2)
def _share(share) -> str:
    """``share(network, x, y)``, |P_U g| / |g| for each image: (N, d), (N,) to (N,)."""
    g = seeded(1)
    linear = plain_network(4, 10, inputs=6, classes=3, generator=g, **_DOUBLE)
    init.looks_linear_(linear, g)
    projected = deep_network(4, 10, inputs=6, classes=3, generator=g, **_DOUBLE)
    init.projection_(projected, 4, generator=g)
    require_function(
        share,
        lambda *case: _norms(*case)["must"] / _norms(*case)["leaves"],
        [(network, torch.randn(5, 6, generator=g, **_DOUBLE), torch.arange(5) % 3) for network in (linear, projected)],
        {
            "that is |P_U g| of each example; divide it by |g|.": lambda *case: _norms(*case)["must"],
            "that is |P_U g| for the gradient of the mean loss, not yet divided by |g|.": (
                lambda *case: _norms(*case)["must"] / 5
            ),
            "that is |g| / |P_U g|: upside down.": lambda *case: _norms(*case)["leaves"] / _norms(*case)["must"],
            "that is the share that does arrive, |G^T g| / |g|. Asked is the share that must.": (
                lambda *case: _norms(*case)["arrives"] / _norms(*case)["leaves"]
            ),
            "that is |P_U g| / |G^T g|, of the gradient that arrives; divide by |g| at the output.": (
                lambda *case: _norms(*case)["must"] / _norms(*case)["arrives"]
            ),
            "you project g on V, which lies at the input. At the output the carried subspace is U.": (
                lambda *case: _norms(*case)["at input"] / _norms(*case)["leaves"]
            ),
            "you return one number; every example has a gradient and a share of its own: shape (N,).": (
                lambda *case: (_norms(*case)["must"] / _norms(*case)["leaves"]).mean()
            ),
        },
        what="share",
    )
    return "the share of each output gradient that no depth can take away"


def _norms(network, x, y) -> dict[str, Tensor]:
    """Of the gradient of each example: |g|, |P_U g|, |G^T g| and, by mistake, |P_V g|."""
    states = [state.detach() for state in network.states(x)]
    top = states[-1].requires_grad_()
    (g,) = torch.autograd.grad(cross_entropy(network.readout(top), y, reduction="sum"), top)
    G = cumulative_jacobians(network, states[0])[-1]  # (N, n, n)
    V = [_persists(network, point) for point in states[0]]
    norms = [
        (row.norm(), (row @ torch.linalg.qr(M @ basis).Q).norm(), (row @ M).norm(), (row @ basis).norm())
        for row, M, basis in zip(g, G, V, strict=True)
    ]
    return dict(zip(("leaves", "must", "arrives", "at input"), torch.tensor(norms, **_DOUBLE).T, strict=True))


def _persists(network, x: Tensor) -> Tensor:
    """Orthonormal columns of the largest strong V at one point, by the definition: for a few layers."""
    G = cumulative_jacobians(network, x[None])[:, 0]
    return _kernel(G.mT @ G - torch.eye(len(x), **_DOUBLE))


def _kernel(stack: Tensor) -> Tensor:
    """Orthonormal columns of what all matrices of a stack (m, n, n) send to 0."""
    _, s, Vh = torch.linalg.svd(stack.flatten(0, 1), full_matrices=False)
    return Vh[s < _ZERO].T


@exercise("what-must-persist/common-subspace", points=3)
def _common(common) -> str:
    """``common(network, x)``: orthonormal columns, (n, d), of what persists at every row of x."""
    n, eye = 12, torch.eye(12, **_DOUBLE)
    filters, handing_on = (deep_network(3, n, generator=seeded(0), **_DOUBLE) for _ in range(2))
    init.shared_orthogonal_(filters, seeded(1))
    Q = [haar(n, n, seeded(seed)) for seed in range(4)]
    for layer, here, there in zip(layers_of(handing_on), Q, Q[1:], strict=False):
        layer.set_weights(A=here, B=there, b=0.0)  # U is not V
    axes = DeepNetwork([FeedForward(n, **_DOUBLE) for _ in range(3)])
    init.block_(axes, 5, generator=seeded(2))
    for network, count in ((handing_on, 2), (filters, 1), (filters, 2), (axes, 2), (filters, 60)):
        x = torch.randn(count, n, generator=seeded(3), **_DOUBLE)
        V = [_persists(network, point) for point in x]
        G = cumulative_jacobians(network, x)[-1]
        U = [torch.linalg.qr(M @ basis).Q for M, basis in zip(G, V, strict=True)]
        columns = as_numbers(call(common, network, x, what="common"), "what common returns")
        where = f"at {count} inputs "
        if columns.ndim != 2 or columns.shape[0] != n:
            wrong(f"{where}common returns shape {tuple(columns.shape)}; return columns, ({n}, d), even when d = 0.")
        if not torch.allclose(columns.T @ columns, torch.eye(columns.shape[1], **_DOUBLE), rtol=0, atol=_ZERO):
            wrong(f"{where}the columns are not orthonormal.")
        require_close(
            columns @ columns.T,
            _onto(_meet(V)),
            {
                f"{where}that is the subspace of the first input alone; intersect those of all.": _onto(V[0]),
                f"{where}that is the subspace of the last input alone; intersect those of all.": _onto(V[-1]),
                f"{where}that is what persists at some input, the sum of the subspaces; intersect, do not join.": _onto(
                    torch.linalg.svd(torch.cat(V, 1)).U[:, : torch.linalg.matrix_rank(torch.cat(V, 1), rtol=_ZERO)]
                ),
                f"{where}that is U, where the subspaces arrive at the output. V lies at the input.": _onto(_meet(U)),
                f"{where}you find nothing that is common. Rounding? Compare with 1e-8, not with 0.": 0 * eye,
                f"{where}that is what is *not* common: its complement.": eye - _onto(_meet(V)),
            },
            what=f"{where}the projection onto the span of your columns",
        )
    return "v is common if every projection P_i leaves it where it is"


def _onto(basis: Tensor) -> Tensor:
    return basis @ basis.T


def _meet(bases: list[Tensor]) -> Tensor:
    """Orthonormal columns of the intersection of the spans."""
    eye = torch.eye(len(bases[0]), **_DOUBLE)
    return _kernel(torch.stack([eye - _onto(basis) for basis in bases]))
