"""Whether the persistent subspace of a start outlives training: starts times methods times rates times seeds.

The network is that of the experiments on depth, with Adam and its protocol; a unit is one start at one depth with one
method and one rate, all its seeds. What is measured on the way, in float64 on a few held-out inputs:

    persistent_dimension   to 1e-5, as weights trained in float32 are orthogonal to 1e-6 at best
    loose_dimension        the same to a tenth: an allowance for all layers so far together, not for each
    softened_count         singular values of the Jacobian G_L of all layers between 1/2 and 2
    jacobian_stable_rank   of G_L
    stable_rank            of the weights A and B, the mean over layers
    departure              |W - W_0| / |W_0| over all of them together
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pso_lib.analysis.jacobian import jacobian
from pso_lib.analysis.persistence import persistent_dimension
from pso_lib.analysis.spectrum import singular_values, spectrum_stable_rank
from pso_lib.data import Images
from pso_lib.errors import require_choice
from pso_lib.experiments import schema
from pso_lib.experiments.depth_plans import experiment as deep_experiment
from pso_lib.experiments.instability import record_of, spectra
from pso_lib.experiments.methods import Method, baseline_of, times_of
from pso_lib.experiments.starts import Start as Start
from pso_lib.experiments.starts import build
from pso_lib.experiments.suite import Sources, Suite, Unit
from pso_lib.nn.networks import DeepNetwork
from pso_lib.nn.weights import hidden_matrices
from pso_lib.scale import SCALES
from pso_lib.train.baselines import Baseline, orthogonality
from pso_lib.train.monitored import run as train
from pso_lib.train.optimizers import fused
from pso_lib.train.workloads import Workload, image_workload

__all__ = ["PENALTIES", "SURVIVAL", "Survival", "distance", "measure", "names"]

PENALTIES = ("", "orthogonality", "distance")
SOFT = (0.5, 2.0)
STRICT, LOOSE = 1e-5, 0.1  # tolerances


@dataclass(frozen=True)
class Regularised(Method):
    """A method, with a penalty on departure. ``strength`` times: "orthogonality", the sum of |W^T W - I|_F^2 over A
    and B; "distance", the sum of |W - W_0|_F^2. ``baseline`` "" and ``action`` "" together: nothing but Adam."""

    penalty: str = ""
    strength: float = 0.0


@dataclass(frozen=True)
class Survival:
    """Starts (arms of the experiment ``depth``) times depths times methods times rates times seeds.

    Attributes:
        steps, batch, width: of training; the rate is constant after ``warmup`` steps, as in the experiments on depth
            but for the warm-up, which leaves the detector a quiet beginning.
        probes: so many test images are measured.
        cost: milliseconds per step and layer, for the estimate of what is left.
        limits, detector, curve, looks: as in ``Instability``.
    """

    name: str
    question: str
    dataset: str
    starts: tuple[Start, ...]
    depths: tuple[int, ...]
    methods: tuple[Regularised, ...]
    rates: tuple[float, ...]
    seeds: int = 3
    steps: int = 800
    batch: int = 128
    width: int = 64
    warmup: int = 20
    limits: tuple[float, int] = (1.5, 100)
    margin: float = 0.1
    detector: tuple[int, int] = (50, 30)
    curve: int = 40
    looks: int = 6
    probes: int = 3
    cost: float = 0.3


def _starts(*wanted: str) -> tuple[Start, ...]:
    return tuple(arm for arm in deep_experiment("depth").arms if arm.name in wanted)


_METHODS = (
    Regularised("adam", action=""),
    Regularised("pss_clip"),
    Regularised("periodic", trigger="periodic", period=100),
    Regularised("orthogonality", action="", penalty="orthogonality", strength=0.1),
    *(Regularised(f"distance_{s:g}", action="", penalty="distance", strength=s) for s in (0.1, 1.0, 10.0)),
)

# 3 starts x 2 depths x 7 methods x 2 rates x 3 seeds = 252 runs of 800 steps, 3 s at 20 layers and 7 s
# at 50, and the measurements half as long again: the persistent dimension wants several decompositions of each layer.
_FULL = Survival(
    "survival",
    "Does a start's persistent subspace survive training, and does anything keep it?",
    "mnist",
    _starts("he", "shared", "projection"),
    (20, 50),
    _METHODS,
    (1e-4, 1e-3),
)


def names() -> list[str]:
    """The name of this experiment."""
    return [_FULL.name]


def experiment(name: str, scale: str = "full") -> Survival:
    """At ``quick``: two starts, 20 layers, one rate, one seed, 150 steps."""
    require_choice("experiment", name, names())
    require_choice("scale", scale, SCALES)
    if scale == "full":
        return _FULL
    if scale == "quick":
        return replace(
            _FULL,
            starts=_starts("he", "shared"),
            depths=(20,),
            rates=(1e-3,),
            seeds=2,
            steps=150,
            looks=3,
            probes=2,
            limits=(1.5, 40),
        )
    starts = tuple(replace(start, k=4) if start.k else start for start in _FULL.starts)
    return replace(
        _FULL,
        dataset="digits",
        starts=starts,
        depths=(3,),
        methods=tuple(replace(m, period=3) for m in _METHODS),
        rates=(1e-3,),
        seeds=2,
        steps=9,
        width=12,
        batch=8,
        warmup=2,
        limits=(1.5, 3),
        detector=(2, 1),
        curve=5,
        looks=3,
        probes=2,
    )


class _Survival(Suite):
    schema = schema.SURVIVAL
    plan = Survival

    def names(self) -> list[str]:
        return names()

    def experiment(self, name: str, scale: str) -> Survival:
        return experiment(name, scale)

    def units(self, plan: Survival) -> list[Unit]:
        return [
            Unit(
                f"{start.name}/L={depth}/lr={rate:g}/{method.name}",
                plan.seeds * plan.steps * depth * plan.cost,
                (start, depth, method, rate),
            )
            for depth in plan.depths
            for rate in plan.rates
            for start in plan.starts
            for method in plan.methods
        ]

    def run_unit(self, plan: Survival, unit: Unit, sources: Sources, device: str, finished: Mapping[str, dict]) -> dict:
        start, depth, method, rate = unit.what
        images = sources.images(plan.dataset)
        task = _workload(plan, start, depth, images)
        probes = images.test_x[: plan.probes]
        runs = []
        for seed in range(plan.seeds):
            first: dict[str, Tensor] = {}
            found = train(
                task,
                _baseline(plan, method, first, seed),
                lr=rate,
                seed=seed,
                steps=plan.steps,
                warmup=plan.warmup,
                limits=plan.limits,
                watch=_watch(first, probes),
                watch_every=max(1, plan.steps // plan.looks),
            )
            runs.append(record_of(found, plan.detector, plan.curve) | {"start": start.name, "depth": depth})
        return {"data": images.description, "runs": runs}

    def provenance(self, protocol: Survival) -> dict:
        return {"protocol_seeds": protocol.seeds}

    def table(self, result: dict) -> Iterator[str]:
        return survival_table(result)


SURVIVAL = _Survival()


@torch.no_grad()
def measure(network: DeepNetwork, x: Tensor) -> dict[str, float | None]:
    """What is left of persistence at the inputs x (N, d), averaged over them; None once weights are not finite."""
    names = ("persistent_dimension", "loose_dimension", "softened_count", "jacobian_stable_rank")
    if not all(p.isfinite().all() for p in network.parameters()):
        return dict.fromkeys(names)
    where = torch.device("cpu") if x.device.type == "mps" else x.device  # MPS has no float64
    exact, x = deepcopy(network).to(where, torch.float64), x.to(where, torch.float64)
    h = x if exact.lift is None else exact.lift(x)
    try:
        s = singular_values(jacobian(exact.trunk, h, on_kink="ignore"))  # (N, n)
        dimensions = [persistent_dimension(exact, h, tolerance=tolerance) for tolerance in (STRICT, LOOSE)]
    except (ValueError, torch.linalg.LinAlgError):  # a Jacobian beyond the range of numbers
        return dict.fromkeys(names)
    alive = s[:, 0] > 0  # a Jacobian of zero has no stable rank; it counts as 0
    ranks = torch.zeros_like(s[:, 0])
    ranks[alive] = spectrum_stable_rank(s[alive])
    values = (*dimensions, ((s >= SOFT[0]) & (s <= SOFT[1])).sum(1), ranks)
    return {name: value.double().mean().item() for name, value in zip(names, values, strict=True)}


def distance(model: nn.Module, first: dict[str, Tensor]) -> Tensor:
    """The sum of |W - W_0|_F^2 over the hidden matrices."""
    return torch.stack([(W - first[name]).square().sum() for name, W in hidden_matrices(model).items()]).sum()


def _workload(plan: Survival, start: Start, depth: int, images: Images) -> Workload:
    """Measured on the first 2,000 test images at once."""
    x = images.train_x

    def make(generator) -> DeepNetwork:
        return build(start, depth, plan.width, x.shape[1], images.classes, generator.initial_seed(), device=x.device)

    name = f"{start.name} L={depth}"
    return image_workload(name, images, make, batch=plan.batch, held_out=2000, kind=name, chunk=2000)


def _adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return fused(torch.optim.Adam, model.parameters(), lr=lr)


def _baseline(plan: Survival, method: Regularised, first: dict[str, Tensor], seed: int) -> Baseline:
    """A method's arm on Adam; ``first`` is filled with the weights of the start."""
    require_choice("penalty", method.penalty, PENALTIES)

    def note(model) -> None:
        first.update({name: W.detach().clone() for name, W in hidden_matrices(model).items()})

    penalties: dict[str, Callable] = {
        "orthogonality": lambda model: orthogonality(model, method.strength),
        "distance": lambda model: method.strength * distance(model, first),
    }
    times = times_of(method, plan.steps, plan.detector[0], 0, seed)
    guard = baseline_of(method, *plan.detector, times).guard if method.action else None
    return Baseline(method.name, optimizer=_adam, prepare=note, penalty=penalties.get(method.penalty), guard=guard)


def _watch(first: dict[str, Tensor], probes: Tensor) -> Callable:
    def watch(step: int, network: DeepNetwork) -> dict:
        size = torch.stack([W.square().sum() for W in first.values()]).sum()
        with torch.no_grad():
            gone = (distance(network, first) / size).sqrt().item()
        return spectra(step, network) | measure(network, probes) | {"departure": gone}

    return watch


def survival_table(result: dict) -> Iterator[str]:
    """Means over seeds: what was watched at the first look and at the last."""
    keys = (
        "persistent_dimension",
        "loose_dimension",
        "softened_count",
        "jacobian_stable_rank",
        "stable_rank",
        "departure",
    )
    yield "mean over seeds, before training -> at the last look"
    yield f"{'start, L, rate, method':44}{'accuracy':>9}{'triggers':>9}" + "".join(f"{key:>22}" for key in keys)
    groups: dict[tuple, list[dict]] = {}
    for run in result["runs"]:
        groups.setdefault((run["start"], run["depth"], run["lr"], run["method"]), []).append(run)
    for (start, depth, lr, method), runs in groups.items():
        fired = sum(len(run["triggers"]) for run in runs) / len(runs)
        ends = (f"{_mean(runs, key, 0)} -> {_mean(runs, key, -1)}" for key in keys)
        accuracy = sum(run["accuracy"] or 0.0 for run in runs) / len(runs)
        row = f"{start} {depth} {lr:g} {method}"
        yield f"{row:44}{accuracy:>9.3f}{fired:>9.1f}" + "".join(f"{end:>22}" for end in ends)


def _mean(runs: list[dict], key: str, index: int) -> str:
    values = [run["watched"][key][index] for run in runs]
    return "–" if None in values else f"{sum(values) / len(values):.3g}"
