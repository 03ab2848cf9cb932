"""Starting weights, in place, in torch's style: ``name_(layers, generator=…)``.

``layers`` is a network, one layer, or any iterable of layers (see ``pso_lib.nn.layers``). Every matrix is
drawn by itself, in float64 on the generator's device, and then cast: the same seed gives the same
network in every precision and on every device.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pso_lib.errors import checked, device_of, require_choice, require_int, require_number, require_positive_int
from pso_lib.nn.activations import Activation, PiecewiseAffine

if TYPE_CHECKING:
    from pso_lib.nn.layers import Layer  # which starts its weights by this module

__all__ = [
    "building",
    "haar",
    "seeded",
    "gaussian",
    "gain_of",
    "layers_of",
    "kaiming_",
    "xavier_",
    "orthogonal_",
    "looks_linear_",
    "shared_orthogonal_",
    "block_",
    "projection_",
]


@contextmanager
def building(device) -> Iterator[None]:
    """Within, modules that torch draws at once and ``device`` receives then may be made, also with meta as default."""
    if device is not None and torch.device(device).type != "meta" and torch.empty(0).is_meta:
        with torch.device("cpu"):
            yield
    else:
        yield


@checked
def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own, started at ``seed``."""
    return torch.Generator().manual_seed(require_int("seed", seed))


@checked
def haar(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """A (rows, columns) float64 matrix, uniform among those with orthonormal rows (rows <= columns) or columns.

    Not for a stack: ``nn.init.orthogonal_`` would flatten it, and no matrix of it would be orthogonal.
    """
    require_positive_int("rows", rows)
    require_positive_int("columns", columns)
    empty = torch.empty(rows, columns, dtype=torch.float64, device=device_of(generator))
    return nn.init.orthogonal_(empty, generator=generator)


@checked
def gaussian(rows: int, columns: int, std: float, generator: torch.Generator | None = None) -> Tensor:
    """A (rows, columns) float64 matrix of independent N(0, std^2) entries."""
    require_positive_int("rows", rows)
    require_positive_int("columns", columns)
    require_number("std", std, least=0)
    return torch.randn(rows, columns, dtype=torch.float64, device=device_of(generator), generator=generator) * std


@checked
def gain_of(activation: Activation) -> float:
    """The factor that keeps the mean square through ``activation`` at a centred normal input.

    With slopes s- and s+ around a kink at 0: sqrt(2 / (s-^2 + s+^2)), so sqrt 2 for ReLU (He et al.
    2015) and 1 for |.|. Else torch's convention: 5/3 for tanh, 1 for everything else.
    """
    if isinstance(activation, PiecewiseAffine) and activation.kinks == (0,):
        left, right = (float(s) for s in activation.slopes)
        return math.sqrt(2 / (left**2 + right**2))
    return nn.init.calculate_gain("tanh") if activation.name == "tanh" else 1.0


def layers_of(layers) -> list["Layer"]:
    """The list of layers of a network, of one layer, or of an iterable: whatever has a Layer's ``set_weights``."""
    layers = getattr(layers, "layers", layers)
    found = list(layers) if isinstance(layers, Iterable) else [layers]
    for layer in found:
        if not hasattr(layer, "set_weights") or isinstance(layer, type):
            what = f"the class {layer.__name__}" if isinstance(layer, type) else f"a {type(layer).__name__}"
            raise TypeError(
                f"layers holds {what}, which has no set_weights; give a pso_lib network, "
                "one of its layers, or a list of them."
            )
    return found


@checked
def kaiming_(layers, generator: torch.Generator | None = None) -> None:
    """He et al. (2015): A ~ N(0, gain^2 / n), B ~ N(0, 1 / h), b = 0.

    The gain of the activation stands at A alone, so that a layer with two matrices keeps the mean
    square as one with a single matrix does.
    """
    for layer in layers_of(layers):
        gain = gain_of(layer.activation)
        layer.set_weights(
            A=gaussian(layer.hidden, layer.dim, gain / math.sqrt(layer.dim), generator),
            B=gaussian(layer.hidden, layer.dim, 1 / math.sqrt(layer.hidden), generator) if layer.has_own_B else None,
            b=0.0,
        )


@checked
def xavier_(layers, generator: torch.Generator | None = None) -> None:
    """Glorot and Bengio (2010): entries of A and B are N(0, 2 / (n + h)), b = 0."""
    for layer in layers_of(layers):
        std = math.sqrt(2 / (layer.dim + layer.hidden))
        layer.set_weights(
            A=gaussian(layer.hidden, layer.dim, std, generator),
            B=gaussian(layer.hidden, layer.dim, std, generator) if layer.has_own_B else None,
            b=0.0,
        )


@checked
def orthogonal_(layers, gain: float | None = None, generator: torch.Generator | None = None) -> None:
    """Saxe, McClelland and Ganguli (2014): A = gain times a Haar matrix, B a Haar matrix, b = 0.

    ``gain=None`` takes the activation's own (sqrt 2 for ReLU). Each matrix is an independent draw.
    """
    if gain is not None:
        require_number("gain", gain, least=0)
    for layer in layers_of(layers):
        factor = gain_of(layer.activation) if gain is None else gain
        layer.set_weights(
            A=factor * haar(layer.hidden, layer.dim, generator),
            B=haar(layer.hidden, layer.dim, generator) if layer.has_own_B else None,
            b=0.0,
        )


@checked
def looks_linear_(layers, generator: torch.Generator | None = None) -> None:
    """Balduzzi et al. (2017): A = [O, -O; -O, O] with a Haar matrix O of size n/2 in each layer, B = I, b = 0.

    After the first layer the state is (z+, z-), the positive and the negative part of some z, and a layer
    maps z to O z: half of the dimensions are carried isometrically. The first layer, which has gain
    sqrt 2 on mirrored inputs, is divided by it. For ReLU and type A.
    """
    layers = layers_of(layers)
    for index, layer in enumerate(layers):
        if (
            layer.hidden != layer.dim
            or layer.alpha != 0
            or layer.activation.name != "relu"
            or layer.outer == "tied"
            or layer.dim % 2
        ):
            raise ValueError(
                f"looks_linear_ is for type A layers with ReLU, h = n even and B not tied to A, got {layer!r}; "
                'use FeedForward(dim, outer="identity") with even dim.'
            )
        half = haar(layer.dim // 2, layer.dim // 2, generator)
        A = torch.cat([torch.cat([half, -half], 1), torch.cat([-half, half], 1)])
        own_B = torch.eye(layer.dim, dtype=half.dtype, device=half.device) if layer.has_own_B else None
        layer.set_weights(A=A / math.sqrt(2) if index == 0 else A, B=own_B, b=0.0)


@checked
def shared_orthogonal_(layers, generator: torch.Generator | None = None) -> None:
    """A = B = Q, one Haar matrix Q for all layers, b = 0 (the name is that of Massucco, Murari and Schönlieb).

    Type A with ReLU is then the metric projection onto the cone {x : Qx >= 0}, so F(F(x)) = F(x).
    """
    _start_sharing(layers, 0, "he", generator, rotate=False, residual_branch_is_shared=True)


@checked
def block_(layers, k: int, *, blocks: str = "he", generator: torch.Generator | None = None) -> None:
    """Isometric on the first n - k coordinates, ordinary on the last k; b = 0.

    Type A: A = diag(Q, G), B = diag(Q, H) with one Haar matrix Q of size n - k for all layers and blocks
    G, H of size k drawn for each. Type B: the same with 0 in place of B's Q, so the branch adds nothing to
    the first n - k coordinates; k = 0 is then the identity. The name is that of Massucco, Murari and
    Schönlieb, with k the dimension of the non-isometric subspace; the construction is ours.

    Args:
        k: 0 <= k <= n. Type A: k = 0 is ``shared_orthogonal_``, k = n the ordinary start of the blocks.
        blocks: "he": G ~ N(0, gain^2 / k), H ~ N(0, 1 / k). "orthogonal": H = G, a Haar matrix.
    """
    _start_sharing(layers, k, blocks, generator, rotate=False)


@checked
def projection_(layers, k: int, *, blocks: str = "he", generator: torch.Generator | None = None) -> None:
    """``block_`` behind one Haar rotation R shared by all layers: A and B of the block start times R.

    R^T diag(I, 0) R projects onto the isometric part. Arguments as in ``block_``.
    """
    _start_sharing(layers, k, blocks, generator, rotate=True)


def _start_sharing(layers, k, blocks, generator, *, rotate: bool, residual_branch_is_shared: bool = False) -> None:
    """A = diag(Q, G) R and B = diag(Q or 0, H) R: Q and R one draw for all layers, G and H one for each."""
    require_choice("blocks", blocks, ("he", "orthogonal"))
    layers = layers_of(layers)
    n = layers[0].dim
    k = require_positive_int("k", k, least=0)
    if k > n:
        raise ValueError(f"k must be an integer from 0 to the width {n}, got {k!r}.")
    nothing = torch.zeros(0, 0, dtype=torch.float64, device=device_of(generator))
    shared = haar(n - k, n - k, generator) if k < n else nothing
    rotation = haar(n, n, generator) if rotate else torch.eye(n, dtype=torch.float64, device=shared.device)
    for layer in layers:
        if layer.dim != n or layer.hidden != n:
            raise ValueError(f"a shared start needs hidden == dim == {n} in every layer, got {layer!r}.")
        if layer.outer == "identity":
            raise ValueError('a shared start needs B: make the layers with outer="free" or outer="tied".')
        outer = shared if layer.alpha == 0 or residual_branch_is_shared else 0 * shared
        G, H = _blocks(k, blocks, gain_of(layer.activation), generator)
        A, B = torch.block_diag(shared, G) @ rotation, torch.block_diag(outer, H) @ rotation
        if layer.outer == "tied" and not torch.equal(A, B):
            raise ValueError(
                f'outer="tied" holds A and B equal, and the start asked for (k={k}, blocks={blocks!r}) does not; '
                'use outer="free".'
            )
        layer.set_weights(A=A, B=B if layer.has_own_B else None, b=0.0)


def _blocks(k: int, blocks: str, gain: float, generator) -> tuple[Tensor, Tensor]:
    if k == 0:
        return (torch.zeros(0, 0, dtype=torch.float64, device=device_of(generator)),) * 2
    if blocks == "orthogonal":
        return (haar(k, k, generator),) * 2
    return gaussian(k, k, gain / math.sqrt(k), generator), gaussian(k, k, 1 / math.sqrt(k), generator)
