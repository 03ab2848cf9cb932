"""Checks of the chapter on the largest learning rate: explosions, verdicts, signs, costs, a method of one's own."""

import math
from collections.abc import Callable
from typing import Any

import torch

from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.experiments import Instability, Method, experiment
from pso_lib.experiments import trained as verdict
from pso_lib.nn.init import seeded
from pso_lib.train.failure import explosion

# ------------------------------------------------------------------------------------------ explosion

_NAN, _INF = math.nan, math.inf
_STREAMS = {
    "falls": [2.0 - 0.01 * i for i in range(150)],
    "explodes": [1.0] + [1.6] * 130,
    "too short": [1.0] + [1.6] * 99,
    "interrupted": [1.0] + [1.6] * 60 + [1.2] + [1.6] * 60,
    "on the line": [1.0] + [1.5] * 130,
    "late minimum": [5.0] * 120 + [1.0] * 5,
    "new minimum": [4.0] * 5 + [1.0] + [1.6] * 120,
    "creeping": [1.01**i for i in range(170)],
    "nan": [2.0, 1.9, _NAN, 1.8],
    "infinite": [2.0, _INF],
    "one jump": [1.0, 9.0] + [1.0] * 120,
    "stays": [1.0] + [1.7] * 160,
}


def _walk(losses, *, patience=100, against="minimum", in_a_row=True, nonfinite=True, equal=False, first=False):
    """The definition, or a mistaken reading of it."""
    minimum, count, begun = math.inf, 0, None
    for step, loss in enumerate(losses, start=1):
        if nonfinite and not math.isfinite(loss):
            return step
        level = {
            "minimum": minimum,
            "first": losses[0],
            "last": losses[step - 2] if step > 1 else math.inf,
            "overall": min(l for l in losses if math.isfinite(l)),
        }[against]
        above = loss >= 1.5 * level if equal else loss > 1.5 * level
        count = count + 1 if above else (0 if in_a_row else count)
        begun = step if count == 1 and above else begun
        if count >= patience:
            return begun if first else step
        minimum = min(minimum, loss)
    return None


_EXPLOSION_MISTAKES: dict[str, dict[str, Any]] = {
    "you count all steps above the line; asked are 100 in a row, so a step below it starts the count again.": dict(
        in_a_row=False
    ),
    "a loss of NaN or infinity is an explosion at once, and no comparison with NaN is ever true.": dict(
        nonfinite=False
    ),
    "you take the smallest loss of the whole stream; the minimum is a running one, of the losses so far.": dict(
        against="overall"
    ),
    "you compare with the first loss; compare with the smallest so far.": dict(against="first"),
    "you compare with the loss of the step before; compare with the smallest so far.": dict(against="last"),
    "you call it an explosion at the first loss above the line; 100 in a row are needed.": dict(patience=1),
    "you count a loss of exactly 1.5 times the minimum; it must be above.": dict(equal=True),
    "you return the step at which the rise began; it is an explosion once the 100th loss is above.": dict(first=True),
    "you are one step late: at the 100th loss in a row it has exploded.": dict(patience=101),
    "you are one step early: 99 in a row are not yet enough.": dict(patience=99),
}


@exercise("how-large-a-learning-rate/explosion-step")
def _explosion(answer: Callable) -> str:
    """``explosion_step(losses)``: the step, from 1, of the explosion; None if there is none."""
    given = {name: answer(list(losses)) for name, losses in _STREAMS.items()}
    for name, step in given.items():
        if isinstance(step, bool) or not (step is None or step == int(step)):
            wrong(f"return the step as an integer, or None; for the stream {name!r} you return {step!r}.")
    right = {name: explosion(losses) for name, losses in _STREAMS.items()}
    if given == right:
        return "100 in a row above 1.5 times the running minimum, or a loss that is not finite"
    if given == {name: None if step is None else step - 1 for name, step in right.items()}:
        wrong("you count steps from 0; the first step is 1.")
    for message, change in _EXPLOSION_MISTAKES.items():
        if given == {name: _walk(losses, **change) for name, losses in _STREAMS.items()}:
            wrong(message)
    name = next(name for name in right if given[name] != right[name])
    wrong(f"for the stream {name!r} the answer is {right[name]}, not {given[name]}.")


# -------------------------------------------------------------------------------------------- verdicts


def _table(draw: torch.Generator) -> list[dict]:
    """Three methods, four rates, three seeds: runs that train, stall, explode to a number, and to NaN."""
    runs = []
    for method, ruin in (("a", 3), ("b", 2), ("c", 1)):
        for place, lr in enumerate((1e-3, 1e-2, 1e-1, 1.0)):
            for seed in range(3):
                loss = 1.0 + 0.12 * torch.rand((), generator=draw).item() + 0.05 * place
                stalls, explodes = place == ruin and seed != 1, place > ruin
                loss = 2.3 if stalls else loss
                # one cell whose mean is the smallest of all, but for an explosion
                if (method, lr) == ("c", 1e-2):
                    loss, explodes = (0.97, 0.95, 0.4)[seed], seed == 2
                final = None if explodes and place == 3 else loss
                runs.append(
                    {"model": "m", "method": method, "lr": lr, "seed": seed, "exploded": explodes, "final_loss": final}
                )
    return runs


def _judged(runs, margin, best) -> list[bool]:
    return [not r["exploded"] and r["final_loss"] is not None and r["final_loss"] <= best(r) + margin for r in runs]


def _cell_means(runs, *, spare_exploded=True) -> dict:
    cells: dict = {}
    for r in runs:
        cells.setdefault((r["method"], r["lr"]), []).append(r)
    return {
        key: sum(math.inf if r["final_loss"] is None else r["final_loss"] for r in cell) / len(cell)
        for key, cell in cells.items()
        if not (spare_exploded and any(r["exploded"] for r in cell))
    }


def _own_best(runs, method) -> float:
    return min((m for key, m in _cell_means(runs).items() if key[0] == method), default=math.inf)


@exercise("how-large-a-learning-rate/who-trained")
def _who(answer: Callable) -> str:
    """``who_trained(runs, margin)``: for each run whether it trained, a list of bools."""
    for seed in range(4):
        runs, margin = _table(seeded(seed)), (0.1, 0.3)[seed % 2]
        given = [bool(flag) for flag in answer([dict(run) for run in runs], margin)]
        if len(given) != len(runs):
            wrong(f"return one verdict a run: {len(runs)}, not {len(given)}.")
        if given == verdict(runs, margin):
            continue
        finite = [r["final_loss"] for r in runs if r["final_loss"] is not None and not r["exploded"]]
        least, loose = min(finite), min(_cell_means(runs, spare_exploded=False).values())
        mistakes = {
            "you count only explosions; a run that stalls has failed too.": [not r["exploded"] for r in runs],
            "you look at the final loss alone; a run that explodes and ends well has failed too.": [
                r["final_loss"] is not None and r["final_loss"] <= min(_cell_means(runs).values()) + margin
                for r in runs
            ],
            "you compare with the best single run; the best is the smallest mean over seeds.": _judged(
                runs, margin, lambda r, low=least: low
            ),
            "you compare each method with its own best; a method that never trains would then train.": _judged(
                runs, margin, lambda r, runs=runs: _own_best(runs, r["method"])
            ),
            "a cell with an exploded run must not set the best.": _judged(runs, margin, lambda r, low=loose: low),
            "you do not add the margin.": _judged(runs, 0.0, lambda r, runs=runs: min(_cell_means(runs).values())),
            "you return who failed; asked is who trained.": [not flag for flag in verdict(runs, margin)],
        }
        for message, flags in mistakes.items():
            if given == flags:
                wrong(message)
        place = next(i for i, (a, b) in enumerate(zip(given, verdict(runs, margin), strict=True)) if a != b)
        wrong(f"the verdict on this run is not right: {runs[place]}, margin {margin:g}.")
    return "neither an explosion nor a stall"


# ----------------------------------------------------------------------------------------------- signs


def _tail(wins: int, n: int) -> float:
    return sum(math.comb(n, i) for i in range(wins, n + 1)) / 2**n


@exercise("how-large-a-learning-rate/sign-test")
def _signs(answer: Callable) -> str:
    """``sign_test(wins, n)``: the exact two-sided probability of a split at least as uneven, by coin."""
    cases = [(wins, n) for n in (3, 5, 6, 10) for wins in range(n + 1)]
    given = [float(answer(wins, n)) for wins, n in cases]
    uneven = [(max(wins, n - wins), n) for wins, n in cases]
    right = [min(1.0, 2 * _tail(*case)) for case in uneven]

    def same(values) -> bool:
        return all(abs(a - b) <= 1e-9 for a, b in zip(given, values, strict=True))

    if same(right):
        return "five of five is 1/16: five seeds cannot reach 0.05, six can"
    mistakes = {
        "this is one-sided: you would have believed five losses as well, so count both ends.": [
            [_tail(*case) for case in cases],
            [_tail(*case) for case in uneven],
        ],
        "this is the probability of exactly this split; add those that are more uneven.": [
            [math.comb(n, wins) / 2**n for wins, n in cases],
            [min(1.0, 2 * math.comb(n, wins) / 2**n) for wins, n in cases],
        ],
        "a probability is at most 1: for an even split both ends hold the middle.": [[2 * _tail(*c) for c in uneven]],
        "this is the normal approximation; with five seeds count exactly.": [
            [math.erfc(abs(2 * wins - n) / math.sqrt(2 * n)) for wins, n in cases]
        ],
        "few wins are as telling as many: a split is uneven at either end.": [
            [min(1.0, 2 * _tail(*case)) for case in cases]
        ],
    }
    for message, lists in mistakes.items():
        if any(same(values) for values in lists):
            wrong(message)
    place = max(range(len(cases)), key=lambda i: abs(given[i] - right[i]))
    wrong(f"for {cases[place][0]} wins of {cases[place][1]} it is {right[place]:.4f}, not {given[place]:.4f}.")


# ------------------------------------------------------------------------------------------------ cost


@exercise("how-large-a-learning-rate/triggers-allowed")
def _allowed(answer) -> str:
    """Triggers per 1,000 steps for 0.5 % overhead, a step that smooths costing 2.4 plain ones."""
    rate = require_shape(answer, (), "the number of triggers").item()
    if abs(rate - 5 / 1.4) < 0.02:
        return "each costs 1.4 plain steps more, and 0.5 % of 1,000 steps are 5"
    if abs(rate - 5 / 2.4) < 0.02:
        wrong("you charge the whole step of 2.4; one of these steps you would have paid anyway.")
    if abs(rate - 500 / 1.4) < 2 or abs(rate - 500 / 2.4) < 2:
        wrong("0.5 % is 0.005, not 0.5.")
    if abs(rate - 0.005 / 1.4) < 1e-4:
        wrong("this is per step; asked are triggers per 1,000 steps.")
    if abs(rate - 1.4 / 5) < 0.01 or abs(rate - 2.4 / 5) < 0.01:
        wrong("the fraction is upside down: the budget divided by the price.")
    if rate in (3, 4):
        wrong("do not round: it is a rate, and 1,000 steps are only its unit.")
    wrong("the extra cost of all triggers together must be 0.5 % of 1,000 plain steps.")


# -------------------------------------------------------------------------------------- a method of yours


@exercise("how-large-a-learning-rate/own-method")
def _own(plan) -> str:
    """A plan with a method of one's own, and what a fair race needs."""
    if not isinstance(plan, Instability):
        wrong(f"give a plan: dataclasses.replace(race, methods=…), not {type(plan).__name__}.")
    if not all(isinstance(method, Method) for method in plan.methods):
        wrong("methods is a tuple of Method objects.")
    names = [method.name for method in plan.methods]
    if len(set(names)) < len(names):
        wrong("two methods have the same name; their runs could not be told apart.")
    known = {m for e in ("stable_learning_rate", "pss_controls", "pss_sensitivity") for m in experiment(e).methods}
    bodies = {_body(method) for method in known}
    own = [method for method in plan.methods if _body(method) not in bodies]
    if not own:
        wrong("every method of this plan is in the book already; change at least one thing of one of them.")
    if not any(method.baseline == "plain" for method in plan.methods):
        wrong("plain is missing: without it nobody knows what the method adds.")
    if not any(method.baseline == "clip" for method in plan.methods):
        wrong("clip is missing: a method that gradient clipping beats is not needed.")
    if plan.seeds < 2:
        wrong("one seed has no spread; give it two at least.")
    least = min(len(workload.rates or plan.rates) for workload in plan.workloads)
    if least < 2:
        wrong("with one rate a method that only suits another rate looks bad or good; give two at least.")
    fires = [m for m in own if not m.baseline and m.trigger in ("norm", "stable_rank", "energy")]
    short = min(workload.steps for workload in plan.workloads)
    if any((plan.detector[0] if m.warmup is None else m.warmup) >= short for m in fires):
        wrong("the trigger's warm-up is as long as the training; it can never fire.")
    return f"{', '.join(method.name for method in own)} against {len(names) - len(own)}, {plan.seeds} seeds each"


def _body(method: Method) -> tuple:
    """All of a method but its name."""
    return tuple(value for key, value in sorted(vars(method).items()) if key != "name")
