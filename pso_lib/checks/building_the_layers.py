"""Checks of the chapter on building the layers."""

import torch
from torch import Tensor

from pso_lib.analysis.jacobian import jacobian
from pso_lib.analysis.spectrum import isometry_error
from pso_lib.checks._compare import as_numbers, call, require_finite, require_function, require_parts, require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, haar, layers_of, seeded
from pso_lib.nn.layers import Fold
from pso_lib.nn.networks import DeepNetwork


@exercise("building-the-layers/twin", points=2)
def _twin(answer) -> str:
    """``twin(A, b)`` returns B (n, n) and c (n,) with Bᵀ|Ax + b| + c = x - 2 Aᵀ relu(Ax + b), A orthogonal."""
    cases = [(haar(n, n, seeded(n)), gaussian(1, n, 1.0, seeded(n))[0]) for n in (2, 3, 6)]
    mistakes = {
        "B has the other sign: on the side that does not move, |z| is -z.": lambda A, b: (A, -A.T @ b),
        "B and c have the other sign: on the side that does not move, |z| is -z.": lambda A, b: (A, A.T @ b),
        "B is right; c is not zero: x is Aᵀ(z - b), with z = Ax + b.": lambda A, b: (-A, 0 * b),
        "B is right, c has the other sign: x is Aᵀ(z - b), with z = Ax + b.": lambda A, b: (-A, A.T @ b),
        "c is turned the wrong way: x is Aᵀ(z - b), with the transpose.": lambda A, b: (-A, -A @ b),
        "c is not turned: x is Aᵀ(z - b), so Aᵀ acts on b, too.": lambda A, b: (-A, -b),
        "B is the transpose: the layer multiplies by Bᵀ.": lambda A, b: (-A.T, -A.T @ b),
    }
    require_function(
        answer,
        lambda A, b: (-A, -A.T @ b),
        cases,
        mistakes,
        form=lambda pair, A, b: require_parts(pair, {"B": tuple(A.shape), "c": tuple(b.shape)}),
        what="twin",
    )
    return "both are the same map, in dimensions 2, 3 and 6"


@exercise("building-the-layers/repair-weights", points=2)
def _repair(answer) -> str:
    """``repair(A)`` takes rounded orthonormal rows, (h, n) float64, to the nearest orthonormal ones."""
    sizes = ((5, 12), (16, 16), (8, 9))
    cases = [
        (haar(h, n, seeded(h)).to(rounded).double(),) for h, n in sizes for rounded in (torch.float32, torch.bfloat16)
    ]

    def nearest(A: Tensor) -> Tensor:
        U, _, Vh = torch.linalg.svd(A, full_matrices=False)
        return U @ Vh

    def by_rows(A: Tensor, signs: bool) -> Tensor:
        Q, R = torch.linalg.qr(A.T)
        return (Q * R.diagonal().sign() if signs else Q).T

    mistakes = {
        "nothing changed: a cast to float64 adds digits, not accuracy.": lambda A: A,
        "some rows changed sign: QR fixes Q only up to signs, and this is another layer.": lambda A: by_rows(A, False),
        "the rows are orthonormal, but not the nearest: QR keeps the first row and lets the later ones bear all of the "
        "error.": lambda A: by_rows(A, True),
        "one step of Newton's iteration is too few for weights that were in bfloat16.": lambda A: (
            1.5 * A - 0.5 * A @ A.T @ A
        ),
        "the rows have length 1, but they are not yet perpendicular to each other.": lambda A: (
            A / A.norm(dim=1, keepdim=True)
        ),
        "you computed in float32, and its rounding is what was to be repaired.": lambda A: nearest(A.float()),
    }

    def correction(value, A: Tensor) -> Tensor:
        """What was changed, in units of the error that was there."""
        found = require_shape(value, tuple(A.shape), "what repair returns")
        if (moved := (found.abs() - A.abs()).abs().max()) > 0.1:
            wrong(f"entries change by up to {moved:.1g}: this is another layer, not a repair.")
        return (found - A) / isometry_error(A.mT)

    require_function(answer, nearest, cases, mistakes, form=correction, what="repair")
    return "the nearest orthonormal rows, from float32 and from bfloat16"


@exercise("building-the-layers/untouched-subspace", points=1)
def _untouched(answer) -> str:
    """``untouched(layer)`` returns an orthonormal basis, (n - h, n), of the directions a ``Fold`` leaves alone."""
    cases = []
    for n, h in ((6, 2), (5, 4), (8, 4), (7, 1)):
        layer = Fold(n, h, generator=seeded(n), dtype=torch.float64)
        layer.set_weights(b=gaussian(1, h, 1.0, seeded(h))[0])
        cases.append((layer,))
    mistakes = {
        "these are axes of the space; the directions must be perpendicular to every row of A.": (
            lambda layer: torch.eye(layer.dim, dtype=torch.float64)[layer.hidden :]
        ),
        "these are the first rows of Vᵀ, which span the rows of A; take the last n - h.": (
            lambda layer: torch.linalg.svd(layer.A).Vh[: layer.dim - layer.hidden]
        ),
    }

    def projection(value, layer) -> Tensor:
        n, h = layer.dim, layer.hidden
        if as_numbers(value).shape == (h, n) and h != n - h:
            wrong(f"for n={n}, h={h} you return {h} directions, one for each crease; points move along the rows of A.")
        rows = require_shape(value, (n - h, n), f"for n={n}, h={h} the basis")
        if isometry_error(rows.mT) > 1e-6:
            wrong("the rows are not orthonormal; an SVD or a complete QR gives a basis that is.")
        return rows.mT @ rows  # the same for every basis

    def truth(layer) -> Tensor:
        return torch.linalg.svd(layer.A.detach()).Vh[layer.hidden :]

    require_function(answer, truth, cases, mistakes, form=projection, what="untouched")
    return "every direction perpendicular to the rows of A keeps its coordinate"


@exercise("building-the-layers/wide-fold", points=2)
def _wide(A, b, x) -> str:
    """A (h, n) with h > n and orthonormal columns, b (h,), x (n,): I - 2 A^T D A is singular at x."""
    A = require_finite(A, "A")
    if A.ndim != 2:
        wrong(f"A has shape {tuple(A.shape)}; it must be a matrix, (h, n).")
    h, n = A.shape
    b, x = (
        require_shape(require_finite(b, "b").reshape(-1), (h,), "b"),
        require_shape(require_finite(x, "x").reshape(-1), (n,), "x"),
    )
    if h <= n:
        wrong(f"A is {h} × {n}; the question is about more rows than columns.")
    if isometry_error(A) > 1e-6:
        hint = " You made the rows unit vectors; divide A by more." if (A.norm(dim=1) - 1).abs().max() < 1e-6 else ""
        wrong(f"the columns of A are not orthonormal: max |A^T A - I| is {isometry_error(A).item():.2g}.{hint}")
    z, reach = A @ x + b, A.abs() @ x.abs() + b.abs()
    if (z.abs() <= 1e-6 * reach).any():
        wrong("x lies on a crease, where there is no Jacobian; move it or the biases a little.")
    on = (z > 0).double()
    smallest = torch.linalg.svdvals(torch.eye(n, dtype=torch.float64) - 2 * (A.T * on) @ A)[-1].item()
    if smallest > 1e-6:
        active = int(on.sum())
        wrong(
            f"the smallest singular value at x is {smallest:.3g}, not 0. {active} of {h} units are active there; "
            "A^T D A needs the eigenvalue 1/2."
        )
    return f"with {h} units in dimension {n} the layer crushes a direction: singular value 0"


@exercise("building-the-layers/same-creases", points=2)
def _same(make) -> str:
    """``make(depth, dim, generator)`` returns a float64 network of folds that all hold one A."""
    first = {}
    for depth, dim, seed in ((7, 16, 0), (3, 5, 1), (3, 5, 2)):
        network = call(make, depth, dim, seeded(seed), what="make")
        if not isinstance(network, DeepNetwork):
            wrong(f"you return a {type(network).__name__}; return a pso_lib DeepNetwork.")
        if (network.depth, network.dim) != (depth, dim):
            wrong(
                f"asked for depth {depth} and width {dim} the network has depth {network.depth} and width "
                f"{network.dim}."
            )
        layers = layers_of(network)
        if any(layer.A.dtype != torch.float64 for layer in layers):
            wrong("the weights are not float64; pass dtype=torch.float64.")
        if any(not torch.equal(layer.A, layers[0].A) for layer in layers):
            wrong("the layers hold different matrices A; copy the first layer's into all others with set_weights(A=…).")
        x = gaussian(10, dim, 1.0, seeded(3))
        if (error := isometry_error(jacobian(network, x)).max().item()) > 1e-12:
            wrong(f"the Jacobian of the network is not orthogonal (error {error:.1g}); use layer='fold'.")
        with torch.no_grad():
            states = network.states(x)
        if (states[1] - states[0]).abs().max() < 1e-9:
            wrong("the first layer does nothing; keep the Haar draw of A.")
        if not torch.allclose(states[-1], states[1], rtol=0, atol=1e-12):
            wrong("the states still change after the first layer; set b = 0 in all layers.")
        if len({id(layer) for layer in layers}) < depth:
            wrong("the network holds one layer several times, and training could not tell them apart; copy only A.")
        first[seed] = layers[0].A.detach()
    if torch.equal(first[1], first[2]):
        wrong("two generators give the same A: pass the generator on.")
    return "every layer after the first leaves its input where it is: F(F(x)) = F(x)"
