"""Where a network that is affine in pieces bends, and how far away that is.

Kinks are found for the activations of ``pso_lib`` and for torch's own modules that have some; an activation called as
a bare function, or a max-pooling, is not seen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from pso_lib.analysis.transforms import (
    lacks_vmap,
    module_of,
    named_dtypes,
    of_points,
    plain_kernels,
    row_jacobians,
    uncompiled,
)
from pso_lib.errors import checked, require_finite, require_floating, require_positive_int, require_rows
from pso_lib.nn.activations import Activation, nearest_kink_offset
from pso_lib.nn.init import seeded
from pso_lib.norms import norm

__all__ = ["kink_distance", "kink_margin", "lies_on_kink"]

# Elements that one chunk may hold in its largest intermediate: 32 MB in float64.
CHUNK_ELEMENTS = 2**22
_SHAKE = 2.0**-10


def _unless(straight: bool, *kinks: float) -> tuple[float, ...]:
    return () if straight else kinks


# Subclasses count as what they extend; ReLU6 is a Hardtanh.
_TORCH_KINKS = {
    nn.ReLU: lambda m: (0.0,),
    nn.LeakyReLU: lambda m: _unless(m.negative_slope == 1, 0.0),
    nn.PReLU: lambda m: (0.0,),  # channel by channel, see _offset
    nn.RReLU: lambda m: _unless(m.lower == m.upper == 1, 0.0),
    nn.Hardtanh: lambda m: (m.min_val, m.max_val),
    nn.Threshold: lambda m: (m.threshold,),
    nn.Softshrink: lambda m: _unless(m.lambd == 0, -m.lambd, m.lambd),
    nn.Hardshrink: lambda m: _unless(m.lambd == 0, -m.lambd, m.lambd),
    nn.Hardsigmoid: lambda m: (-3.0, 3.0),
    nn.Hardswish: lambda m: (-3.0, 3.0),
    nn.ELU: lambda m: _unless(m.alpha == 1, 0.0),
    nn.SELU: lambda m: (0.0,),
}


@checked
def kink_margin(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The smallest |pre-activation - kink| over all units, (N, …) to (N,); infinite without kinks."""
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, n), or (N, …) as f takes it, N >= 1.")
    require_floating("x", x)
    require_finite("x", x)
    with torch.no_grad(), _recorded_offsets(f) as record, named_dtypes(f, x):
        f(x.clone())  # what works in place shall not reach x
    if not record:
        return torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
    return torch.stack([offset.abs().flatten(1).amin(1) for offset in record]).amin(0)


@checked
def kink_distance(f: Callable[[Tensor], Tensor], x: Tensor, *, chunk_size: int | None = None) -> Tensor:
    """The exact Euclidean distance of each input to the nearest kink in input space, (N, n) to (N,).

    Inside its region f is affine, so each unit's pre-activation z is too, and the region is the convex
    set where none reaches its kink: the distance to its boundary is the least |z - kink| / |grad z|.
    For activations with smooth pieces only it is infinite; with smooth ones mixed in, first order only.
    A unit counts whether or not the output depends on it here; one whose z does not depend on x has no kink: dead units
    may feed it exactly 0 forever. That is so where grad z is sqrt(eps) of the terms it is a sum of, or less.
    """
    require_rows("x", x)
    chunk_size = None if chunk_size is None else require_positive_int("chunk_size", chunk_size)
    offsets, gradients = _offsets_and_gradients(f, x, chunk_size)
    if offsets.shape[1] == 0:
        return torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
    return torch.where(_alive(f, x, chunk_size), offsets.abs() / gradients, torch.inf).amin(1)


def lies_on_kink(f, x: Tensor) -> Tensor:
    """Which rows lie on a kink to within rounding: at most 4 eps |x| away, (N, n) to (N,)."""
    tolerance = 4 * torch.finfo(x.dtype).eps * norm(x)
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    offsets, slopes = _offsets_and_slopes(f, x)
    if offsets.shape[1] == 0:
        return mask
    near = offsets.abs() / slopes <= 30 * tolerance[:, None]  # false where it is 0 / 0
    rows = near.any(1).nonzero().flatten()
    if len(rows):
        rows = rows[(near[rows] & _alive(f, x[rows])).any(1)]
    if len(rows):  # few: look closer
        mask[rows] = kink_distance(f, x[rows]) <= tolerance[rows]
    return mask


def _alive(f, x: Tensor, chunk_size: int | None = None) -> Tensor:
    """Which units depend on x, (N, U): whose slopes are more than rounding, sqrt(eps) of what is added up to them.

    Other units say nothing about that, theirs may be larger by any factor: each unit's own way from x is shaken.
    """
    rounding = torch.finfo(x.dtype).eps ** 0.5  # what layers with the same weights leave does add up over hundreds

    def alive(part: Tensor) -> tuple[Tensor]:
        slopes = _slopes(f, part)[1]
        terms = norm(_slopes(f, part, shaken=True)[1] - slopes) / _SHAKE
        return (norm(slopes) > rounding * terms,)

    return _by_rows(alive, f, x, chunk_size)[0]


def _offsets_and_gradients(f, x: Tensor, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """z - kink for all U units, (N, U), and the norms of their gradients by x, (N, U)."""

    def measure(part: Tensor) -> tuple[Tensor, Tensor]:
        offsets, gradients = _gradients(f, part)
        return offsets, norm(gradients)

    return _by_rows(measure, f, x, chunk_size, size=x.shape[1] / 4)


def _offsets_and_slopes(f, x: Tensor) -> tuple[Tensor, Tensor]:
    """z - kink, (N, U), and roughly |grad z|, (N, U): its root mean square along four random directions.

    Too small by a factor of 30 once in a million.
    """

    def measure(part: Tensor) -> tuple[Tensor, Tensor]:
        offsets, slopes = _slopes(f, part)
        return offsets, norm(slopes) / 2

    return _by_rows(measure, f, x)


def _by_rows(measure, f, x: Tensor, chunk_size: int | None = None, size: float = 4) -> Any:
    """What is measured of so many rows at once that ``size`` numbers a unit keep a chunk small."""
    with _offsets_of(f, x) as offsets:
        units = len(offsets(x[0].clone())[0])
    chunk = chunk_size or max(1, int(CHUNK_ELEMENTS / max(1, units * size)))
    return tuple(torch.cat(parts) for parts in zip(*map(measure, x.split(chunk)), strict=True))


def _gradients(f, x: Tensor, shaken: bool = False) -> tuple[Tensor, Tensor]:
    """z - kink, (N, U), and grad z by x, (N, U, n)."""
    with _offsets_of(f, x, shaken) as offsets:
        gradients, values = row_jacobians(offsets, x, wide=False, chunk=len(x), has_aux=True)
    return values, gradients


def _slopes(f, x: Tensor, shaken: bool = False) -> tuple[Tensor, Tensor]:
    """z - kink, (N, U), and grad z along four random directions, (N, U, 4).

    A forward derivative each, where the gradients would take n.
    """
    generator = seeded(0)
    v = torch.randn(4, x.shape[1], generator=generator, dtype=torch.float64, device=generator.device).to(x)
    with _offsets_of(f, x, shaken) as offsets:

        def along(point: Tensor) -> tuple[Tensor, Tensor]:
            slopes = vmap(lambda d: jvp(lambda p: offsets(p)[0], (point,), (d,))[1])(v)
            return offsets(point)[0], slopes.T

        try:
            with plain_kernels():
                return vmap(along)(x)
        except NotImplementedError:  # an operation without forward mode
            pass
        except RuntimeError as error:
            if not lacks_vmap(error):
                raise
    values, gradients = zip(*(_gradients(f, row, shaken) for row in x.split(1)), strict=True)
    return torch.cat(values), torch.cat([gradient @ v.T for gradient in gradients])


@contextmanager
def _offsets_of(f, x: Tensor, shaken: bool = False):
    """A function from a point to z - kink of all units, twice: as ``row_jacobians`` wants it with ``has_aux``."""
    g = of_points(f, x)
    with _recorded_offsets(f, shaken) as record:

        def offsets(point: Tensor) -> tuple[Tensor, Tensor]:
            record.clear()
            g(point)
            values = torch.cat([r.flatten() for r in record]) if record else point.new_zeros(0)
            return values, values

        with torch.no_grad():
            yield offsets


@contextmanager
def _recorded_offsets(f, shaken: bool = False) -> Iterator[list[Tensor]]:
    """Collect z - kink of every piecewise-affine activation that f calls, while the context is open."""
    module = module_of(f)
    record: list[Tensor] = []
    handles = []

    def shake(part, args):
        return (_shaken(args[0], len(record)), *args[1:]) if args and isinstance(args[0], Tensor) else None

    def hook(activation, args, kwargs):
        record.append(_offset(activation, args[0] if args else next(iter(kwargs.values()))))

    for part in module.modules() if module is not None else ():
        if shaken:
            handles.append(part.register_forward_pre_hook(shake))
        if _kinks_of(part) is not None or (isinstance(part, Activation) and part.is_affine_in_pieces):
            handles.append(part.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        with uncompiled():
            yield record
    finally:
        for handle in handles:
            handle.remove()


def _shaken(z: Tensor, turn: int) -> Tensor:
    """z itself, with derivatives that are off by up to a thousandth, each by its own share."""
    if not z.is_floating_point():
        return z
    wave = torch.cos(2.4 * torch.arange(z.numel(), device=z.device) + turn).to(z).view(z.shape)
    return z + _SHAKE * wave * (z - z.detach())


def _kinks_of(part: nn.Module):
    return next((kinks for kind, kinks in _TORCH_KINKS.items() if isinstance(part, kind)), None)


def _offset(activation: nn.Module, z: Tensor) -> Tensor:
    """z minus the nearest kink, infinite where there is none."""
    if isinstance(activation, Activation):
        return activation.kink_offset(z)
    offset = nearest_kink_offset(z, _kinks_of(activation)(activation))
    if isinstance(activation, nn.PReLU):
        slopes = activation.weight.detach()
        slopes = slopes if slopes.numel() == 1 else slopes.view(-1, *[1] * (z.ndim - 2))  # channels: the second axis
        offset = torch.where(slopes == 1, torch.inf, offset)
    return offset
