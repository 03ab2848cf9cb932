"""Exact Jacobians of any network at a batch of inputs, and what is read off them.

Jacobians come from ``torch.func`` (automatic differentiation, no finite differences), in chunks that
keep memory bounded. A piecewise-affine network has no Jacobian on a kink: such inputs are refused or
flagged, as far as the kinks are seen; see ``pso_lib.analysis.kinks``.
"""

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from pso_lib.analysis.kinks import CHUNK_ELEMENTS, kink_distance, kink_margin, lies_on_kink
from pso_lib.analysis.spectrum import singular_values
from pso_lib.analysis.transforms import module_of, named_dtypes, of_points, row_jacobians
from pso_lib.errors import (
    checked,
    require_attributes,
    require_choice,
    require_finite,
    require_labels,
    require_positive_int,
    require_rows,
    require_shape,
)
from pso_lib.norms import norm

__all__ = [
    "cumulative_jacobians",
    "gradient_norms",
    "jacobian",
    "judged",
    "kink_distance",
    "kink_margin",
    "spectrum_by_depth",
]


@overload
def jacobian(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    chunk_size: int | None = None,
    on_kink: Literal["raise", "ignore"] = "raise",
    create_graph: bool = False,
) -> Tensor: ...
@overload
def jacobian(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    chunk_size: int | None = None,
    on_kink: Literal["flag"],
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]: ...
@checked
def jacobian(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    chunk_size: int | None = None,
    on_kink: str = "raise",
    create_graph: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The Jacobian of ``f`` at each row of ``x``: (N, n) to (N, m, n).

    Args:
        f: maps (n,) to (m,) and, row by row, (N, n) to (N, m); a module, a bound method of one, a function.
        chunk_size: how many inputs at once; by default as many as keep a chunk near 32 MB.
        on_kink: "raise" refuses inputs that lie on a kink to within rounding; "flag" returns
            ``(J, mask)``, the mask (N,) true on a kink, where J belongs to one of the neighbouring
            pieces at best; "ignore" does not look.
        create_graph: whether J can be differentiated further, by the weights or by x: a penalty on it trains.
            By default it is detached from them. Keeps the graph of all N rows in memory.

    What is computed under ``torch.no_grad`` in ``f``, or detached, counts as a constant.

    Raises:
        ValueError: non-finite inputs or weights, wrong shape or precision, or an input on a kink.
    """
    require_choice("on_kink", on_kink, ("raise", "flag", "ignore"))
    _check(f, x)
    g = of_points(f, x)
    outputs = _probe(g, x).numel()
    chunk = _chunk(chunk_size, x.shape[1] * outputs)
    J = row_jacobians(g, x, wide=x.shape[1] > outputs, chunk=chunk, create_graph=create_graph)
    return judged(J, f, x, on_kink)


@overload
def cumulative_jacobians(
    network, x: Tensor, *, chunk_size: int | None = None, on_kink: Literal["raise", "ignore"] = "raise"
) -> Tensor: ...
@overload
def cumulative_jacobians(
    network, x: Tensor, *, chunk_size: int | None = None, on_kink: Literal["flag"]
) -> tuple[Tensor, Tensor]: ...
@checked
def cumulative_jacobians(
    network, x: Tensor, *, chunk_size: int | None = None, on_kink: str = "raise"
) -> Tensor | tuple[Tensor, Tensor]:
    """G_1, …, G_L at each row of ``x``: G_l is the Jacobian of the first l layers. (N, n) to (L, N, n, n).

    ``x`` enters the first layer: apply ``network.lift`` before, if there is one. ``on_kink`` as in ``jacobian``.
    """
    require_choice("on_kink", on_kink, ("raise", "flag", "ignore"))
    require_attributes("network", network, "dim", "depth", "trunk", "trunk_states")
    _check(network, x)
    require_shape("x", x, network.dim)
    chunk = _chunk(chunk_size, network.depth * network.dim**2)

    def states(h: Tensor) -> Tensor:
        return torch.stack(network.trunk_states(h)[1:])  # (L, n)

    with named_dtypes(network, x):
        G = row_jacobians(states, x, wide=False, chunk=chunk).transpose(0, 1)
    return judged(G, network.trunk, x, on_kink)


@overload
def spectrum_by_depth(network, x: Tensor, *, on_kink: Literal["raise", "ignore"] = "raise") -> Tensor: ...
@overload
def spectrum_by_depth(network, x: Tensor, *, on_kink: Literal["flag"]) -> tuple[Tensor, Tensor]: ...
@checked
def spectrum_by_depth(network, x: Tensor, *, on_kink: Any = "raise") -> Tensor | tuple[Tensor, Tensor]:
    """Singular values of G_1, …, G_L at each row of ``x``: (N, n) to (L, N, n). ``on_kink`` as in ``jacobian``."""
    found = cumulative_jacobians(network, x, on_kink=on_kink)
    return (singular_values(found[0]), found[1]) if on_kink == "flag" else singular_values(found)


@overload
def gradient_norms(network, x: Tensor, y: Tensor, *, on_kink: Literal["raise", "ignore"] = "raise") -> Tensor: ...
@overload
def gradient_norms(network, x: Tensor, y: Tensor, *, on_kink: Literal["flag"]) -> tuple[Tensor, Tensor]: ...
@checked
def gradient_norms(network, x: Tensor, y: Tensor, *, on_kink: str = "raise") -> Tensor | tuple[Tensor, Tensor]:
    """Norm of the gradient of each example's cross-entropy by x_0, x_1, …, x_L: (N, d), (N,) to (L + 1, N).

    ``on_kink`` as in ``jacobian``.
    """
    require_choice("on_kink", on_kink, ("raise", "flag", "ignore"))
    require_attributes("network", network, "states", "readout")
    _check(network, x)
    with torch.enable_grad(), named_dtypes(network, x):
        states = network.states(x.detach())
        if not states[0].requires_grad:  # no lift: the first state is the input itself
            states = network.states(x.detach().requires_grad_())
        logits = network.readout(states[-1]) if network.readout is not None else states[-1]
        require_labels("y", y, len(x), logits.shape[-1], of="x")
        loss = nn.functional.cross_entropy(logits, y.long(), reduction="sum")  # a sum: rows do not mix
        norms = torch.stack([norm(g) for g in torch.autograd.grad(loss, states)])
    return judged(norms, network, x, on_kink)


def judged(found: Any, f, x: Tensor, on_kink: str) -> Any:
    """What was found, with the mask of the rows on a kink if asked for; or refused for them."""
    if on_kink == "ignore":
        return found
    mask = lies_on_kink(f, x)
    if on_kink == "flag":
        return found, mask
    if mask.any():
        rows = mask.nonzero().flatten().tolist()
        raise ValueError(
            f"x: {len(rows)} of {len(x)} inputs lie on a kink to within {x.dtype} rounding (rows {rows[:5]}"
            f"{', …' if len(rows) > 5 else ''}), where the Jacobian does not exist. Move them, "
            f'{"" if x.dtype == torch.float64 else "use float64, "}or pass on_kink="flag" to get a mask.'
        )
    return found


def _probe(f, x: Tensor) -> Tensor:
    with torch.no_grad():
        out = f(x[0].clone())
    if out.ndim != 1:
        raise ValueError(f"f maps a point of shape {tuple(x[0].shape)} to shape {tuple(out.shape)}; it must give (m,).")
    return out


def _chunk(chunk_size: int | None, elements: int) -> int:
    """How many inputs at once: as asked, or as many as fit, each of so many elements."""
    if chunk_size is not None:
        return require_positive_int("chunk_size", chunk_size)
    return max(1, CHUNK_ELEMENTS // elements)


def _check(f, x: Tensor) -> None:
    require_rows("x", x)
    module = module_of(f)
    if module is not None:
        for name, weight in module.named_parameters():
            require_finite(f"weight {name}", weight.detach())
