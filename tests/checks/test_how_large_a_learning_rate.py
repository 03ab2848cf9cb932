"""The checks of the chapter on the largest learning rate: right answers pass, likely mistakes are named."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from exercise_cases import named, passes

from pso_lib.checks import check
from pso_lib.checks.how_large_a_learning_rate import _explodes
from pso_lib.experiments import Method, experiment
from pso_lib.experiments import trained as who_trained
from pso_lib.train.failure import explosion

MISSED = [1.0] + ([50.0] * 99 + [1.5]) * 3
FALSE_ALARM = [3 - i / 200 for i in range(300)]
FALSE_ALARM[100] = 1.0


def others(runs, method):
    return [r for r in runs if r["method"] != method]


def by_the_library(runs, margin, method):
    return sum(who_trained(others(runs, method), margin))


def means(runs, *, exploded=False):
    cells = {}
    for r in runs:
        cells.setdefault((r["method"], r["lr"]), []).append(r)
    return [
        sum(math.inf if r["final_loss"] is None else r["final_loss"] for r in cell) / len(cell)
        for cell in cells.values()
        if exploded or not any(r["exploded"] for r in cell)
    ]


def judged(runs, limit):
    return sum(not r["exploded"] and r["final_loss"] is not None and r["final_loss"] <= limit for r in runs)


def by_hand(runs, margin, method):
    rest = others(runs, method)
    return judged(rest, min(means(rest)) + margin)


def own_best(runs, margin, method):
    total = 0
    for other in "abc".replace(method, ""):
        mine = [r for r in runs if r["method"] == other]
        total += judged(mine, min(means(mine)) + margin)
    return total


def loss_alone(runs, margin, method):
    rest = others(runs, method)
    limit = min(means(rest)) + margin
    return sum(r["final_loss"] is not None and r["final_loss"] <= limit for r in rest)


def best_run(runs, margin, method):
    rest = others(runs, method)
    return judged(rest, min(r["final_loss"] for r in rest if not r["exploded"]) + margin)


def any_cell(runs, margin, method):
    rest = others(runs, method)
    return judged(rest, min(means(rest, exploded=True)) + margin)


def old_bar(runs, margin, method):
    return judged(others(runs, method), min(means(runs)) + margin)


def alarms_allowed(budget, price, reading):
    return max(0.0, 1000 * (budget - reading) / (price - 1))


def two_sided(wins, n):
    return scipy.stats.binomtest(wins, n).pvalue


def by_luck(wins, n, comparisons):
    return 1 - (1 - two_sided(wins, n)) ** comparisons


def tail(wins, n):
    return sum(math.comb(n, i) for i in range(wins, n + 1)) / 2**n


def some(p, comparisons):
    return 1 - (1 - min(1.0, p)) ** comparisons


def race(*own, **changes):
    plan = experiment("stable_learning_rate", "quick")
    own = own or (Method("sooner", action="log", warmup=10, tau=1.5),)
    methods = tuple(m for m in plan.methods if m.name in ("plain", "clip", "pss_clip"))
    return replace(plan, **{"methods": (*methods, *own), "seeds": 2} | changes)


def without(*names):
    return tuple(m for m in race().methods if m.name not in names)


def narrowed():
    """Plain runs on no workload."""
    plan = race()
    return replace(plan, workloads=tuple(replace(w, methods=("clip", "sooner")) for w in plan.workloads))


FOOL, BAR, COST, LUCK, OWN = (
    f"how-large-a-learning-rate/{name}"
    for name in ("fool-the-rule", "who-sets-the-bar", "alarms-allowed", "by-luck", "own-method")
)
SOLUTIONS = {
    FOOL: [
        (MISSED, FALSE_ALARM),
        (np.array(MISSED), torch.tensor(FALSE_ALARM)),
        ([2.0, 1.0, *([1e6] * 90 + [1.2]) * 4], tuple(FALSE_ALARM)),
    ],
    BAR: [by_the_library, by_hand, lambda *case: torch.tensor(by_hand(*case))],
    COST: [alarms_allowed, lambda *case: np.float64(alarms_allowed(*case))],
    LUCK: [by_luck, lambda wins, n, m: some(2 * tail(max(wins, n - wins), n), m)],
    OWN: [
        race(),
        race(Method("gentle", tau=6.0, action="softplus")),
        race(Method("late", warmup=200)),
        race(Method("often", trigger="periodic", period=30)),
    ],
}
MISTAKES = {
    FOOL: [
        (([1.0] + [50.0] * 300, FALSE_ALARM), "the rule sees missed explode, at step 101"),
        ((FALSE_ALARM, MISSED), "swapped"),
        (([1.0] * 300, FALSE_ALARM), "is lost in 0%"),
        (([1.0] + [50.0] * 99 + [1.5] * 150, FALSE_ALARM), "of the steps only"),
        (([9.0] * 250 + [1.0], FALSE_ALARM), "at least 200 are to be lost"),
        (([1.0] + [float("nan")] * 250, FALSE_ALARM), "not finite"),
        (([-1.0] + [50.0] * 250, FALSE_ALARM), "not positive"),
        (([1.0, 50.0], FALSE_ALARM), "a list of 200"),
        ((MISSED, [3 - i / 200 for i in range(300)]), "moves its line"),
        ((MISSED, [1.0] + [1.6] * 300), "not healthy"),
        ((MISSED, MISSED), "moves its line"),
    ],
    BAR: [
        (old_bar, "still set by the method"),
        (lambda runs, margin, method: judged(runs, min(means(others(runs, method))) + margin), "left out as well"),
        (lambda runs, margin, method: sum(who_trained(runs, margin)), "all methods are still"),
        (lambda runs, margin, method: sum(not r["exploded"] for r in others(runs, method)), "only explosions"),
        (loss_alone, "final loss alone"),
        (best_run, "best single run"),
        (any_cell, "exploded run must not"),
        (own_best, "its own best"),
        (lambda runs, margin, method: by_hand(runs, 0.0, method), "the margin"),
        (lambda runs, margin, method: len(others(runs, method)) - by_hand(runs, margin, method), "who failed"),
        (lambda *case: by_hand(*case) - old_bar(*case), "how many more"),
        (lambda *case: 7, "use its arguments"),
    ],
    COST: [
        (lambda b, p, r: max(0.0, 1000 * (b - r) / p), "anyway"),
        (lambda b, p, r: 1000 * b / (p - 1), "reading of the gradients"),
        (lambda *case: alarms_allowed(*case) / 1000, "per step"),
        (lambda *case: alarms_allowed(*case) / 100, "percentage"),
        (lambda b, p, r: 1000 * (b - r) / (p - 1), "negative"),
        (lambda *case: int(alarms_allowed(*case)), "do not round"),
        (lambda b, p, r: 1000 * b / (p - 1 + r), "once per alarm"),
        (5 / 1.4, "the function itself"),
    ],
    LUCK: [
        (lambda wins, n, m: some(tail(max(wins, n - wins), n), m), "one direction"),
        (lambda wins, n, m: some(2 * tail(wins, n), m), "few wins"),
        (lambda wins, n, m: some(2 * math.comb(n, wins) / 2**n, m), "exactly this split"),
        (lambda wins, n, m: two_sided(wins, n), "for one comparison"),
        (lambda wins, n, m: m * two_sided(wins, n), "that is a bound"),
        (lambda wins, n, m: min(1.0, m * two_sided(wins, n)), "a bound. Ask for none"),
        (lambda wins, n, m: two_sided(wins, n) ** m, "all comparisons at once"),
        (lambda wins, n, m: 1 - by_luck(wins, n, m), "no comparison"),
        (lambda wins, n, m: some(2 * scipy.stats.norm.sf(abs(2 * wins - n) / n**0.5), m), "normal approximation"),
        (lambda wins, n, m: 0.0625, "use its arguments"),
    ],
    OWN: [
        (race(methods=without("plain")), "plain is missing"),
        (race(methods=without("clip")), "clip is missing"),
        (narrowed(), "plain is missing on a workload"),
        (race(methods=without("sooner")), "in the book already"),
        (race(Method("renamed")), "does what"),
        (race(Method("mine", baseline="plain", tau=9.0)), "in the book already"),
        (race(Method("mine", tau=1e9)), "plain in disguise"),
        (race(Method("mine", action="watch", skip_step=False)), "plain in disguise"),
        (race(Method("mine", action="nonsense")), "is no method"),
        (race(Method("mine", trigger="nonsense")), "is no method"),
        (race(Method("mine", trigger="random", matches="nonsense")), "no method of your plan"),
        (race(Method("clip", tau=9.0)), "the same name"),
        (race(Method(" ", tau=9.0)), "has none"),
        (race(seeds=1), "spread"),
        (race(rates=(1e-2, 1e-2)), "one rate"),
        (race(Method("late", warmup=5000)), "never act"),
        (race(Method("late", trigger="periodic", period=5000)), "never act"),
        (race(methods=("plain", "clip")), "Method objects"),
        (list(race().methods), "give a plan"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


@pytest.mark.parametrize("losses", [MISSED, FALSE_ALARM, [1.0] + [1.5] * 130, [1.01**i for i in range(170)]])
def test_the_rule_is_the_chapters(losses):
    assert _explodes(losses) == explosion(losses)


def test_one_blank_of_two_is_no_answer_yet():
    assert check(FOOL, MISSED, ...).passed is None
