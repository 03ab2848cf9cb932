"""The experiments on unstable training, as data: workloads times methods times learning rates times seeds.

Sizes at ``full`` are for two CPU cores in the background, from these costs of one step on one idle core: the small
Transformer (0.2 M parameters) 11 ms, the one of 1 M parameters 34 ms, the MLP 2.3 ms, the CNN 5 ms. Most cells are of
the small Transformer: what distinguishes methods is seen there as well, and seeds and rates are worth more than size.
By these costs stable_learning_rate takes 1.4 hours of one core, pss_controls 0.6, pss_triggers 0.3, pss_sensitivity and
rescue 0.2 each.
"""

from dataclasses import dataclass, field, replace

from pso_lib.errors import require_choice
from pso_lib.experiments.methods import APART, BASELINE_METHODS, CHOICES, CONTROLS, SMOOTHINGS, Method, sensitivity
from pso_lib.experiments.schema import methods_fit
from pso_lib.scale import SCALES

__all__ = ["Instability", "WorkloadPlan", "experiment", "names"]


@dataclass(frozen=True)
class WorkloadPlan:
    """A network with its data, and how long it trains.

    Attributes:
        name: the ``model`` of its runs.
        task: "transformer", "mlp" or "cnn"; ``options`` go to that function of ``pso_lib.train.workloads``.
        data: a text or an image data set.
        cost: milliseconds of a step on one CPU core, about; for the estimate of what is left.
        optimizer: "adamw", or "sgd" (with momentum), which bounds no step. A method with an optimiser of its own, Muon,
            is for "adamw" alone.
        methods, rates: names of the only methods, the only rates that it is trained with; () for all of the plan.
    """

    name: str
    task: str
    data: str
    steps: int
    cost: float
    options: dict = field(default_factory=dict)
    optimizer: str = "adamw"
    methods: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Instability:
    """Workloads times methods times learning rates times seeds, under one protocol.

    Attributes:
        rates: the one grid, for every method.
        warmup, schedule: of the rate: linear, then "constant" or "cosine" down to a tenth.
        limits: a run explodes if its loss is above limits[0] times its running minimum for limits[1] steps.
        margin: a run trains if it does not explode and ends within so many nats of the best method's mean final loss.
        detector: warm-up and cooldown of the triggers, in steps.
        perturbation: of ``rescue``: (first step, last step, factor of the rate); () for none.
        curve, looks: points of the loss curve, and looks at the spectra.
    """

    name: str
    question: str
    workloads: tuple[WorkloadPlan, ...]
    methods: tuple[Method, ...]
    rates: tuple[float, ...]
    seeds: int = 3
    warmup: int = 50
    schedule: str = "cosine"
    limits: tuple[float, int] = (1.5, 100)
    margin: float = 0.1
    detector: tuple[int, int] = (50, 30)
    perturbation: tuple = ()
    curve: int = 40
    looks: int = 12

    def methods_of(self, workload: WorkloadPlan) -> tuple[Method, ...]:
        """Those that this workload is trained with: QK-norm, for one, is for attention alone."""
        fit = methods_fit(vars(workload), [vars(method) for method in self.methods])
        return tuple(method for method in self.methods if method.name in fit)


_SMALL = {"width": 64, "layers": 4, "batch": 8}
_TRANSFORMER = WorkloadPlan("transformer", "transformer", "tinyshakespeare", 800, 11, _SMALL)
_POST = WorkloadPlan("transformer_post", "transformer", "tinyshakespeare", 800, 11, _SMALL | {"norm": "post"})
_LARGE = WorkloadPlan("transformer_1m", "transformer", "tinyshakespeare", 800, 34, {"batch": 8})
_MLP = WorkloadPlan("mlp", "mlp", "mnist", 800, 2.3)
_MLP_SGD = replace(_MLP, name="mlp_sgd", optimizer="sgd")
_CNN = WorkloadPlan("cnn", "cnn", "fashion-mnist", 600, 5, {"width": 8, "batch": 32, "norm": "none"})
_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_BLIND = ("plain", "clip", "pss_clip", "periodic", "stable_rank", "energy", "stable_rank_shrink")

_full = {
    e.name: e
    for e in (
        Instability(
            "stable_learning_rate",
            "Up to which learning rate does each method train, and how well?",
            (
                _MLP,
                # the one workload that a large rate drives to infinity: AdamW's steps are bounded, these are not
                replace(_MLP_SGD, rates=(1e-2, 3e-2, 1e-1, 3e-1, 1.0)),
                _CNN,
                _TRANSFORMER,
                replace(
                    _POST,
                    methods=("plain", "clip", "qk_norm", "muon", "pss_clip", "pss_log", "pss_published"),
                    rates=(3e-4, 1e-3, 3e-3, 1e-2),
                ),
                replace(_LARGE, methods=("plain", "clip", "pss_clip", "pss_log"), rates=(3e-3, 1e-2, 3e-2)),
            ),
            BASELINE_METHODS + SMOOTHINGS,
            _GRID,
            curve=25,
            looks=8,
        ),
        Instability(
            "pss_controls",
            "Is it the smoothing that helps, or the skipped step, the shrinking, the moment?",
            # each at two rates at which it begins to fail. At 1e-2 the Transformers stall, the paper's detector never
            # fires, and its arms would all be the plain run again: there one of them is run, and those with others.
            (
                replace(_MLP, rates=(1e-2, 3e-2)),
                replace(_MLP_SGD, rates=(3e-2, 1e-1)),
                replace(_TRANSFORMER, rates=(3e-2,)),
                replace(_POST, rates=(3e-3,)),
                replace(_TRANSFORMER, rates=(1e-2,), methods=_BLIND),
                replace(_POST, rates=(1e-2,), methods=_BLIND),
            ),
            CONTROLS,
            _GRID,
            seeds=5,
        ),
        Instability(
            "pss_triggers",
            "Smoothing on a falling stable rank helps Transformers that stall: is it the moment, the k, or the skip?",
            (
                replace(_TRANSFORMER, rates=(1e-2, 3e-2)),
                replace(_POST, rates=(3e-3, 1e-2)),
            ),
            (Method("plain", baseline="plain"), *APART),
            _GRID,
            seeds=5,
        ),
        Instability(
            "pss_sensitivity",
            "How much depends on tau, on alpha, and on what the paper leaves open?",
            (
                replace(_MLP, rates=(1e-2,)),
                replace(_MLP_SGD, rates=(1e-1,)),
                replace(_TRANSFORMER, rates=(3e-2,)),
            ),
            (Method("plain", baseline="plain"), *sensitivity((1.5, 2.5, 4.0), (0.5, 0.9, 0.99)), *CHOICES),
            _GRID,
        ),
        Instability(
            "rescue",
            "What brings a run back that has exploded?",
            (replace(_TRANSFORMER, steps=900, rates=(3e-3,)), replace(_MLP, steps=900)),
            tuple(
                Method(name, baseline="plain", recovery=recovery)
                for name, recovery in (
                    ("nothing", "none"),
                    ("lower_rate", "lower"),
                    ("reset_moments", "moments"),
                    ("checkpoint", "checkpoint"),
                    ("restart", "restart"),
                    ("smooth_clip", "clip"),
                    ("smooth_log", "log"),
                    ("smooth_published", "published"),
                    ("shrink", "shrink"),
                    ("smooth_clip_reset", "clip+moments"),
                    ("shrink_reset", "shrink+moments"),
                )
            )
            + (
                Method("guard_clip", recovery="none"),
                Method("guard_published", action="published", recovery="none"),
                Method("clip", baseline="clip", recovery="none"),
            ),
            (1e-3, 3e-3),
            schedule="constant",
            perturbation=(301, 420, 30.0),
        ),
    )
}


def _small(workload: WorkloadPlan, steps: int, **sizes) -> WorkloadPlan:
    """With smaller networks: a Transformer of 3 layers on shorter windows takes 5 ms a step."""
    options = dict(workload.options) | sizes
    if workload.task == "transformer":
        options |= {"layers": 3, "batch": 8, "context": 32, "windows": 64}
    cost = {"transformer": 5, "mlp": 2.3, "cnn": 5}[workload.task]
    return replace(workload, steps=steps, cost=cost, options=options, methods=(), rates=())


_QUICK = {  # methods, rates: live, 30 to 80 s on one CPU core
    "stable_learning_rate": (("plain", "clip", "muon", "pss_clip"), (1e-3, 1e-2, 3e-2, 1e-1)),
    "pss_controls": (("plain", "pss_clip", "skip", "shrink", "random_times", "stable_rank"), (3e-2, 1e-1)),
    "pss_triggers": (("plain", "stable_rank", "stable_rank_floor", "periodic_ceil"), (3e-2, 1e-1)),
    "pss_sensitivity": (("plain", *(f"tau={t:g} alpha=0.9" for t in (1.5, 2.5, 4)), "ceil"), (3e-2, 1e-1)),
    "rescue": (("nothing", "checkpoint", "restart", "smooth_clip", "shrink", "guard_clip", "clip"), (3e-3,)),
}


def _quick(e: Instability) -> Instability:
    """Live: the Transformer, made smaller, two seeds, 240 steps, patience and cooldown shortened in proportion."""
    methods, rates = _QUICK[e.name]
    transformer = next(p for p in e.workloads if p.name == "transformer")
    return replace(
        e,
        workloads=(_small(transformer, 300 if e.perturbation else 240),),
        methods=tuple(m for m in e.methods if m.name in methods),
        rates=rates,
        seeds=2,
        warmup=20,
        limits=(1.5, 40),
        detector=(20, 12),
        perturbation=(101, 145, 30.0) if e.perturbation else (),
        looks=8,
    )


def _smoke(e: Instability) -> Instability:
    """For the tests: every workload and every method, tiny, a few steps on bundled data."""
    tiny = {
        "transformer": {"width": 8, "layers": 1, "heads": 2, "batch": 2, "context": 8, "windows": 4},
        "mlp": {"depth": 2, "width": 8, "batch": 8, "held_out": 64},
        "cnn": {"blocks": 1, "width": 4, "batch": 4, "held_out": 32},
    }
    once = [p for i, p in enumerate(e.workloads) if p.name not in {q.name for q in e.workloads[:i]}]
    norms = ({"norm": p.options["norm"]} if "norm" in p.options else {} for p in once)
    workloads = tuple(
        replace(
            p,
            data="topics" if p.task == "transformer" else "digits",
            steps=9,
            rates=(),
            methods=(),
            options=tiny[p.task] | norm,
        )
        for p, norm in zip(once, norms, strict=True)
    )
    return replace(
        e,
        workloads=workloads,
        rates=e.rates[-1:],
        seeds=2,
        warmup=2,
        limits=(1.5, 3),
        detector=(2, 1),
        methods=tuple(replace(m, period=3) for m in e.methods),
        perturbation=(4, 6, 30.0) if e.perturbation else (),
        curve=5,
        looks=3,
    )


def names() -> list[str]:
    """The names of these experiments."""
    return list(_full)


def experiment(name: str, scale: str = "full") -> Instability:
    """The experiment of that name at a scale. Raises ``ValueError`` for an unknown one."""
    require_choice("experiment", name, _full)
    require_choice("scale", scale, SCALES)
    return {"smoke": _smoke, "quick": _quick, "full": lambda e: e}[scale](_full[name])
