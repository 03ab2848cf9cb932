"""How a network starts, as data: the arms of the experiments on depth, and the networks they stand for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pso_lib.errors import checked, require_number, require_positive_int
from pso_lib.nn import init
from pso_lib.nn.activations import leaky_relu
from pso_lib.nn.networks import DeepNetwork, Ends, Kind, deep_network

__all__ = ["Start", "build", "scale_of", "tailored_slope"]


@dataclass(frozen=True)
class Start:
    """One way to start a network.

    Attributes:
        name: unique within an experiment; a key of ``plots.METHODS`` where the book has a style for it.
        layer: "A", B^T sigma(Ax + b), or "B", x + beta B^T sigma(Ax + b). A and B are both trained.
        init: "he", "xavier", "orthogonal", "looks_linear", "shared", "block", "projection", "independent_folds" or
            "haar" (orthogonal, gain 1), "lsuv" (the same until it has seen images: ``rivals.prepare``),
            "drift" (Haar matrices that a share of ``drift`` turns away from one shared matrix), "zero_branch" (B = 0,
            the idea that Fixup, ReZero and SkipInit share, without their trained scalars), or a rival (``rivals``).
        k, blocks: of the block and projection starts.
        beta: of type B; None is 1 / sqrt(depth).
        activation: its name; "tailored" is the leaky ReLU of ``tailored_slope``, times the gain that keeps squares.
        ends: "orthogonal" or "default", the first and last affine layers.
        drift: 0 is shared, 1 independent.
        hidden: rows of A and B; None for square ones.
        outer: "identity" for layers with a single matrix, B = I; None for two.
    """

    name: str
    layer: str
    init: str
    k: int | None = None
    blocks: str = "he"
    beta: float | None = 1.0
    activation: str = "relu"
    ends: Ends = "orthogonal"
    drift: float = 0.0
    hidden: int | None = None
    outer: str | None = None


@checked
def build(arm: Start, depth: int, width: int, inputs: int, classes: int, seed: int, **options) -> DeepNetwork:
    """The network of an arm; the same seed gives the same lift, readout and layers. ``options``: dtype, device."""
    depth, width = require_positive_int("depth", depth), require_positive_int("width", width)
    seed = require_positive_int("seed", seed, least=0)
    generator = init.seeded(seed)
    kinds: dict[str, Kind] = {"A": "feedforward", "B": "residual"}
    layer_options: dict[str, Any] = {"hidden": arm.hidden, "activation": arm.activation}
    if arm.outer is not None:
        layer_options["outer"] = arm.outer
    if arm.layer == "B":
        layer_options["beta"] = scale_of(arm, depth)
    if arm.activation == "tailored":
        layer_options["activation"] = leaky_relu(tailored_slope(depth))
        layer_options["beta"] = init.gain_of(layer_options["activation"])
    network = deep_network(
        depth,
        width,
        layer=kinds[arm.layer],
        inputs=inputs,
        classes=classes,
        ends=arm.ends,
        generator=generator,
        **layer_options,
        **options,
    )
    start = init.seeded(1_000_003 * (seed + 1))
    _starts[arm.init](network, arm, start)
    return network


def scale_of(arm: Start, depth: int) -> float:
    """The beta of a type B arm at a depth."""
    return 1 / math.sqrt(depth) if arm.beta is None else arm.beta


@checked
def tailored_slope(depth: int, target: float = 0.9) -> float:
    """The slope s of the leaky ReLU with which inputs at right angles leave ``depth`` wide layers at a given cosine.

    Tailored activation transformation (Zhang, Botev and Martens 2022): with isometric or Gaussian weights the cosine
    goes c -> c + (1 - s)^2 / (pi (1 + s^2)) (sqrt(1 - c^2) - c acos c), the arc-cosine kernel of that activation.
    Too shallow a network does not reach the target: it keeps s = 0, ReLU.

    Raises:
        ValueError: depth is no positive integer, target lies outside [0, 1].
    """
    depth, target = require_positive_int("depth", depth), require_number("target", target, least=0, most=1)

    def end(slope: float) -> float:
        cosine = 0.0
        for _ in range(depth):
            bend = math.sqrt(max(0.0, 1 - cosine**2)) - cosine * math.acos(min(1.0, cosine))
            cosine += (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * bend
        return cosine

    low, high = 0.0, 1.0  # the end falls from ReLU's to 0
    if end(low) <= target:
        return low
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if end(middle) > target else (low, middle)
    return (low + high) / 2


def _drift(network: DeepNetwork, arm: Start, generator: torch.Generator) -> None:
    """Each layer's Q is the shared one times a rotation by the share ``drift`` of a random angle in every plane."""
    n = network.dim
    shared = init.haar(n, n, generator)
    for layer in init.layers_of(network):
        S = init.gaussian(n, n, math.pi * arm.drift / math.sqrt(n), generator)
        Q = torch.linalg.matrix_exp((S - S.T) / 2) @ shared
        layer.set_weights(A=Q, B=Q, b=0.0)


def _independent(network: DeepNetwork, arm: Start, generator: torch.Generator) -> None:
    for layer in init.layers_of(network):
        Q = init.haar(layer.hidden, layer.dim, generator)
        layer.set_weights(A=Q, B=Q, b=0.0)


def _zero_branch(network: DeepNetwork, arm: Start, generator: torch.Generator) -> None:
    init.kaiming_(network, generator)
    for layer in init.layers_of(network):
        layer.set_weights(B=torch.zeros(layer.hidden, layer.dim, dtype=torch.float64))


_starts: dict[str, Callable[[DeepNetwork, Any, torch.Generator], None]] = {
    "he": lambda network, arm, g: init.kaiming_(network, g),
    "xavier": lambda network, arm, g: init.xavier_(network, g),
    "orthogonal": lambda network, arm, g: init.orthogonal_(network, generator=g),
    "haar": lambda network, arm, g: init.orthogonal_(network, 1.0, g),
    "lsuv": lambda network, arm, g: init.orthogonal_(network, 1.0, g),
    "looks_linear": lambda network, arm, g: init.looks_linear_(network, g),
    "shared": lambda network, arm, g: init.shared_orthogonal_(network, g),
    "block": lambda network, arm, g: init.block_(network, arm.k, blocks=arm.blocks, generator=g),
    "projection": lambda network, arm, g: init.projection_(network, arm.k, blocks=arm.blocks, generator=g),
    "independent_folds": _independent,
    "drift": _drift,
    "zero_branch": _zero_branch,
}
