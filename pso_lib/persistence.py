"""The subspace on which every layer keeps lengths, and what happens between inputs.

Along the orbit x_0 = x, x_l = F_l(x_{l-1}) let J_l = DF_l(x_{l-1}) and G_l = J_l … J_1. A network is persistently
subspace orthogonal at x on V if every G_l is an isometry on V; *strongly* so if even G_l^T G_l v = v there.
The largest strong V exists, and its dimension is the persistent dimension of the network at x.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pso_lib.errors import require_shape
from pso_lib.jacobian import cumulative_jacobians, jacobian

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
        no_layer_stretches: whether every |J_l| <= 1 along the orbit, to 1e-8; (N,), boolean.
    """

    lower: Tensor
    value: Tensor
    upper: Tensor
    no_layer_stretches: Tensor


def layer_jacobians(network, x: Tensor) -> Tensor:
    """J_1, …, J_L along the orbit of each row of ``x``: (N, n) to (L, N, n, n). ``x`` enters the first layer.

    Each layer is differentiated by itself. A unit that sits on its kink because dead units feed it counts
    as torch differentiates it; the subspaces below do not depend on the choice.
    """
    require_shape("x", x, network.dim)
    J, h = [], x
    for layer in network.layers:
        J.append(jacobian(layer, h, on_kink="ignore"))
        with torch.no_grad():
            h = layer(h)
    return torch.stack(J)


def persistent_subspace(network, x: Tensor, *, tolerance: float = 1e-8) -> PersistentSubspace:
    """The largest V with G_l^T G_l v = v for all v in V and all l, at one input ``x`` of shape (n,).

    Found layer by layer without ever forming G_l: with U the carried subspace and R a basis of the range
    of G_{l-1}, a direction u of U stays if R^T (J_l^T J_l - I) u = 0, the definition's condition one layer
    on. What rounding leaks into an exploding complement is removed at each layer, before it grows. Use
    float64. A direction stays if its residual is at most ``tolerance`` times max(1, |J_l|^2).

    Raises:
        ValueError: ``x`` is not one point, or is not finite.
    """
    require_shape("x", x, network.dim)
    if x.ndim != 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; a persistent subspace is of one input, ({network.dim},).")
    n = network.dim
    carried = [torch.eye(n, dtype=x.dtype, device=x.device)]  # V_0 … V_l, columns
    reach, dimensions = carried[0], [n]  # R
    for J in layer_jacobians(network, x[None])[:, 0]:
        scale = max(1.0, torch.linalg.matrix_norm(J, 2).item() ** 2)
        residual = reach.T @ (J.T @ J - torch.eye(n, dtype=x.dtype, device=x.device))  # (r, n)
        keep = _null_space(residual @ carried[-1], tolerance * scale)  # (d, d')
        if keep.shape[1] < keep.shape[0]:
            carried = [torch.linalg.qr(part @ keep)[0] for part in carried]
        clean = carried[-1] - _leak(residual / scale, carried[-1])
        carried.append(torch.linalg.qr(J @ clean)[0])
        reach = _range(J @ reach, tolerance)
        dimensions.append(carried[-1].shape[1])
    return PersistentSubspace(torch.stack(carried), tuple(dimensions), tolerance)


def persistent_dimension(network, x: Tensor, *, tolerance: float = 1e-8) -> Tensor:
    """The persistent dimension at each row of ``x``, (N, n) to (N,), integers."""
    require_shape("x", x, network.dim)
    return torch.tensor([persistent_subspace(network, point, tolerance=tolerance).dimension for point in x])


def gradient_bounds(network, x: Tensor, g: Tensor, *, tolerance: float = 1e-8) -> GradientBounds:
    """The two-sided bound of the gradient at each row: ``x`` (N, n) enters the first layer, ``g`` (N, n) the last."""
    require_shape("g", g, network.dim)
    J = layer_jacobians(network, x)
    pulled = g
    for layer in reversed(range(len(J))):
        pulled = (pulled.unsqueeze(1) @ J[layer]).squeeze(1)  # rows: g^T J
    lower = []
    for point, gradient in zip(x, g, strict=True):
        U = persistent_subspace(network, point, tolerance=tolerance).carried[-1]
        lower.append((gradient @ U).norm())
    stretch = torch.linalg.matrix_norm(J, 2).amax(0)
    return GradientBounds(torch.stack(lower), pulled.norm(dim=1), g.norm(dim=1), stretch <= 1 + 1e-8)


def separation(network, x: Tensor) -> Tensor:
    """|x_l - y_l| / |x - y| averaged over all pairs of rows of ``x``: (N, n) to (L,)."""
    _require_pairs(x)
    with torch.no_grad():
        states = network.trunk_states(x)
    start = torch.pdist(states[0])
    return torch.stack([(torch.pdist(state) / start).mean() for state in states[1:]])


def coherence(network, x: Tensor) -> Tensor:
    """<G_l(x), G_l(y)> / |G_l(x)| |G_l(y)| (Frobenius), averaged over all pairs of rows: (N, n) to (L,)."""
    _require_pairs(x)
    G = cumulative_jacobians(network, x).flatten(2)  # (L, N, n n)
    G = torch.nn.functional.normalize(G, dim=2)
    cosines = G @ G.mT
    i, j = torch.triu_indices(len(x), len(x), 1)
    return cosines[:, i, j].mean(1)


def _require_pairs(x: Tensor) -> None:
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; pairs need (N, n) with N >= 2.")


def _null_space(M: Tensor, tolerance: float) -> Tensor:
    """Orthonormal columns on which M, (r, d), is at most ``tolerance``."""
    if M.shape[1] == 0:
        return M.new_zeros(0, 0)
    _, s, Vh = torch.linalg.svd(M, full_matrices=True)
    rank = int((s > tolerance).sum())
    return Vh[rank:].T


def _leak(residual: Tensor, U: Tensor) -> Tensor:
    """The part of U, (n, d), along the directions that break the condition plainly, not by a hair."""
    _, s, Vh = torch.linalg.svd(residual, full_matrices=False)
    plain = Vh[s > 1e-3]
    return plain.T @ (plain @ U)


def _range(M: Tensor, tolerance: float) -> Tensor:
    """Orthonormal columns that span the range of M, (n, r)."""
    U, s, _ = torch.linalg.svd(M, full_matrices=False)
    return U[:, s > tolerance * s[0]] if len(s) else U
