"""The subspace on which every layer keeps lengths, and what happens between inputs.

Along the orbit x_0 = x, x_l = F_l(x_{l-1}) let J_l = DF_l(x_{l-1}) and G_l = J_l … J_1. A network is persistently
subspace orthogonal at x on V if every G_l is an isometry on V; *strongly* so if even G_l^T G_l v = v there.
The largest strong V exists, and its dimension is the persistent dimension of the network at x.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pso_lib.analysis.jacobian import cumulative_jacobians, jacobian, judged
from pso_lib.errors import (
    checked,
    require_attributes,
    require_choice,
    require_finite,
    require_rows,
    require_same_dtype,
    require_shape,
)
from pso_lib.norms import cosines, norm, svd

__all__ = [
    "PersistentSubspace",
    "GradientBounds",
    "layer_jacobians",
    "persistent_subspace",
    "persistent_dimension",
    "gradient_bounds",
    "separation",
    "coherence",
]

_TOLERANCES = {torch.float64: 1e-8, torch.float32: 3e-4}


@dataclass(frozen=True)
class PersistentSubspace:
    """The largest strong persistent subspace at one input.

    Attributes:
        carried: orthonormal columns that span V_0 = V, V_1, …, V_L, with V_l = G_l V: (L + 1, n, d).
        dimensions: the persistent dimension of the first 0, 1, …, L layers alone: n, …, d.
        tolerance: the one it was computed with.
    """

    carried: Tensor
    dimensions: tuple[int, ...]
    tolerance: float

    @property
    def basis(self) -> Tensor:
        """Orthonormal columns that span V, (n, d)."""
        return self.carried[0]

    @property
    def dimension(self) -> int:
        """The persistent dimension d."""
        return self.carried.shape[2]


@dataclass(frozen=True)
class GradientBounds:
    """Both sides of |P_U g| <= |G_L^T g| <= |g|, each (N,), and whether the upper one is promised.

    Attributes:
        lower: |P_U g|, U = G_L V: a bound for every network.
        value: |G_L^T g|, the gradient at the first layer.
        upper: |g|, a bound if no layer stretches.
        no_layer_stretches: whether the layers' stretches, max(1, |J_l|) along the orbit, are 1 to the tolerance t all
            together: their product is at most 1 + t, and so value at most (1 + t) upper; (N,), boolean.
    """

    lower: Tensor
    value: Tensor
    upper: Tensor
    no_layer_stretches: Tensor


@checked
def layer_jacobians(network, x: Tensor) -> Tensor:
    """J_1, …, J_L along the orbit of each row of ``x``: (N, n) to (L, N, n, n). ``x`` enters the first layer.

    Each layer is differentiated by itself. A unit that sits on its kink because dead units feed it counts
    as torch differentiates it; the subspaces below do not depend on the choice.
    """
    _require_rows(network, x)
    J, h = [], x
    for layer in network.layers:
        J.append(jacobian(layer, h, on_kink="ignore"))
        with torch.no_grad():
            h = layer(h)
    return torch.stack(J)


@checked
def persistent_subspace(
    network, x: Tensor, *, tolerance: float | None = None, on_kink: str = "raise"
) -> PersistentSubspace:
    """The largest V on which the definition holds at one input ``x`` of shape (n,), to a tolerance.

    On the V returned, for every l: the singular values of G_l on V lie within 1 +- t, so the first l layers together
    keep its lengths; and |R^T (J_l^T J_l - I) u|, with R a basis of the range of G_{l-1}, is for every unit u in the
    carried subspace at most (1 + t)^2 - 1, what a stretch by 1 + t gives, so V is strong. As the tolerance t goes to 0
    this says G_l^T G_l v = v for all v in V. It is found layer by layer without forming G_l, keeping the most
    directions possible at each; at a loose tolerance another choice might keep more. What rounding leaks into an
    exploding complement is removed at each layer, before it grows. After training 0 is usual at a tight tolerance.

    Args:
        x: what enters the first layer: for data of a network with a lift, ``network.lift(x)``.
        tolerance: above 0 and below 1; None for 1e-8 in float64 and 3e-4 in float32, where weights are orthogonal to
            1e-7 at best and errors grow with depth.
        on_kink: "raise" refuses a point on a kink to within rounding, where no Jacobian exists; "ignore" takes there
            what torch takes for one.

    Raises:
        ValueError: ``x`` is not one point, is not finite, or lies on a kink; a tolerance finer than the rounding of
            x's dtype.
    """
    require_choice("on_kink", on_kink, ("raise", "ignore"))
    require_attributes("network", network, "dim", "layers")
    _require_state(network, x)
    require_shape("x", x, network.dim)
    if x.ndim != 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be one input, ({network.dim},).")
    found = _subspace(network, x, _checked_tolerance(tolerance, x, network.dim))
    return judged(found, _trunk(network), x[None], on_kink)


def _subspace(network, x: Tensor, tolerance: float) -> PersistentSubspace:
    n, rounding = network.dim, torch.finfo(x.dtype).eps * network.dim
    identity = torch.eye(n, dtype=x.dtype, device=x.device)
    images, dimensions = [identity], [n]  # G_0 V, …, G_l V for an orthonormal basis V, as columns
    reach, steepest = identity, 1.0  # R; the largest |J| so far
    for J in layer_jacobians(network, x[None])[:, 0]:
        gain = max(1.0, torch.linalg.matrix_norm(J, 2).item())
        steepest, known_to = max(steepest, gain), rounding * gain**2  # J^T J is, and so is the residual
        residual = reach.T @ (J.T @ J - identity)  # (r, n)
        leak = _leak(residual, images[-1], above=1e-3 + known_to, below=16 * rounding * steepest)
        images = [*images[:-1], images[-1] - leak]
        images = _restricted(images, _strong(residual, images[-1], max((1 + tolerance) ** 2 - 1, known_to)))
        clean = images[-1]
        images = _restricted([*images, J @ clean], _kept(J @ clean, tolerance))
        reach = _range(J @ reach, rounding)
        dimensions.append(images[-1].shape[1])
    carried = torch.stack([torch.linalg.qr(image)[0] for image in images])
    return PersistentSubspace(carried, tuple(dimensions), tolerance)


@checked
def persistent_dimension(network, x: Tensor, *, tolerance: float | None = None, on_kink: str = "raise") -> Any:
    """The persistent dimension at each row of ``x``, (N, n) to (N,), integers.

    ``x`` enters the first layer: for data of a network with a lift, ``network.lift(x)``. ``tolerance``, and what it
    means: see ``persistent_subspace``; ``on_kink`` as in ``jacobian``.
    """
    require_choice("on_kink", on_kink, ("raise", "flag", "ignore"))
    _require_rows(network, x)
    tolerance = _checked_tolerance(tolerance, x, network.dim)
    found = torch.tensor([_subspace(network, point, tolerance).dimension for point in x], device=x.device)
    return judged(found, _trunk(network), x, on_kink)


@checked
def gradient_bounds(
    network, x: Tensor, g: Tensor, *, tolerance: float | None = None, on_kink: str = "raise"
) -> GradientBounds:
    """The two-sided bound of the gradient at each row: ``x`` (N, n) enters the first layer, ``g`` (N, n) the last.

    With a tolerance t of the subspace, the lower bound holds up to a factor 1 - t, and the upper one, where no layer
    stretches, up to 1 + t. ``tolerance`` and ``on_kink``: see ``persistent_subspace``.
    """
    require_choice("on_kink", on_kink, ("raise", "ignore"))
    _require_rows(network, x)
    if g.shape != x.shape:
        raise ValueError(f"g has shape {tuple(g.shape)} and x {tuple(x.shape)}; give one gradient (N, n) per point.")
    require_same_dtype("g", g, "x", x.dtype)
    require_finite("g", g)
    tolerance = _checked_tolerance(tolerance, x, network.dim)
    J = layer_jacobians(network, x)
    pulled = g
    for layer in reversed(range(len(J))):
        pulled = (pulled.unsqueeze(1) @ J[layer]).squeeze(1)  # rows: g^T J
    lower = []
    for point, gradient in zip(x, g, strict=True):
        U = _subspace(network, point, tolerance).carried[-1]
        lower.append(norm(gradient @ U) if U.shape[1] else gradient.new_zeros(()))
    stretch = torch.linalg.matrix_norm(J, 2).clamp(min=1).prod(0)
    bounds = GradientBounds(torch.stack(lower), norm(pulled), norm(g), stretch <= 1 + tolerance)
    return judged(bounds, _trunk(network), x, on_kink)


@checked
def separation(network, x: Tensor) -> Tensor:
    """|x_l - y_l| / |x - y| averaged over all pairs of rows of ``x``: (N, n) to (L,).

    Raises ``ValueError`` if two rows are equal: they have no distance to compare with.
    """
    require_attributes("network", network, "trunk_states")
    _require_pairs(x)
    with torch.no_grad():
        states = network.trunk_states(x)
    start = _distances(states[0])
    if (start == 0).any():
        raise ValueError("x holds two equal rows, whose distance cannot shrink; give distinct points.")
    return torch.stack([(_distances(state) / start).mean() for state in states[1:]])


@checked
def coherence(network, x: Tensor) -> Tensor:
    """<G_l(x), G_l(y)> / |G_l(x)| |G_l(y)| (Frobenius), averaged over all pairs of rows: (N, n) to (L,).

    A Jacobian of zero has cosine 0 with all others.
    """
    require_attributes("network", network, "dim", "depth", "trunk", "trunk_states")
    _require_pairs(x)
    G = cumulative_jacobians(network, x, on_kink="ignore").flatten(2)  # (L, N, n n)
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return cosines(G)[:, i, j].mean(1)


def _trunk(network) -> nn.Module:
    """The layers one after the other, whose kinks are looked for."""
    return nn.Sequential(*network.layers)


def _checked_tolerance(tolerance: float | None, x: Tensor, n: int) -> float:
    """The tolerance to use for points like ``x``."""
    if x.dtype not in _TOLERANCES:
        raise ValueError(
            f"x is {x.dtype}; a persistent subspace needs float64 or float32: network.double(), x.double()."
        )
    if tolerance is None:
        return _TOLERANCES[x.dtype]
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be a number above 0 and below 1, got {tolerance!r}.")
    finest = 8 * n * torch.finfo(x.dtype).eps
    if tolerance < finest:
        remedy = "a larger tolerance" if x.dtype == torch.float64 else "float64 (network.double(), x.double())"
        raise ValueError(
            f"tolerance={tolerance:g} is finer than {x.dtype} resolves at width {n}, about {finest:.0e}; use {remedy}."
        )
    return float(tolerance)


def _require_rows(network, x: Tensor) -> None:
    require_attributes("network", network, "dim", "layers")
    _require_state(network, x)
    require_rows("x", x, network.dim)


def _require_state(network, x: Tensor) -> None:
    """Refuse data where the state before the first layer is meant, if their widths tell them apart."""
    inputs = getattr(getattr(network, "lift", None), "in_features", network.dim)
    if inputs != network.dim and x.ndim and x.shape[-1] == inputs:
        raise ValueError(
            f"x has {inputs} numbers a row, as the network's data; the first layer takes {network.dim}, after the "
            "lift: pass network.lift(x)."
        )


def _require_pairs(x: Tensor) -> None:
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; pairs need (N, n) with N >= 2.")
    require_rows("x", x)


def _distances(x: Tensor) -> Tensor:
    """Between all pairs of rows, (N, n) to (N (N - 1) / 2,), without under- or overflow."""
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return norm(x[i] - x[j])


def _restricted(images: list[Tensor], keep: Tensor) -> list[Tensor]:
    """The images of the subspace whose coordinates are the orthonormal columns of ``keep``, (d, d')."""
    return images if keep.shape[0] == keep.shape[1] else [image @ keep for image in images]


def _strong(residual: Tensor, image: Tensor, tolerance: float) -> Tensor:
    """Coordinates of the directions u of the image, (n, d), on whose unit vectors |residual u| <= tolerance."""
    if image.shape[1] == 0:
        return image.new_zeros(0, 0)
    Q, T = torch.linalg.qr(image)
    _, s, Vh = svd(residual @ Q, full_matrices=True)
    small = Vh[int((s > tolerance).sum()) :].T  # in the basis Q
    return torch.linalg.qr(torch.linalg.solve_triangular(T, small, upper=True))[0]


def _kept(image: Tensor, tolerance: float) -> Tensor:
    """Coordinates of the directions whose image, (n, d), has length 1 up to the tolerance."""
    if image.shape[1] == 0:
        return image.new_zeros(0, 0)
    _, s, Vh = svd(image)
    return Vh[(s - 1).abs() <= tolerance].T


def _leak(residual: Tensor, image: Tensor, above: float, below: float) -> Tensor:
    """The part of the image, (n, d), that is rounding, coefficients up to ``below``, along the directions that break
    the condition plainly, by more than ``above``."""
    _, s, Vh = svd(residual)
    plain = Vh[s > above]
    coefficients = plain @ image
    return plain.T @ torch.where(coefficients.abs() <= below, coefficients, 0)


def _range(M: Tensor, rounding: float) -> Tensor:
    """Orthonormal columns that span the range of M, (n, r)."""
    U, s, _ = svd(M)
    return U[:, s > rounding * s[0]] if len(s) else U
