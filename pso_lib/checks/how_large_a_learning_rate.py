"""Checks of the chapter on the largest learning rate: rules, bars, costs, luck, and a method of one's own."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from pso_lib.checks._compare import as_numbers, require_function
from pso_lib.checks._core import exercise, wrong
from pso_lib.experiments import Instability, Method, experiment
from pso_lib.experiments.methods import baseline_of, times_of
from pso_lib.nn.init import gaussian, seeded

# ---------------------------------------------------------------------------------- two runs that fool the rule


def _explodes(losses: Sequence[float]) -> int | None:
    """The chapter's definition: the step of the 100th loss in a row above 1.5 times the running minimum."""
    minimum, above = math.inf, 0
    for step, loss in enumerate(losses, start=1):
        above = above + 1 if loss > 1.5 * minimum else 0
        if above == 100:
            return step
        minimum = min(minimum, loss)
    return None


def _losses(answer: Any, what: str, least: int) -> list[float]:
    losses = as_numbers(answer, what)
    if losses.ndim != 1 or not least <= len(losses) <= 1000:
        wrong(f"{what} has shape {tuple(losses.shape)}; give a list of {least} to 1,000 losses.")
    if not losses.isfinite().all() or (losses <= 0).any():
        wrong(f"{what} has losses that are not finite or not positive; the rule must be fooled by its counting.")
    return losses.tolist()


@exercise("how-large-a-learning-rate/fool-the-rule", points=2)
def _fool(missed, false_alarm) -> str:
    """A lost run in which the rule sees no explosion; a healthy one in which it does: two lists of losses."""
    lost, healthy = _losses(missed, "missed", 200), _losses(false_alarm, "false_alarm", 200)
    if (step := _explodes(lost)) is not None:
        swapped = " Are the two swapped?" if _explodes(healthy) is None else ""
        wrong(
            f"the rule sees missed explode, at step {step}: there the 100th loss in a row is above the line.{swapped}"
        )
    low = min(lost)
    rest = lost[lost.index(low) + 1 :]
    if len(rest) < 200:
        wrong(f"missed has {len(rest)} losses after its smallest; at least 200 are to be lost.")
    share = sum(loss > 10 * low for loss in rest) / len(rest)
    if share < 0.9:
        wrong(f"after its smallest loss missed is lost in {share:.0%} of the steps only: more than ten times above it.")
    if _explodes(healthy) is None:
        wrong("the rule sees no explosion in false_alarm. Which single loss moves its line for ever?")
    means = torch.tensor(healthy[: len(healthy) // 50 * 50]).double().view(-1, 50).mean(1)
    risen = (means[1:] > 0.99 * means[:-1]).nonzero().flatten().tolist()
    if risen:
        first, (before, after) = 50 * risen[0] + 51, means[risen[0] : risen[0] + 2]
        wrong(
            f"false_alarm is not healthy: losses {first} to {first + 49} have the mean {after:.3g}, the 50 before them "
            f"{before:.3g}. It must fall by at least 1 % each time."
        )
    return "one loss in a hundred resets the count, and one lucky loss sets the line: both are single minibatches"


# ------------------------------------------------------------------------------------------- who sets the bar


def _table(seed: int) -> list[dict]:
    """Three methods, four rates, three seeds: runs that train, stall, explode to a number, and to NaN."""
    draw, runs = seeded(seed), []
    for method, ruin, level in (("a", 3, 1.0), ("b", 2, 1.25), ("c", 1, 0.7)):
        for place, lr in enumerate((1e-3, 1e-2, 1e-1, 1.0)):
            for i in range(3):
                loss = level + 0.12 * torch.rand((), generator=draw).item() + 0.05 * place
                stalls, explodes = place == ruin and i != 1, place > ruin
                loss = 2.3 if stalls else loss
                if (method, lr) == ("b", 1e-2):  # a cell of the smallest mean of all, but for an explosion
                    loss, explodes = (0.57, 0.55, 0.4)[i], i == 2
                final = None if explodes and place == 3 else loss
                runs.append(dict(model="m", method=method, lr=lr, seed=i, exploded=explodes, final_loss=final))
    return runs


def _best(runs: list[dict], *, spare_exploded: bool = True) -> float:
    """The smallest mean over seeds among all methods and rates."""
    cells: dict = {}
    for r in runs:
        cells.setdefault((r["method"], r["lr"]), []).append(r)
    means = [
        sum(math.inf if r["final_loss"] is None else r["final_loss"] for r in cell) / len(cell)
        for cell in cells.values()
        if not (spare_exploded and any(r["exploded"] for r in cell))
    ]
    return min(means, default=math.inf)


def _good(r: dict, bar: float) -> bool:
    return not r["exploded"] and r["final_loss"] is not None and r["final_loss"] <= bar


def _others(runs: list[dict], method: str) -> list[dict]:
    return [r for r in runs if r["method"] != method]


def _freed(runs: list[dict], margin: float, method: str, bar: Callable = _best, good: Callable = _good) -> int:
    rest = _others(runs, method)
    level = bar(rest) + margin
    return sum(good(r, level) for r in rest)


@exercise("how-large-a-learning-rate/who-sets-the-bar", points=2)
def _bar(trained_without) -> str:
    """``trained_without(runs, margin, method)``: how many runs of the others train if the method is left out."""
    right = _freed
    require_function(
        trained_without,
        right,
        [(_table(seed), margin, method) for seed, margin in ((0, 0.1), (1, 0.3), (2, 0.1)) for method in "abc"],
        {
            "the bar is still set by the method that you leave out; find the best anew.": lambda runs, margin, method: (
                sum(_good(r, _best(runs) + margin) for r in _others(runs, method))
            ),
            "you count the runs of the method that is left out as well.": lambda runs, margin, method: sum(
                _good(r, _best(_others(runs, method)) + margin) for r in runs
            ),
            "you change nothing: all methods are still in the race.": lambda runs, margin, method: sum(
                _good(r, _best(runs) + margin) for r in runs
            ),
            "you count only explosions; a run that stalls has failed too.": partial(
                _freed, good=lambda r, bar: not r["exploded"]
            ),
            "you look at the final loss alone; a run that explodes and ends well has failed too.": partial(
                _freed, good=lambda r, bar: r["final_loss"] is not None and r["final_loss"] <= bar
            ),
            "you compare with the best single run; the best is the smallest mean over seeds.": partial(
                _freed, bar=lambda rest: min(r["final_loss"] for r in rest if not r["exploded"])
            ),
            "a cell with an exploded run must not set the best.": partial(
                _freed, bar=lambda rest: _best(rest, spare_exploded=False)
            ),
            "you compare each method with its own best; a method that never trains would then train.": (
                lambda runs, margin, method: sum(
                    _freed([r for r in runs if r["method"] == other], margin, method) for other in "abc"
                )
            ),
            "you do not add the margin.": lambda runs, margin, method: right(runs, 0.0, method),
            "you count who failed; asked is who trained.": lambda runs, margin, method: (
                len(_others(runs, method)) - right(runs, margin, method)
            ),
            "this is how many more they are than with the method; asked is how many they are.": (
                lambda runs, margin, method: (
                    right(runs, margin, method) - sum(_good(r, _best(runs) + margin) for r in _others(runs, method))
                )
            ),
        },
        what="the number of runs",
    )
    return "a rule that compares with the best is a rule about who is in the race"


# -------------------------------------------------------------------------------------------------------- cost


def _alarms(budget: float, price: float, reading: float, extra: float = 1.0) -> float:
    return 1000 * (budget - reading) / (price - extra)


@exercise("how-large-a-learning-rate/alarms-allowed", points=1)
def _cost(alarms_allowed) -> str:
    """``alarms_allowed(budget, price, reading)``: alarms per 1,000 steps within a budget of overhead; 0 if none."""
    right = lambda *case: max(0.0, _alarms(*case))  # noqa: E731
    require_function(
        alarms_allowed,
        right,
        [(0.02, 2.4, 0.01), (0.005, 2.4, 0.0021), (0.1, 9.8, 0.03), (0.005, 2.4, 0.01)],
        {
            "you charge the whole step that smooths; one plain step you would have paid anyway.": lambda b, p, r: max(
                0.0, _alarms(b, p, r, extra=0.0)
            ),
            "you left out the reading of the gradients, which every step pays.": lambda b, p, r: _alarms(b, p, 0.0),
            "this is per step; asked are alarms per 1,000 steps.": lambda *case: right(*case) / 1000,
            "the budget is a share, such as 0.02, and not a percentage.": lambda *case: right(*case) / 100,
            "no number of alarms is negative: where reading alone is too dear, it is 0.": _alarms,
            "do not round: it is a rate, and 1,000 steps are only its unit.": lambda *case: math.floor(right(*case)),
            "reading is not paid once per alarm, but at every step.": lambda b, p, r: 1000 * b / (p - 1 + r),
        },
        what="the number of alarms",
    )
    return "what reading leaves of the budget, over what an alarm adds to a step"


# -------------------------------------------------------------------------------------------------------- luck


def _tail(wins: int, n: int) -> float:
    return sum(math.comb(n, i) for i in range(wins, n + 1)) / 2**n


def _uneven(wins: int, n: int) -> float:
    """The probability of a split at least as uneven, in either direction."""
    return min(1.0, 2 * _tail(max(wins, n - wins), n))


def _some(p: float, comparisons: int) -> float:
    return 1 - (1 - p) ** comparisons


@exercise("how-large-a-learning-rate/by-luck", points=2)
def _luck(by_luck) -> str:
    """``by_luck(wins, n, comparisons)``: that coins alone give at least one split as uneven as wins of n."""
    require_function(
        by_luck,
        lambda wins, n, many: _some(_uneven(wins, n), many),
        [(wins, n, many) for n, many in ((5, 1), (5, 8), (6, 3), (10, 60)) for wins in range(n + 1)],
        {
            "you count one direction; you would have believed the opposite split as well.": (
                lambda wins, n, many: _some(_tail(max(wins, n - wins), n), many)
            ),
            "few wins are as telling as many: a split is uneven at either end.": (
                lambda wins, n, many: _some(min(1.0, 2 * _tail(wins, n)), many)
            ),
            "this is for exactly this split; add those that are more uneven.": (
                lambda wins, n, many: _some(min(1.0, 2 * math.comb(n, wins) / 2**n), many)
            ),
            "this is for one comparison; with more of them luck has more chances.": (
                lambda wins, n, many: _uneven(wins, n)
            ),
            "you add the probabilities of all comparisons; that is a bound, and can be above 1.": (
                lambda wins, n, many: many * _uneven(wins, n)
            ),
            "you add the probabilities of all comparisons; that is a bound. Ask for none instead.": (
                lambda wins, n, many: min(1.0, many * _uneven(wins, n))
            ),
            "this is for all comparisons at once; asked is at least one.": (
                lambda wins, n, many: _uneven(wins, n) ** many
            ),
            "this is that no comparison is so uneven; asked is at least one.": (
                lambda wins, n, many: 1 - _some(_uneven(wins, n), many)
            ),
            "this is the normal approximation; with five seeds count exactly.": (
                lambda wins, n, many: _some(math.erfc(abs(2 * wins - n) / math.sqrt(2 * n)), many)
            ),
        },
        what="the probability",
    )
    return "five of five is 1/16; among eight comparisons luck alone has such a one in two cases of five"


# ------------------------------------------------------------------------------------------ a method of yours


@cache
def _conduct(method: Method | None, detector: tuple[int, int], steps: int) -> Tensor:
    """What a method, or none, makes of a small network under gradients of a given, noisy trace: a number a step."""
    draw = seeded(0)
    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.Linear(6, 8, bias=False)).double()
    for p in model.parameters():
        p.data.copy_(gaussian(p.shape[0], p.shape[1], 0.4, draw))
    optimizer, guard = torch.optim.SGD(model.parameters(), lr=3e-3, momentum=0.9), None
    if method is not None:
        times = times_of(method, steps, detector[0], 9, 0)
        make = baseline_of(method, *detector, times).guard
        guard = make(model, optimizer) if make else None
    seen = []
    for _ in range(steps):
        size = torch.randn((), generator=draw).exp().item()
        for p in model.parameters():  # a part that all steps agree on, so that the spectra sharpen
            p.grad = size * (gaussian(p.shape[0], p.shape[1], 0.1, draw) - 1 / 7)
        if guard is None or guard.step():
            optimizer.step()
        seen.append(nn.utils.parameters_to_vector(model.parameters()).detach().square().sum())
    return torch.stack(seen)


@cache
def _book() -> frozenset[Method]:
    names = ("stable_learning_rate", "pss_controls", "pss_sensitivity", "pss_triggers")
    return frozenset(method for name in names for method in experiment(name).methods)


def _require_own(method: Method, plan: Instability) -> None:
    """Does it act, and otherwise than plain and all methods of the book?"""
    if method.trigger == "random" and method.matches not in [m.name for m in plan.methods]:
        wrong(f"{method.name!r} acts as often as {method.matches!r} did, which is no method of your plan.")
    short = min(workload.steps for workload in plan.workloads)
    first = method.period if method.trigger == "periodic" else method.warmup
    first = plan.detector[0] if first is None else first
    if first >= short:
        wrong(f"{method.name!r} waits as long as the training lasts, {short} steps; it can never act.")
    conduct = partial(_conduct, detector=plan.detector, steps=first + 150)
    try:
        mine = conduct(method)
    except ValueError as error:
        wrong(f"{method.name!r} is no method: {error}")
    if torch.allclose(mine, conduct(None), rtol=1e-12):
        wrong(f"{method.name!r} does nothing on a trace of {first + 150} noisy gradients: it is plain in disguise.")
    for known in _book():
        alike = not known.baseline and known.trigger == method.trigger
        if alike and torch.allclose(mine, conduct(known), rtol=1e-12):
            wrong(f"{method.name!r} does what {known.name!r} does, which is in the book already; change what it does.")


@exercise("how-large-a-learning-rate/own-method", points=3)
def _own(plan) -> str:
    """A plan with a method of one's own, and what a fair race needs."""
    if not isinstance(plan, Instability):
        wrong(f"give a plan: dataclasses.replace(race, methods=…), not {type(plan).__name__}.")
    if not all(isinstance(method, Method) for method in plan.methods):
        wrong("methods is a tuple of Method objects.")
    names = [method.name for method in plan.methods]
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        wrong("two methods have the same name, or one has none; their runs could not be told apart.")
    raced = [m for m in plan.methods if all(not w.methods or m.name in w.methods for w in plan.workloads)]
    for baseline, why in (("plain", "nobody knows what yours adds"), ("clip", "gradient clipping may do as well")):
        if not any(method.baseline == baseline for method in raced):
            wrong(f"{baseline} is missing on a workload: without it {why}.")
    own = [m for m in raced if not m.baseline and m not in _book()]
    if not own:
        wrong("every method of this plan is in the book already; add one that does something else.")
    if plan.seeds < 2:
        wrong("one seed has no spread; give it two at least.")
    if min(len(set(workload.rates or plan.rates)) for workload in plan.workloads) < 2:
        wrong("with one rate a method that only suits another rate looks bad or good; give two at least.")
    for method in own:
        _require_own(method, plan)
    return f"{', '.join(m.name for m in own)} against {len(raced) - len(own)}, {plan.seeds} seeds each"
