"""One training loop for the experiments on instability, and what counts as failure, fixed beforehand.

    result = run(workload, BASELINES["clip"], lr=3e-3, seed=0, steps=1000)
    result.exploded, result.final_loss, len(result.triggers), result.overhead

Every arm trains by this loop alone. A step is: gradients; the guard, if there is one; the update, unless the guard
says no. The same task, arm, rate and seed give the same result again on one machine, but for the seconds.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pso_lib.errors import checked, require_choice, require_number, require_positive, require_positive_int
from pso_lib.finite import finite_or_none
from pso_lib.nn.init import seeded
from pso_lib.train.baselines import Baseline
from pso_lib.train.failure import Explosion
from pso_lib.train.progress import bar
from pso_lib.train.workloads import Workload

__all__ = ["Run", "rate_factor", "run"]

SCHEDULES = ("constant", "cosine")
BATCHES = 1_000_003  # a batch generator's seed is this plus the run's: never that of a start


@checked
def rate_factor(step: int, steps: int, warmup: int, schedule: str = "constant", end: float = 0.1) -> float:
    """The share of the learning rate at a step (from 0): linear warm-up, then constant, or a cosine down to ``end``."""
    require_choice("schedule", schedule, SCHEDULES)
    step, warmup = require_positive_int("step", step, least=0), require_positive_int("warmup", warmup, least=0)
    steps, end = require_positive_int("steps", steps), require_number("end", end, least=0)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return end + (1 - end) * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


@dataclass
class Run:
    """What a run did. Steps count from 1; ``losses[i]`` and the norms of step i + 1 are from before its update.

    Attributes:
        losses: of the batches, in nats, without an arm's penalty.
        gradient_norms: root of the summed squares over all parameters, before guard or clipping.
        gradient_sums: sum of the tensors' norms: the stream of the paper's detector, to be replayed.
        triggers: steps at which the guard intervened; ``skipped``: steps without an update.
        exploded_at: the step at which ``Explosion`` said so. ended_at: the step after which training stopped, if early.
        validation: ``task.evaluate`` at the end.
        step_seconds, guard_seconds: of each step, and of the guard within it.
        watched: what ``watch`` returned, with its steps.
    """

    task: str
    arm: str
    lr: float
    seed: int
    steps: int
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    gradient_sums: list[float] = field(default_factory=list)
    triggers: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    exploded_at: int | None = None
    ended_at: int | None = None
    validation: dict[str, float] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)
    guard_seconds: list[float] = field(default_factory=list)
    watched: list[tuple[int, Any]] = field(default_factory=list)
    last: int = 50

    @property
    def exploded(self) -> bool:
        return self.exploded_at is not None

    @property
    def final_loss(self) -> float | None:
        """The validation loss at the end; None if it is not finite."""
        return finite_or_none(self.validation.get("loss", math.nan))

    @property
    def last_loss(self) -> float | None:
        """The mean training loss of the last steps (50 by default); None if it is not finite."""
        return finite_or_none(sum(self.losses[-self.last :]) / len(self.losses[-self.last :]))

    @property
    def seconds(self) -> float:
        """Of all steps, the guard included; without looks and evaluation."""
        return sum(self.step_seconds)

    @property
    def overhead(self) -> float:
        """The guard's seconds over those of everything else. What changes the model or the loss is not in it:
        compare ``seconds`` with those of plain AdamW."""
        return sum(self.guard_seconds) / (self.seconds - sum(self.guard_seconds))

    def as_dict(self, *, curve: int = 200, timings: bool = True) -> dict:
        """Plain JSON data: the result, at most ``curve`` means of the losses, and of each stretch the largest norm.

        ``timings=False`` leaves out what differs from run to run.
        """
        stretch = max(1, math.ceil(len(self.losses) / curve))
        cut = range(0, len(self.losses), stretch)
        found = {
            "model": self.task,
            "method": self.arm,
            "lr": self.lr,
            "seed": self.seed,
            "steps": self.steps,
            "exploded": self.exploded,
            "exploded_at": self.exploded_at,
            "ended_at": self.ended_at,
            "final_loss": self.final_loss,
            "last_loss": self.last_loss,
            "accuracy": self.validation.get("accuracy"),
            "triggers": list(self.triggers),
            "skipped": list(self.skipped),
            "curve": {
                "steps": [min(start + stretch, len(self.losses)) for start in cut],
                "loss": [_mean(self.losses[start : start + stretch]) for start in cut],
                "gradient_norm": [_largest(self.gradient_norms[start : start + stretch]) for start in cut],
            },
        }
        if timings:
            found["seconds"] = round(self.seconds, 3)
            found["overhead"] = round(self.overhead, 6)
            found["plain_step_ms"], found["trigger_step_ms"] = self._milliseconds()
        return found

    def _milliseconds(self) -> tuple[float | None, float | None]:
        """The median step at which the guard did nothing, and the one at which it did."""
        fired = set(self.triggers)
        parts: tuple[list, list] = ([], [])
        for step, seconds in enumerate(self.step_seconds, start=1):
            parts[step in fired].append(1000 * seconds)
        plain, firing = (round(statistics.median(part), 3) if part else None for part in parts)
        return plain, firing


@checked
def run(
    task: Workload,
    arm: Baseline,
    *,
    lr: float,
    seed: int,
    steps: int,
    warmup: int = 20,
    schedule: str = "constant",
    stop: str = "lost",
    limits: tuple[float, int] = (1.5, 100),
    watch: Callable[[int, nn.Module], Any] | None = None,
    watch_every: int = 1,
) -> Run:
    """Train a fresh model of ``task`` by ``arm`` and return the record.

    Args:
        warmup, schedule: linear warm-up, then "constant" or "cosine"; see ``rate_factor``. The rate is changed by a
            factor each step, so what a guard does to it (halve it, say) stays done.
        stop: when to end early: "lost": a weight is not finite, which no arm can mend; "exploded": at the explosion.
        limits: factor and patience of ``Explosion``; its floor is the task's.
        watch: ``watch(step, model)`` after the gradients and before guard and update, at step 1 and every
            ``watch_every``; what it returns is kept. Its time is not counted.

    Raises:
        ValueError: bad numbers, or an arm with options that the task's model does not have.
    """
    steps, watch_every = require_positive_int("steps", steps), require_positive_int("watch_every", watch_every)
    warmup, lr = require_positive_int("warmup", warmup, least=0), require_positive("lr", lr)
    seed = require_positive_int("seed", seed, least=0)
    require_choice("schedule", schedule, SCHEDULES)
    require_choice("stop", stop, ("lost", "exploded"))
    model = task.model(seed, **arm.options)
    if arm.prepare is not None:
        arm.prepare(model)
    model.train()
    optimizer = arm.optimizer(model, lr)
    guard = arm.guard(model, optimizer) if arm.guard is not None else None
    parameters = [p for p in model.parameters() if p.requires_grad]
    draw = seeded(BATCHES + seed)
    result = Run(task.name, arm.name, lr, seed, steps)
    watcher = Explosion(*limits, floor=task.floor)
    clock = _clock(parameters[0].device)
    factor = 1.0
    for step in bar(range(1, steps + 1), total=steps, show=None):
        begun = clock()
        before, factor = factor, rate_factor(step - 1, steps, warmup, schedule)
        for group in optimizer.param_groups:
            group["lr"] *= factor / before
        loss = task.loss(model, task.batch(draw))
        optimizer.zero_grad()
        (loss if arm.penalty is None else loss + arm.penalty(model)).backward()
        seen, norm, total = _observe(loss, parameters)
        result.losses.append(seen)
        result.gradient_norms.append(norm)
        result.gradient_sums.append(total)
        spent = clock() - begun
        if watcher.update(seen) and result.exploded_at is None:
            result.exploded_at = step
        lost = not math.isfinite(seen) and not all(p.isfinite().all() for p in parameters)
        if lost or (stop == "exploded" and result.exploded):
            result.step_seconds.append(spent)
            result.guard_seconds.append(0.0)
            result.ended_at = step
            break
        if watch is not None and (step == 1 or step % watch_every == 0):
            result.watched.append((step, watch(step, model)))
        begun = clock()
        proceed = _guarded(guard, step, result)
        guarding = clock() - begun
        if proceed:
            optimizer.step()
        result.guard_seconds.append(guarding)
        result.step_seconds.append(spent + clock() - begun)
    result.validation = task.evaluate(model)
    return result


def _guarded(guard, step: int, result: Run) -> bool:
    """Let the guard look; note what it did. Whether to update."""
    if guard is None:
        return True
    past = len(getattr(guard, "interventions", ()))
    proceed = bool(guard.step())
    if len(getattr(guard, "interventions", ())) > past:
        result.triggers.append(step)
    if not proceed:
        result.skipped.append(step)
    return proceed


def _observe(loss, parameters) -> tuple[float, float, float]:
    """The loss, the global gradient norm and the sum of the tensors' norms, in one transfer."""
    norms = torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None])
    return tuple(torch.stack([loss.detach().to(norms.dtype), norms.norm(), norms.sum()]).tolist())


def _clock(device: torch.device) -> Callable[[], float]:
    """Seconds that count what was asked of the device as done."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def _mean(values: list[float]) -> float | None:
    mean = finite_or_none(sum(values) / len(values))
    return None if mean is None else float(f"{mean:.5g}")


def _largest(values: list[float]) -> float | None:
    """The largest, None if one is not finite."""
    return float(f"{max(values):.5g}") if all(map(math.isfinite, values)) else None
