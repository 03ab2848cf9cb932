"""Deep networks: an affine lift, L layers of one width, an affine readout."""

import inspect
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict, Unpack, get_args

import torch
from torch import Tensor, nn

from pso_lib.errors import (
    checked,
    device_of,
    nearest,
    require_choice,
    require_dtype,
    require_positive_int,
    require_shape,
)
from pso_lib.nn import init
from pso_lib.nn.activations import Activation
from pso_lib.nn.layers import Layer, Orthogonal, Outer, kinds

__all__ = ["DeepNetwork", "deep_network", "plain_network", "starts"]

starts: dict[str, Callable[..., None]] = {"he": init.kaiming_, "xavier": init.xavier_, "orthogonal": init.orthogonal_}


class DeepNetwork(nn.Module):
    """readout(F_L(… F_1(lift(x)))), for x of shape (..., d). Lift and readout may be left out.

    Attributes:
        layers: the L layers; ``depth`` is L and ``dim`` their common width n.
        lift, readout: the first and last affine maps, or None.
    """

    @checked
    def __init__(self, layers: Iterable[nn.Module], lift: nn.Module | None = None, readout: nn.Module | None = None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        if not self.layers:
            raise ValueError("layers is empty; a network needs at least one layer.")
        widths: set[int] = set()
        for index, layer in enumerate(self.layers):
            width = getattr(layer, "dim", None)
            if not isinstance(width, numbers.Integral):
                raise TypeError(
                    f"layers[{index}] is a {type(layer).__name__} without .dim, its width n; give pso_lib layers, such "
                    "as FeedForward(n), or modules from R^n to R^n that have an attribute dim."
                )
            widths.add(int(width))
        if len(widths) > 1:
            raise ValueError(f"layers have different widths {sorted(widths)}; all must map R^n to the same R^n.")
        self.lift, self.readout = lift, readout
        self.depth, self.dim = len(self.layers), widths.pop()
        if isinstance(lift, nn.Linear) and lift.out_features != self.dim:
            raise ValueError(f"lift ends in dimension {lift.out_features}; the layers have width {self.dim}.")
        if isinstance(readout, nn.Linear) and readout.in_features != self.dim:
            raise ValueError(f"readout starts from dimension {readout.in_features}; the layers have width {self.dim}.")

    def trunk(self, h: Tensor) -> Tensor:
        """The layers alone: (..., n) to (..., n)."""
        require_shape("h", h, self.dim)
        for layer in self.layers:
            h = layer(h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(self._lifted(x))
        return self.readout(h) if self.readout is not None else h

    def states(self, x: Tensor) -> list[Tensor]:
        """x_0, x_1, …, x_L: what enters the first layer and what leaves each, all (..., n)."""
        return self.trunk_states(self._lifted(x))

    def _lifted(self, x: Tensor) -> Tensor:
        if isinstance(self.lift, nn.Linear):
            require_shape("x", x, self.lift.in_features)
            require_dtype("x", x, self.lift.bias.dtype if self.lift.bias is not None else self.lift.weight.dtype)
        if self.lift is None:
            require_shape("x", x, self.dim)
            return x
        return self.lift(x)

    def trunk_states(self, h: Tensor) -> list[Tensor]:
        """The same for an h that enters the first layer, without the lift."""
        states = [h]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states

    def extra_repr(self) -> str:
        return f"depth={self.depth}, dim={self.dim}"


Kind = Literal["feedforward", "residual", "fold", "modified_feedforward"]
Ends = Literal["orthogonal", "default"]


class LayerOptions(TypedDict, total=False):
    """What ``deep_network`` hands on to each of its layers."""

    activation: str | Activation
    hidden: int | None
    outer: Outer
    orthogonal: Orthogonal
    bias: bool
    beta: float


@checked
def deep_network(
    depth: int,
    dim: int = 64,
    *,
    layer: Kind = "feedforward",
    inputs: int | None = None,
    classes: int | None = None,
    ends: Ends = "orthogonal",
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device=None,
    **layer_options: Unpack[LayerOptions],
) -> DeepNetwork:
    """A network of ``depth`` equal layers of width ``dim``.

    Args:
        depth, dim: how many layers, and how wide.
        layer: "feedforward", "residual", "fold" or "modified_feedforward"; ``layer_options`` go to it: activation=,
            hidden=, outer=, orthogonal=, bias=, beta= (see ``pso_lib.nn.layers``).
        inputs: dimension of the data; None leaves out the lift.
        classes: dimension of the output; None leaves out the readout.
        ends: lift and readout with orthonormal rows or columns ("orthogonal", bias 0) or as
            ``nn.Linear`` starts them ("default").
        generator: draws lift, layers and readout, in this order; torch's global one if None.
    """
    depth, dim = require_positive_int("depth", depth), require_positive_int("dim", dim)
    require_choice("layer", layer, kinds)
    require_choice("ends", ends, get_args(Ends))
    _require_layer_options(kinds[layer], layer_options)
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    lift = _affine(inputs, dim, ends, generator, options, "inputs") if inputs is not None else None
    layers = [kinds[layer](dim, generator=generator, **options, **layer_options) for _ in range(depth)]
    readout = _affine(dim, classes, ends, generator, options, "classes") if classes is not None else None
    return DeepNetwork(layers, lift, readout)


def _require_layer_options(kind: type[Layer], options: Iterable[str]) -> None:
    fixed = {"self", "dim", "generator", "dtype", "device"}
    known = [
        *(set(inspect.signature(Layer).parameters) | set(inspect.signature(kind).parameters)) - fixed - {"options"}
    ]
    for name in options:
        if name not in known:
            own = [*inspect.signature(deep_network).parameters]
            raise TypeError(
                f"deep_network has no option {name!r}, nor has the layer {kind.__name__}; it takes "
                f"{', '.join(sorted(known))}.{nearest(name, [*own, *known])}"
            )


@checked
def plain_network(
    depth: int,
    dim: int = 64,
    *,
    start: Literal["he", "xavier", "orthogonal"] = "he",
    activation="relu",
    generator: torch.Generator | None = None,
    **options,
) -> DeepNetwork:
    """The textbook network: layers sigma(A x + b), one matrix each, started as ``start`` says.

    ``start``: "he", "xavier" or "orthogonal" (times the activation's gain). Other options as in ``deep_network``.
    """
    require_choice("start", start, starts)
    network = deep_network(
        depth,
        dim,
        layer="feedforward",
        outer="identity",
        activation=activation,
        generator=generator,
        **options,
    )
    starts[start](network, generator=generator)
    return network


def _affine(rows_in: int, rows_out: int, ends: str, generator, options: dict, argument: str) -> nn.Linear:
    given = require_positive_int(argument, rows_in if argument == "inputs" else rows_out)
    rows_in, rows_out = (given, rows_out) if argument == "inputs" else (rows_in, given)
    affine = nn.Linear(rows_in, rows_out, **options)
    with torch.no_grad():
        if ends == "orthogonal":
            affine.weight.copy_(init.haar(rows_out, rows_in, generator))
            affine.bias.zero_()
        else:  # nn.Linear's own rule, drawn again from the generator
            bound = 1 / math.sqrt(rows_in)
            for parameter in affine.parameters():
                where = device_of(generator)
                draw = torch.rand(parameter.shape, dtype=torch.float64, device=where, generator=generator)
                parameter.copy_((2 * draw - 1) * bound)
    return affine
