"""Checks of the chapter on building the layers."""

import torch

from pso_lib.analysis.jacobian import jacobian, kink_margin
from pso_lib.analysis.spectrum import isometry_error, singular_values
from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.activations import PiecewiseAffine
from pso_lib.nn.init import gaussian, haar, layers_of, seeded
from pso_lib.nn.layers import Fold, Layer
from pso_lib.nn.networks import DeepNetwork


def _points(count: int, n: int, seed: int = 1) -> torch.Tensor:
    return gaussian(count, n, 1.0, seeded(seed))


def _row_error(A: torch.Tensor) -> float:
    return isometry_error(A.mT).item()


@exercise("building-the-layers/untouched-subspace")
def _untouched(untouched) -> str:
    """``untouched(layer)`` returns an orthonormal basis, (n - h, n), of the directions a ``Fold`` leaves alone."""
    for n, h in ((6, 2), (5, 4), (7, 1)):
        layer = Fold(n, h, generator=seeded(n), dtype=torch.float64)
        layer.set_weights(b=gaussian(1, h, 1.0, seeded(h))[0])
        rows = torch.as_tensor(untouched(layer), device="cpu").detach()
        if tuple(rows.shape) == (h, n) and h != n - h:
            wrong(f"for n={n}, h={h} you return {h} directions, those of the creases' normals: they are what moves.")
        rows = require_shape(rows, (n - h, n), f"for n={n}, h={h} the basis")
        if _row_error(rows) > 1e-9:
            wrong("the rows are not orthonormal; an SVD or a complete QR gives a basis that is.")
        x = _points(50, n)
        moved = ((layer(x) - x) @ rows.T).abs().max().item()
        if moved > 1e-9:
            wrong(
                f"the layer moves points by up to {moved:.2g} along your directions; they must be perpendicular "
                "to every row of A. torch.linalg.svd(A) returns them as the last n - h rows of Vh."
            )
    return "h creases, and every direction perpendicular to the rows of A keeps its coordinate"


@exercise("building-the-layers/leaky-layer")
def _leaky(make) -> str:
    """``make(n, s, generator)`` returns a float64 ``Layer`` with LeakyReLU of slope s and orthogonal Jacobian."""
    for n, s in ((5, 0.1), (8, 0.5)):
        layer = make(n, s, seeded(n))
        if not isinstance(layer, Layer):
            wrong(f"you return a {type(layer).__name__}; return a pso_lib Layer.")
        if layer.A.dtype != torch.float64:
            wrong("the weights are not float64; pass dtype=torch.float64, or rounding hides the answer.")
        slopes = [float(value) for value in getattr(layer.activation, "slopes", ())]
        if not isinstance(layer.activation, PiecewiseAffine) or slopes != [s, 1.0]:
            wrong(f"for s={s} the activation has slopes {slopes}, not {[s, 1.0]}; use leaky_relu(s).")
        if layer.beta == 0:
            wrong("beta = 0 leaves plus or minus the identity: orthogonal, but no fold.")
        if layer.hidden < n:
            wrong(
                f"you use hidden={layer.hidden} < {n} units; what no unit sees is multiplied by alpha, "
                "which is not 1 or -1 here. Take hidden = n."
            )
        x = _points(50, n)
        error = isometry_error(jacobian(layer, x)).max().item()
        if error < 1e-12:
            continue
        size = 2 / (1 - s)
        if abs(abs(layer.beta) - size) < 1e-9 and abs(abs(layer.alpha) - size * (1 + s) / 2) < 1e-9:
            if layer.alpha * layer.beta > 0:
                wrong("alpha and beta have the right sizes but the same sign; one of them must be negative.")
            if layer.outer != "tied":
                wrong('alpha and beta are right, but B is not A; use outer="tied".')
            wrong(f'alpha and beta are right, but the isometry error is {error:.2g}: use orthogonal="start".')
        if (layer.alpha, layer.beta) == (1.0, -2.0):
            wrong("alpha = 1, beta = -2 is right for the slopes 0 and 1 of ReLU only.")
        values = sorted({round(layer.alpha + layer.beta * slope, 6) for slope in slopes})
        wrong(f"along a row of A the layer stretches by {values}; both must be 1 or -1, one of each.")
    return "alpha = -(1+s)/(1-s), beta = 2/(1-s): the stretches are 1 and -1"


@exercise("building-the-layers/repair-weights")
def _repair(repair) -> str:
    """``repair(A)`` takes nearly orthonormal rows, (h, n) float64, to exactly orthonormal ones nearby."""
    for h, n in ((5, 12), (16, 16)):
        rough = haar(h, n, seeded(h)).float().double()
        given = rough.clone()
        A = require_shape(repair(rough), (h, n), f"for A of shape {(h, n)} the repaired matrix")
        if not torch.equal(given, rough):
            wrong("your function changes its argument in place; return a new matrix.")
        if torch.as_tensor(repair(given), device="cpu").dtype != torch.float64:
            wrong("the result is not float64: the cast back throws the repair away.")
        error = _row_error(A)
        if error > 1e-13:
            if (A - rough).abs().max() < 1e-15:
                wrong(f"nothing changed: the error is still {error:.1e}. A cast to float64 adds digits, not accuracy.")
            if h < n and isometry_error(A) < 1e-13:
                wrong("you made the columns orthonormal; the rows of A must be.")
            wrong(f"the rows are orthonormal only to {error:.1e}; float64 allows 1e-13. One step may be too few.")
        moved = (A - rough).abs().max().item()
        if moved > 1e-5:
            if (A.abs() - rough.abs()).abs().max() < 1e-5:
                wrong("some rows changed sign: QR fixes Q only up to signs. Multiply by the signs of R's diagonal.")
            wrong(f"the rows are orthonormal but moved by up to {moved:.1g}: this is another layer, not a repair.")
    return "orthonormal to float64, and within float32's rounding of the given weights"


@exercise("building-the-layers/wide-fold")
def _wide(A, b, x) -> str:
    """A (h, n) with h > n and orthonormal columns, b (h,), x (n,): I - 2 A^T D A is singular at x."""
    A, b, x = (torch.as_tensor(value, device="cpu").detach().to(torch.float64) for value in (A, b, x))
    if A.ndim != 2:
        wrong(f"A has shape {tuple(A.shape)}; it must be a matrix, (h, n).")
    h, n = A.shape
    if tuple(b.shape) != (h,) or tuple(x.shape) != (n,):
        wrong(f"for A of shape {(h, n)}, b must have shape ({h},) and x ({n},).")
    if h <= n:
        wrong(f"A is {h} × {n}; the question is about more rows than columns.")
    if isometry_error(A) > 1e-6:
        unit_rows = torch.allclose(A.norm(dim=1), A.new_ones(()))
        hint = " You made the rows unit vectors; divide A by more." if unit_rows else ""
        wrong(f"the columns of A are not orthonormal: max |A^T A - I| is {isometry_error(A).item():.2g}.{hint}")
    layer = Layer(n, h, alpha=1, beta=-2, outer="tied", dtype=torch.float64)
    layer.set_weights(A=A, b=b)
    if kink_margin(layer, x[None]).item() < 1e-9:
        wrong("x lies on a crease, where there is no Jacobian; move it or the biases a little.")
    smallest = singular_values(jacobian(layer, x[None], on_kink="ignore"))[0, -1].item()
    if smallest > 1e-6:
        active = int((A @ x + b > 0).sum())
        wrong(
            f"the smallest singular value at x is {smallest:.3g}, not 0. {active} of {h} units are active there; "
            "A^T D A needs the eigenvalue 1/2."
        )
    return f"with {h} units in dimension {n} the layer crushes a direction: singular value 0"


@exercise("building-the-layers/same-creases")
def _same(make) -> str:
    """``make(depth, dim, generator)`` returns a float64 network of folds that all hold one A."""
    network = make(7, 16, seeded(0))
    if not isinstance(network, DeepNetwork):
        wrong(f"you return a {type(network).__name__}; return a pso_lib DeepNetwork.")
    if (network.depth, network.dim) != (7, 16):
        wrong(f"asked for depth 7 and width 16 the network has depth {network.depth} and width {network.dim}.")
    layers = layers_of(network)
    if any(layer.A.dtype != torch.float64 for layer in layers):
        wrong("the weights are not float64; pass dtype=torch.float64.")
    first = layers[0].A
    if any(not torch.equal(layer.A, first) for layer in layers):
        wrong("the layers hold different matrices A; copy the first layer's into all others with set_weights(A=…).")
    x = _points(10, 16)
    if (error := isometry_error(jacobian(network, x)).max().item()) > 1e-12:
        wrong(f"the Jacobian of the network is not orthogonal (error {error:.1g}); use layer='fold'.")
    with torch.no_grad():
        states = network.states(x)
    if (states[1] - states[0]).abs().max() < 1e-9:
        wrong("the first layer does nothing; keep the Haar draw of A.")
    if not torch.allclose(states[-1], states[1], rtol=0, atol=1e-12):
        wrong("the states still change after the first layer; set b = 0 in all layers.")
    return "every layer after the first leaves its input where it is: F(F(x)) = F(x)"
