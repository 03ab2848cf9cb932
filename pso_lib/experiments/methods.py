"""The methods of the experiments on unstable training, as data, and the arms they stand for.

Baselines come from ``pso_lib.train.baselines``. Everything else is a ``Guard``: what it does times when it does it, so
that each of the two can be changed alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pso_lib.errors import require_choice
from pso_lib.nn.init import seeded
from pso_lib.smoothing import AtSteps, Detector, EnergyTrigger, Guard, StableRankTrigger, Trigger
from pso_lib.train.baselines import BASELINES, Baseline

__all__ = [
    "APART",
    "CHOICES",
    "CONTROLS",
    "Method",
    "BASELINE_METHODS",
    "SMOOTHINGS",
    "TRIGGERS",
    "baseline_of",
    "sensitivity",
    "trigger_of",
]

TRIGGERS = ("norm", "stable_rank", "energy", "periodic", "random")
EVERY = 10  # steps between two readings of the stable rank; five times as many between two of the energy


@dataclass(frozen=True)
class Method:
    """One way to train, as plain data.

    Attributes:
        name: unique within an experiment; the ``method`` of its runs.
        baseline: the name of an arm of ``pso_lib.train.baselines.BASELINES``; "" for a guard.
        action: the guard's method: a smoothing, "skip", "shrink" …
        trigger: when: "norm", the paper's; "stable_rank" or "energy", ours; "periodic", every ``period`` steps;
            "random", as often as the method ``matches`` fired with the same model, rate and seed, at random times.
        tau, alpha: of the paper's trigger; warmup, cooldown: of any but a timetable, in steps; None for the plan's.
        k, skip_step, moments: the guard's.
        halve: halve the learning rate too, for good.
        recovery: of the experiment ``rescue``; see ``pso_lib.experiments.recovery``.
    """

    name: str
    baseline: str = ""
    action: str = "clip"
    trigger: str = "norm"
    tau: float = 2.5
    alpha: float = 0.9
    warmup: int | None = None
    cooldown: int | None = None
    k: str = "floor"
    skip_step: bool = True
    moments: str = "keep"
    halve: bool = False
    period: int = 100
    matches: str = ""
    recovery: str = ""


BASELINE_METHODS = tuple(Method(name, baseline=name) for name in BASELINES)
SMOOTHINGS = tuple(
    Method(f"pss_{action}", action=action)
    for action in ("clip", "log", "softplus", "softmax", "convolution", "published")
)
# One thing changed at a time: what is done at the paper's trigger; when the same smoothing is done.
CONTROLS = (
    Method("plain", baseline="plain"),
    Method("clip", baseline="clip"),
    Method("pss_clip"),
    Method("pss_published", action="published"),
    Method("skip", action="skip"),
    Method("shrink", action="shrink"),
    Method("halve", action="skip", halve=True),
    Method("random_times", trigger="random", matches="pss_clip"),
    Method("periodic", trigger="periodic"),
    Method("stable_rank", trigger="stable_rank", k="ceil"),
    Method("energy", trigger="energy", k="ceil"),
    Method("stable_rank_shrink", trigger="stable_rank", action="shrink"),
)
# The trigger on the stable rank, taken apart: its moments, its k, its smoothing. All but "floor" have k = ceil.
APART = (
    Method("stable_rank", trigger="stable_rank", k="ceil"),
    Method("stable_rank_floor", trigger="stable_rank"),
    Method("stable_rank_skip", trigger="stable_rank", action="skip"),
    Method("random_times_ceil", trigger="random", matches="stable_rank", k="ceil"),
    Method("periodic_ceil", trigger="periodic", period=60, k="ceil"),
)
# What the paper leaves open.
CHOICES = (
    Method("no_skip", skip_step=False),
    Method("reset_moments", moments="reset"),
    Method("ceil", k="ceil"),
    Method("no_cooldown", cooldown=0),
    Method("short_warmup", warmup=10),
)


def sensitivity(taus: Sequence[float], alphas: Sequence[float]) -> tuple[Method, ...]:
    """The paper's method for every tau and alpha."""
    return tuple(Method(f"tau={tau:g} alpha={alpha:g}", tau=tau, alpha=alpha) for tau in taus for alpha in alphas)


def trigger_of(method: Method, warmup: int, cooldown: int, times: Sequence[int] = ()) -> Trigger:
    """The trigger of a method; ``warmup`` and ``cooldown`` in steps, where the method brings none of its own;
    ``times``: of "periodic" and "random"."""
    require_choice("trigger", method.trigger, TRIGGERS)
    warmup = warmup if method.warmup is None else method.warmup
    cooldown = cooldown if method.cooldown is None else method.cooldown
    if method.trigger == "norm":
        return Detector(method.tau, method.alpha, warmup=warmup, cooldown=cooldown)
    if method.trigger == "stable_rank":
        return StableRankTrigger(every=EVERY, warmup=max(2, warmup // EVERY), cooldown=cooldown // EVERY)
    if method.trigger == "energy":
        every = 5 * EVERY
        return EnergyTrigger(every=every, warmup=max(2, warmup // every), cooldown=cooldown // every)
    return AtSteps(times)


def times_of(method: Method, steps: int, warmup: int, count: int, seed: int) -> list[int]:
    """When a "periodic" or "random" method acts: after the warm-up, like the detector."""
    if method.trigger == "periodic":
        return [step for step in range(method.period, steps + 1, method.period) if step > warmup]
    if method.trigger == "random":
        draw = torch.randperm(steps - warmup, generator=seeded(2_000_003 + seed), device="cpu")
        return sorted((draw[:count] + warmup + 1).tolist())
    return []


def baseline_of(method: Method, warmup: int, cooldown: int, times: Sequence[int] = ()) -> Baseline:
    """What ``stability.run`` trains by. ``Run.arm`` will be the method's name."""
    if method.baseline:
        require_choice("baseline", method.baseline, BASELINES)
        return replace(BASELINES[method.baseline], name=method.name)

    def guard(model, optimizer) -> Guard:
        def halve(record: dict) -> None:
            for group in optimizer.param_groups:
                group["lr"] /= 2

        return Guard(
            model,
            method=method.action,
            trigger=trigger_of(method, warmup, cooldown, times),
            k=method.k,
            skip_step=method.skip_step,
            moments=method.moments,
            optimizer=optimizer if method.moments == "reset" else None,
            on_trigger=halve if method.halve else None,
        )

    return Baseline(method.name, guard=guard)
