"""Exact Jacobians of any network at a batch of inputs, and what is read off them.

Jacobians come from ``torch.func`` (automatic differentiation, no finite differences), in chunks that
keep memory bounded. A piecewise-affine network has no Jacobian on a kink: such inputs are refused or
flagged. Kinks are found for the activations of ``pso_lib`` and for torch's own piecewise-affine
modules; an activation called as a bare function, or a max-pooling, is not seen.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import jacfwd, jacrev, vmap

from pso_lib.activations import Activation, nearest_kink_offset
from pso_lib.errors import UndefinedError, require_choice, require_finite, require_shape

__all__ = [
    "jacobian",
    "cumulative_jacobians",
    "singular_values",
    "isometry_error",
    "stable_rank",
    "spectrum_stable_rank",
    "spectrum_by_depth",
    "gradient_norms",
    "kink_margin",
    "kink_distance",
]

# Elements that one chunk may hold in its largest intermediate: 32 MB in float64.
_CHUNK_ELEMENTS = 2**22

_TORCH_KINKS = {nn.ReLU: (0.0,), nn.LeakyReLU: (0.0,), nn.PReLU: (0.0,), nn.ReLU6: (0.0, 6.0)}


def jacobian(
    f: Callable[[Tensor], Tensor], x: Tensor, *, chunk_size: int | None = None, on_kink: str = "raise"
) -> Tensor | tuple[Tensor, Tensor]:
    """The Jacobian of ``f`` at each row of ``x``: (N, n) to (N, m, n).

    Args:
        f: maps (n,) to (m,) and, row by row, (N, n) to (N, m); a module, a bound method of one, a function.
        chunk_size: how many inputs at once; by default as many as keep a chunk near 32 MB.
        on_kink: "raise" refuses inputs that lie on a kink to within rounding; "flag" returns
            ``(J, mask)``, the mask (N,) true on a kink, where J belongs to one of the neighbouring
            pieces at best; "ignore" does not look.

    Raises:
        ValueError: non-finite inputs or weights, wrong shape, or an input on a kink.
    """
    require_choice("on_kink", on_kink, ("raise", "flag", "ignore"))
    _check(f, x)
    outputs = _probe(f, x).numel()
    forward = x.shape[1] <= outputs
    transform = jacfwd if forward else jacrev
    chunk = chunk_size or max(1, _CHUNK_ELEMENTS // (x.shape[1] * outputs))
    with _transforms():
        J = vmap(transform(f), chunk_size=chunk)(x)
    if on_kink == "ignore":
        return J
    mask = _on_kink(f, x)
    if on_kink == "flag":
        return J, mask
    if mask.any():
        rows = mask.nonzero().flatten().tolist()
        raise ValueError(
            f"x: {len(rows)} of {len(x)} inputs lie on a kink to within {x.dtype} rounding (rows {rows[:5]}"
            f"{', …' if len(rows) > 5 else ''}), where the Jacobian does not exist. Move them, "
            f'{"" if x.dtype == torch.float64 else "use float64, "}or pass on_kink="flag" to get a mask.'
        )
    return J


def cumulative_jacobians(network, x: Tensor, *, chunk_size: int | None = None) -> Tensor:
    """G_1, …, G_L at each row of ``x``: G_l is the Jacobian of the first l layers. (N, n) to (L, N, n, n).

    ``x`` enters the first layer: apply ``network.lift`` before, if there is one.
    """
    _check(network, x)
    require_shape("x", x, network.dim)
    chunk = chunk_size or max(1, _CHUNK_ELEMENTS // (network.depth * network.dim**2))

    def states(h: Tensor) -> Tensor:
        return torch.stack(network.trunk_states(h)[1:])  # (L, n)

    with _transforms():
        return vmap(jacfwd(states), chunk_size=chunk)(x).transpose(0, 1)


def singular_values(M: Tensor) -> Tensor:
    """Singular values of (..., m, n) matrices in descending order, (..., min(m, n)).

    Values below machine epsilon times the largest are rounding, not spectrum.
    """
    require_finite("M", M)
    return torch.linalg.svdvals(M)


def isometry_error(J: Tensor) -> Tensor:
    """max |J^T J - I| over the entries of each (..., m, n) matrix: 0 for orthonormal columns. Shape (...)."""
    gram = J.mT @ J
    return (gram - torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)).abs().amax((-2, -1))


def stable_rank(M: Tensor) -> Tensor:
    """The sum of the squared singular values over the largest squared, (..., m, n) to (...); between 1 and the rank."""
    return spectrum_stable_rank(singular_values(M))


def spectrum_stable_rank(s: Tensor) -> Tensor:
    """The stable rank of the matrices whose singular values are ``s``, largest first: (..., r) to (...)."""
    top = s[..., :1]
    if (top == 0).any():
        raise UndefinedError("M holds a zero matrix, whose stable rank is not defined; leave it out.")
    return ((s / top) ** 2).sum(-1)  # divided first: squares of tiny values would underflow


def spectrum_by_depth(network, x: Tensor) -> Tensor:
    """Singular values of G_1, …, G_L at each row of ``x``: (N, n) to (L, N, n)."""
    return singular_values(cumulative_jacobians(network, x))


def gradient_norms(network, x: Tensor, y: Tensor) -> Tensor:
    """Norm of the gradient of each example's cross-entropy by x_0, x_1, …, x_L: (N, d), (N,) to (L + 1, N)."""
    _check(network, x)
    states = network.states(x.detach())
    if not states[0].requires_grad:  # no lift: the first state is the input itself
        states = network.states(x.detach().requires_grad_())
    logits = network.readout(states[-1]) if network.readout is not None else states[-1]
    loss = nn.functional.cross_entropy(logits, y, reduction="sum")  # a sum: rows do not mix
    return torch.stack([g.norm(dim=-1) for g in torch.autograd.grad(loss, states)])


def kink_margin(f, x: Tensor) -> Tensor:
    """The smallest |pre-activation - kink| over all units, (N, n) to (N,); infinite without kinks."""
    _check(f, x)
    with torch.no_grad(), _recorded_offsets(f) as record:
        f(x)
    if not record:
        return torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
    return torch.stack([offset.abs().flatten(1).amin(1) for offset in record]).amin(0)


def kink_distance(f, x: Tensor, *, chunk_size: int | None = None) -> Tensor:
    """The exact Euclidean distance of each input to the nearest kink in input space, (N, n) to (N,).

    Inside its region f is affine, so each unit's pre-activation z is too, and the region is the convex
    set where none reaches its kink: the distance to its boundary is the least |z - kink| / |grad z|.
    For activations with smooth pieces only it is infinite; with smooth ones mixed in, first order only.
    """
    _check(f, x)
    offsets, gradients = _offsets_and_gradients(f, x, chunk_size)
    if offsets.shape[1] == 0:
        return torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
    return _distances(offsets, gradients).amin(1)


def _distances(offsets: Tensor, gradients: Tensor) -> Tensor:
    # A unit whose gradient is rounding does not depend on x, so its kink is nowhere near: a unit that
    # dead units feed sits at exactly 0 without being a boundary of anything.
    alive = gradients > torch.finfo(offsets.dtype).eps ** 0.5 * gradients.amax(1, keepdim=True)
    return torch.where(alive, offsets.abs() / gradients, torch.inf)


def _on_kink(f, x: Tensor) -> Tensor:
    """Which rows lie on a kink to within rounding, (N,)."""
    tolerance = 4 * torch.finfo(x.dtype).eps * (1 + x.norm(dim=1))
    mask = kink_margin(f, x) <= tolerance
    rows = mask.nonzero().flatten()
    if len(rows):  # few: look closer, in input space
        mask[rows] = kink_distance(f, x[rows]) <= tolerance[rows]
    return mask


def _offsets_and_gradients(f, x: Tensor, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """z - kink for all U units, (N, U), and the norms of their gradients by x, (N, U)."""
    with _transforms(), _recorded_offsets(f) as record:

        def offsets(point: Tensor) -> tuple[Tensor, Tensor]:
            record.clear()
            f(point)
            values = torch.cat([r.flatten() for r in record]) if record else point.new_zeros(0)
            return values, values

        units = len(offsets(x[0])[0])
        chunk = chunk_size or max(1, 4 * _CHUNK_ELEMENTS // max(1, units * x.shape[1]))

        def one(point: Tensor) -> tuple[Tensor, Tensor]:
            gradient, value = jacfwd(offsets, has_aux=True)(point)
            return value, gradient.norm(dim=-1)

        values, norms = vmap(one, chunk_size=chunk)(x)
    return values, norms


@contextmanager
def _transforms() -> Iterator[None]:
    """How every transform runs: without a graph over the weights, which each chunk would keep, and without
    the deprecation warning that torch raises at its own first forward-mode call."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
        yield


@contextmanager
def _recorded_offsets(f) -> Iterator[list[Tensor]]:
    """Collect z - kink of every piecewise-affine activation that f calls, while the context is open."""
    module = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    record, handles = [], []

    def hook(activation, inputs):
        (z,) = inputs
        if isinstance(activation, Activation):
            record.append(activation.kink_offset(z))
        else:
            record.append(nearest_kink_offset(z, _TORCH_KINKS[type(activation)]))

    for part in module.modules() if isinstance(module, nn.Module) else ():
        if type(part) in _TORCH_KINKS or (isinstance(part, Activation) and part.is_affine_in_pieces):
            handles.append(part.register_forward_pre_hook(hook))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _probe(f, x: Tensor) -> Tensor:
    with torch.no_grad():
        out = f(x[0])
    if out.ndim != 1:
        raise ValueError(f"f maps a point of shape {tuple(x[0].shape)} to shape {tuple(out.shape)}; it must give (m,).")
    return out


def _check(f, x: Tensor) -> None:
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, n), N >= 1. One point is x[None].")
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}; Jacobians need floating point: x.double().")
    require_finite("x", x)
    module = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    if isinstance(module, nn.Module):
        for name, weight in module.named_parameters():
            require_finite(f"weight {name}", weight.detach())
