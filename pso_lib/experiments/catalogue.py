"""The experiments, as data. An arm is a network at its start; an experiment is arms times depths times seeds."""

import math
from dataclasses import dataclass, replace

import torch

from pso_lib import init
from pso_lib.errors import require_choice
from pso_lib.networks import DeepNetwork, deep_network

__all__ = ["Arm", "Experiment", "build", "experiment", "names"]


@dataclass(frozen=True)
class Arm:
    """One way to start a network.

    Attributes:
        name: unique within an experiment; a key of ``plots.METHODS`` where the book has a style for it.
        layer: "A", B^T sigma(Ax + b), or "B", x + beta B^T sigma(Ax + b). Both with square A and B, both trained.
        init: "he", "xavier", "orthogonal", "looks_linear", "shared", "block", "projection", "independent_folds" or
            "drift" (Haar matrices that a share of ``drift`` turns away from one shared matrix), "zero_branch" (B = 0,
            the idea that Fixup, ReZero and SkipInit share, without their trained scalars).
        k, blocks: of the block and projection starts.
        beta: of type B; None is 1 / sqrt(depth).
        activation: its name.
        ends: "orthogonal" or "default", the first and last affine layers.
        drift: 0 is shared, 1 independent.
    """

    name: str
    layer: str
    init: str
    k: int | None = None
    blocks: str = "he"
    beta: float | None = 1.0
    activation: str = "relu"
    ends: str = "orthogonal"
    drift: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """Arms times depths times seeds on one or more data sets, under one protocol.

    Attributes:
        question: what it asks, one sentence.
        rates: the common grid of learning rates. With ``choose_rate`` each arm at each depth gets the one with the
            best accuracy on ``held_out`` training images after a share ``choosing`` of the epochs; else every rate
            is run.
    """

    name: str
    question: str
    arms: tuple[Arm, ...]
    datasets: tuple[str, ...]
    depths: tuple[int, ...]
    seeds: int
    epochs: float
    rates: tuple[float, ...]
    choose_rate: bool = True
    choosing: float = 0.25
    held_out: int = 5000
    width: int = 64
    batch: int = 128
    evaluations: int = 8


def build(arm: Arm, depth: int, width: int, inputs: int, classes: int, seed: int, **options) -> DeepNetwork:
    """The network of an arm; the same seed gives the same lift, readout and layers. ``options``: dtype, device."""
    generator = torch.Generator().manual_seed(seed)
    kind, layer_options = ("feedforward", {}) if arm.layer == "A" else ("residual", {"beta": scale_of(arm, depth)})
    network = deep_network(
        depth,
        width,
        layer=kind,
        inputs=inputs,
        classes=classes,
        ends=arm.ends,
        activation=arm.activation,
        generator=generator,
        **layer_options,
        **options,
    )
    start = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    _starts[arm.init](network, arm, start)
    return network


def scale_of(arm: Arm, depth: int) -> float:
    """The beta of a type B arm at a depth."""
    return 1 / math.sqrt(depth) if arm.beta is None else arm.beta


def _drift(network: DeepNetwork, arm: Arm, generator: torch.Generator) -> None:
    """Each layer's Q is the shared one times a rotation by the share ``drift`` of a random angle in every plane."""
    n = network.dim
    shared = init.haar(n, n, generator)
    for layer in network.layers:
        S = init.gaussian(n, n, math.pi * arm.drift / math.sqrt(n), generator)
        Q = torch.linalg.matrix_exp((S - S.T) / 2) @ shared
        layer.set_weights(A=Q, B=Q, b=0.0)


def _independent(network: DeepNetwork, arm: Arm, generator: torch.Generator) -> None:
    for layer in network.layers:
        Q = init.haar(network.dim, network.dim, generator)
        layer.set_weights(A=Q, B=Q, b=0.0)


def _zero_branch(network: DeepNetwork, arm: Arm, generator: torch.Generator) -> None:
    init.kaiming_(network, generator)
    for layer in network.layers:
        layer.set_weights(B=torch.zeros(layer.hidden, layer.dim, dtype=torch.float64))


_starts = {
    "he": lambda network, arm, g: init.kaiming_(network, g),
    "xavier": lambda network, arm, g: init.xavier_(network, g),
    "orthogonal": lambda network, arm, g: init.orthogonal_(network, generator=g),
    "looks_linear": lambda network, arm, g: init.looks_linear_(network, g),
    "shared": lambda network, arm, g: init.shared_orthogonal_(network, g),
    "block": lambda network, arm, g: init.block_(network, arm.k, blocks=arm.blocks, generator=g),
    "projection": lambda network, arm, g: init.projection_(network, arm.k, blocks=arm.blocks, generator=g),
    "independent_folds": _independent,
    "drift": _drift,
    "zero_branch": _zero_branch,
}


def _fold(name: str, init_: str, **options) -> Arm:
    return Arm(name, "B", init_, blocks="orthogonal", **{"beta": -2.0} | options)


TYPE_A = (
    Arm("he", "A", "he"),
    Arm("xavier", "A", "xavier"),
    Arm("orthogonal", "A", "orthogonal"),
    Arm("looks_linear", "A", "looks_linear"),
    Arm("shared", "A", "shared"),
    Arm("block", "A", "block", k=8),
    Arm("projection", "A", "projection", k=8),
)
TYPE_B = (
    Arm("he_residual", "B", "he"),
    _fold("independent_folds", "independent_folds"),
    _fold("shared_residual", "shared"),
    _fold("block_residual", "block", k=8),
    _fold("projection_residual", "projection", k=8),
)

BASELINES = (
    Arm("tanh_orthogonal", "A", "independent_folds", activation="tanh"),
    Arm("scaled_residual", "B", "he", beta=None),
    Arm("zero_branch", "B", "zero_branch"),
)

_GRID = (3e-5, 1e-4, 3e-4, 1e-3)
_DEPTHS = (5, 20, 50, 100, 200)
_DRIFTS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

_full = {
    e.name: e
    for e in (
        Experiment(
            "depth",
            "Which starts still learn as depth grows? (Figure 1 of Massucco et al.)",
            TYPE_A + TYPE_B,
            ("mnist",),
            _DEPTHS,
            seeds=5,
            epochs=20,
            rates=_GRID,
        ),
        Experiment(
            "baselines",
            "What do other cures reach under the same protocol?",
            BASELINES,
            ("mnist",),
            (50, 200),
            seeds=5,
            epochs=10,
            rates=_GRID,
        ),
        Experiment(
            "subspace_dimension",
            "How much of the width may be non-isometric? (their Figure 3)",
            tuple(
                Arm(f"{name}_k{k}", "A", name, k=k) for name in ("block", "projection") for k in (1, 16, 32, 48, 56, 63)
            ),
            ("mnist",),
            (50, 200),
            seeds=5,
            epochs=10,
            rates=_GRID,
        ),
        Experiment(
            "ends",
            "Do the first and last affine layers have to be orthogonal? (their Figure 4)",
            tuple(
                replace(arm, name=f"{arm.name}_{ends}", ends=ends)
                for arm in TYPE_A
                if arm.name in ("he", "shared", "block", "projection")
                for ends in ("orthogonal", "default")
            ),
            ("mnist",),
            (5, 50, 200),
            seeds=5,
            epochs=10,
            rates=_GRID,
        ),
        Experiment(
            "learning_rate",
            "Does the comparison depend on the learning rate? (their Figure 5)",
            tuple(arm for arm in TYPE_A if arm.name in ("he", "shared")),
            ("mnist",),
            (5, 50),
            seeds=5,
            epochs=20,
            rates=(1e-6, 1e-5, 1e-4, 1e-3),
            choose_rate=False,
        ),
        Experiment(
            "fixed_rates",
            "Is a rate that learns well at first also safe to the end, at 200 layers?",
            tuple(arm for arm in TYPE_A if arm.name in ("he", "looks_linear", "shared", "projection")),
            ("mnist",),
            (200,),
            seeds=5,
            epochs=20,
            rates=(3e-5, 1e-4),
            choose_rate=False,
        ),
        Experiment(
            "activations",
            "Which activations keep a persistent subspace, and which train?",
            tuple(
                Arm(f"{start}_{activation}", "A", start, activation=activation)
                for start in ("he", "shared")
                for activation in ("relu", "leaky_relu", "abs", "tanh", "gelu", "silu")
            ),
            ("mnist",),
            (5, 50, 200),
            seeds=5,
            epochs=10,
            rates=_GRID,
        ),
        Experiment(
            "persistence",
            "How does trainability change as shared weights drift apart?",
            tuple(Arm(f"projection_drift_{drift:g}", "A", "drift", drift=drift) for drift in _DRIFTS)
            + tuple(_fold(f"fold_drift_{drift:g}", "drift", drift=drift) for drift in _DRIFTS)
            + (
                Arm("independent_projections", "A", "independent_folds"),
                _fold("independent_folds", "independent_folds"),
            ),
            ("mnist",),
            (50, 200),
            seeds=5,
            epochs=10,
            rates=_GRID,
        ),
    )
}

# The same on two more data sets: results of their own, so that each can be run alone.
for _name, _dataset in (("depth_fashion_mnist", "fashion-mnist"), ("depth_cifar10", "cifar10")):
    _full[_name] = replace(_full["depth"], name=_name, datasets=(_dataset,))


def _quick(e: Experiment) -> Experiment:
    """Live, on two CPU cores: one data set, few steps, one rate."""
    depths = tuple(d for d in e.depths if d in (5, 50, 200))
    rates = e.rates if not e.choose_rate else (1e-4,)
    return replace(
        e, datasets=e.datasets[:1], depths=depths, seeds=2, epochs=0.3, rates=rates, choose_rate=False, evaluations=1
    )


def _smoke(e: Experiment) -> Experiment:
    """For the tests: digits, three small depths at most, a handful of steps."""
    depths = tuple(d for d in (3, 6, 9)[: len(e.depths)])
    arms = tuple(replace(arm, k=min(arm.k, 12)) if arm.k is not None else arm for arm in e.arms)
    return replace(
        e,
        arms=arms,
        datasets=("digits",),
        depths=depths,
        seeds=2,
        epochs=0.5,
        rates=e.rates[:2],
        choosing=0.4,
        held_out=200,
        width=16,
        evaluations=2,
    )


def names() -> list[str]:
    """The names of all experiments."""
    return list(_full)


def experiment(name: str, scale: str = "full") -> Experiment:
    """The experiment of that name at a scale.

    Raises:
        ValueError: unknown name or scale; the text lists the known ones.
    """
    require_choice("experiment", name, _full)
    require_choice("scale", scale, ("smoke", "quick", "full"))
    return {"smoke": _smoke, "quick": _quick, "full": lambda e: e}[scale](_full[name])
