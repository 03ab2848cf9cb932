"""Starting weights, in place, in torch's style: ``name_(layers, generator=…)``.

``layers`` is a network, one layer, or any iterable of layers (see ``pso_lib.layers``). Every matrix is
drawn by itself, in float64 on the generator's device, and then cast: the same seed gives the same
network in every precision and on every device.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pso_lib.activations import Activation, PiecewiseAffine
from pso_lib.errors import require_positive_int

__all__ = ["haar", "gaussian", "gain_of", "layers_of", "kaiming_", "xavier_", "orthogonal_"]


def haar(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """A (rows, columns) float64 matrix, uniform among those with orthonormal rows (rows <= columns) or columns.

    Not for a stack: ``nn.init.orthogonal_`` would flatten it, and no matrix of it would be orthogonal.
    """
    require_positive_int("rows", rows)
    require_positive_int("columns", columns)
    device = generator.device if generator is not None else None
    return nn.init.orthogonal_(torch.empty(rows, columns, dtype=torch.float64, device=device), generator=generator)


def gaussian(rows: int, columns: int, std: float, generator: torch.Generator | None = None) -> Tensor:
    """A (rows, columns) float64 matrix of independent N(0, std^2) entries."""
    device = generator.device if generator is not None else None
    return torch.randn(rows, columns, dtype=torch.float64, device=device, generator=generator) * std


def gain_of(activation: Activation) -> float:
    """The factor that keeps the mean square through ``activation`` at a centred normal input.

    With slopes s- and s+ around a kink at 0: sqrt(2 / (s-^2 + s+^2)), so sqrt 2 for ReLU (He et al.
    2015) and 1 for |.|. Else torch's convention: 5/3 for tanh, 1 for everything else.
    """
    if isinstance(activation, PiecewiseAffine) and activation.kinks == (0,):
        left, right = (float(s) for s in activation.slopes)
        return math.sqrt(2 / (left**2 + right**2))
    return nn.init.calculate_gain("tanh") if activation.name == "tanh" else 1.0


def layers_of(layers) -> list[nn.Module]:
    """The list of layers of a network, of one layer, or of an iterable."""
    layers = getattr(layers, "layers", layers)
    found = list(layers) if isinstance(layers, Iterable) else [layers]
    for layer in found:
        if not hasattr(layer, "set_weights"):
            raise TypeError(
                f"layers holds a {type(layer).__name__}, which has no set_weights; give a pso_lib network, "
                "one of its layers, or a list of them."
            )
    return found


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


def xavier_(layers, generator: torch.Generator | None = None) -> None:
    """Glorot and Bengio (2010): entries of A and B are N(0, 2 / (n + h)), b = 0."""
    for layer in layers_of(layers):
        std = math.sqrt(2 / (layer.dim + layer.hidden))
        layer.set_weights(
            A=gaussian(layer.hidden, layer.dim, std, generator),
            B=gaussian(layer.hidden, layer.dim, std, generator) if layer.has_own_B else None,
            b=0.0,
        )


def orthogonal_(layers, gain: float | None = None, generator: torch.Generator | None = None) -> None:
    """Saxe, McClelland and Ganguli (2014): A = gain times a Haar matrix, B a Haar matrix, b = 0.

    ``gain=None`` takes the activation's own (sqrt 2 for ReLU). Each matrix is an independent draw.
    """
    for layer in layers_of(layers):
        factor = gain_of(layer.activation) if gain is None else gain
        layer.set_weights(
            A=factor * haar(layer.hidden, layer.dim, generator),
            B=haar(layer.hidden, layer.dim, generator) if layer.has_own_B else None,
            b=0.0,
        )
