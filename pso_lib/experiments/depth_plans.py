"""The experiments, as data. An arm is a network at its start; an experiment is arms times depths times seeds."""

from dataclasses import dataclass, replace

from pso_lib.errors import require_choice
from pso_lib.experiments.halving import Halving
from pso_lib.experiments.starts import Start
from pso_lib.scale import SCALES

__all__ = ["Experiment", "experiment", "names"]


@dataclass(frozen=True)
class Experiment:
    """Arms times depths times seeds on one or more data sets, under one protocol.

    Attributes:
        question: what it asks, one sentence.
        rates: the common grid of learning rates. With ``choose_rate`` each arm at each depth gets the one with the
            best accuracy on ``held_out`` training images after a share ``choosing`` of the epochs; else every rate
            is run.
        halving: choose by successive halving instead, arm by arm; a unit is then one stage of one arm at one depth,
            in the order of ``depths`` and ``arms``.
    """

    name: str
    question: str
    arms: tuple[Start, ...]
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
    halving: Halving | None = None  # younger than the first records: left out of configurations where it is None


def _fold(name: str, init_: str, **options) -> Start:
    return Start(name, "B", init_, blocks="orthogonal", **{"beta": -2.0} | options)


TYPE_A = (
    Start("he", "A", "he"),
    Start("xavier", "A", "xavier"),
    Start("orthogonal", "A", "orthogonal"),
    Start("looks_linear", "A", "looks_linear"),
    Start("shared", "A", "shared"),
    Start("block", "A", "block", k=8),
    Start("projection", "A", "projection", k=8),
)
TYPE_B = (
    Start("he_residual", "B", "he"),
    _fold("independent_folds", "independent_folds"),
    _fold("shared_residual", "shared"),
    _fold("block_residual", "block", k=8),
    _fold("projection_residual", "projection", k=8),
)

BASELINES = (
    Start("tanh_orthogonal", "A", "independent_folds", activation="tanh"),
    Start("scaled_residual", "B", "he", beta=None),
    Start("zero_branch", "B", "zero_branch"),
)

RIVALS = (  # those that take long last: a penalty costs three passes more
    Start("he_single", "A", "he", outer="identity"),
    Start("layer_norm", "A", "layer_norm"),
    Start("rezero", "B", "rezero"),
    Start("fixup", "B", "fixup"),
    Start("tailored", "A", "haar", activation="tailored", outer="identity"),
    Start("lsuv", "A", "lsuv", outer="identity"),
    Start("pre_norm", "B", "pre_norm"),
    Start("scaled_residual", "B", "he", beta=None),
    Start("zero_branch", "B", "zero_branch"),
    Start("shallow", "A", "shallow"),
    Start("maxmin", "A", "orthogonal", activation="maxmin", outer="identity"),
    _fold("fold_step", "fold_step"),
    _fold("constraint_shared", "constraint_shared"),
    _fold("constraint_independent", "constraint_independent"),
    _fold("penalty_shared", "penalty_shared"),
    _fold("penalty_independent", "penalty_independent"),
)

# What says most comes first, in an experiment that takes days and may be read before its end.
_ORDER = (
    "shared",
    "projection",
    "block",
    "looks_linear",
    "orthogonal",
    "independent_folds",
    "shared_residual",
    "he",
    "block_residual",
    "projection_residual",
    "he_residual",
    "xavier",
)


def _by_value(arms: tuple[Start, ...]) -> tuple[Start, ...]:
    return tuple(sorted(arms, key=lambda arm: _ORDER.index(arm.name)))


_GRID = (3e-5, 1e-4, 3e-4, 1e-3)
_DEPTHS = (5, 20, 50, 100, 200)
_DRIFTS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_FOLDS = (1, 4, 16, 64)  # a layer; with L layers of width n the budget is h L / n

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
                Start(f"{name}_k{k}", "A", name, k=k)
                for name in ("block", "projection")
                for k in (1, 16, 32, 48, 56, 63)
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
                Start(f"{start}_{activation}", "A", start, activation=activation)
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
            tuple(Start(f"projection_drift_{drift:g}", "A", "drift", drift=drift) for drift in _DRIFTS)
            + tuple(_fold(f"fold_drift_{drift:g}", "drift", drift=drift) for drift in _DRIFTS)
            + (
                Start("independent_projections", "A", "independent_folds"),
                _fold("independent_folds", "independent_folds"),
            ),
            ("mnist",),
            (50, 200),
            seeds=5,
            epochs=10,
            rates=_GRID,
        ),
        Experiment(
            "fold_budget",
            "How many independent folds may a network spend, and what do they cost in learning rate?",
            tuple(_fold(f"folds_{h}", "independent_folds", hidden=h) for h in _FOLDS)
            + (_fold("shared_folds", "shared"),),
            ("mnist",),
            (50, 100, 200),
            seeds=3,
            epochs=1,
            rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
            choose_rate=False,
        ),
    )
}

_full["depth_tuned"] = replace(
    _full["depth"],
    name="depth_tuned",
    question="Which starts learn as depth grows, each at a rate that three seeds chose at full length?",
    arms=_by_value(TYPE_A + TYPE_B),
    depths=(200, 50, 100, 20, 5),
    rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    evaluations=20,
    halving=Halving(),
)

_full["rivals"] = replace(
    _full["depth_tuned"],
    name="rivals",
    question="What do other authors' cures for depth reach, chosen and trained as the starts are?",
    arms=RIVALS,
    depths=(200, 50, 5),
)

# The budget h L / n decides, if it does, whatever L, h and n are: at 50 and 200 layers of width 64 it takes the same
# values, at 5 values between them, and two more widths and one more depth were not looked at when the claim was made.
_full |= {
    name: Experiment(
        name,
        "Do the rate that a fold budget allows, and the time it takes, depend on the budget alone?",
        tuple(_fold(f"folds_{h}", "independent_folds", hidden=h) for h in hidden) + (_fold("shared_folds", "shared"),),
        ("mnist",),
        depths,
        seeds=5,
        epochs=3.5,  # 1,501 steps of 128 images where rates are chosen
        rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        width=width,
        evaluations=20,
        halving=Halving(share=1.0),
    )
    for name, width, depths, hidden in (
        ("fold_budget_wide", 64, (200, 50, 5), (1, 4, 8, 16, 32, 64)),
        ("fold_budget_width_32", 32, (50, 200), (2, 8, 32)),
        ("fold_budget_width_128", 128, (50, 200), (8, 32, 128)),
        ("fold_budget_depth_800", 64, (800,), (1, 4, 16)),
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
        e,
        datasets=e.datasets[:1],
        depths=depths,
        seeds=2,
        epochs=0.3,
        rates=rates,
        choose_rate=False,
        evaluations=1,
        halving=None,
    )


def _smoke(e: Experiment) -> Experiment:
    """For the tests: digits, three small depths at most, a handful of steps."""
    depths = tuple(d for d in (3, 6, 9)[: len(e.depths)])
    arms = tuple(replace(arm, k=min(arm.k, 12)) if arm.k is not None else arm for arm in e.arms)
    arms = tuple(replace(arm, hidden=min(arm.hidden, 16)) if arm.hidden is not None else arm for arm in arms)
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
        halving=e.halving and replace(e.halving, seeds=2, share=max(0.4, e.halving.share), bounds=(1e-6, 1e-2)),
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
    require_choice("scale", scale, SCALES)
    return {"smoke": _smoke, "quick": _quick, "full": lambda e: e}[scale](_full[name])
