"""The checks of the chapter on the largest learning rate: the solution passes, each likely mistake is named."""

import math
from dataclasses import replace

import pytest

from pso_lib.checks import Wrong, check
from pso_lib.experiments import Method, experiment
from pso_lib.experiments import trained as who_trained


def explosion_step(losses, *, patience=100, in_a_row=True, nonfinite=True, level=min, start=1):
    above = 0
    for step, loss in enumerate(losses):
        if nonfinite and not math.isfinite(loss):
            return step + start
        past = losses[:step]
        if past and loss > 1.5 * level(past):
            above += 1
        elif in_a_row:
            above = 0
        if above >= patience:
            return step + start
    return None


def overall(losses):
    low, above = min(loss for loss in losses if math.isfinite(loss)), 0
    for step, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            return step
        above = above + 1 if loss > 1.5 * low else 0
        if above == 100:
            return step
    return None


def means(runs, *, exploded=False):
    cells = {}
    for r in runs:
        cells.setdefault((r["method"], r["lr"]), []).append(r)
    return {
        key: sum(math.inf if r["final_loss"] is None else r["final_loss"] for r in cell) / len(cell)
        for key, cell in cells.items()
        if exploded or not any(r["exploded"] for r in cell)
    }


def judged(runs, limit):
    return [not r["exploded"] and r["final_loss"] is not None and r["final_loss"] <= limit for r in runs]


def by_hand(runs, margin):
    return judged(runs, min(means(runs).values()) + margin)


def best_run(runs, margin):
    return judged(runs, min(r["final_loss"] for r in runs if not r["exploded"]) + margin)


def any_cell(runs, margin):
    return judged(runs, min(means(runs, exploded=True).values()) + margin)


def own_best(runs, margin):
    flags = []
    for r in runs:
        best = min((m for key, m in means(runs).items() if key[0] == r["method"]), default=math.inf)
        flags += judged([r], best + margin)
    return flags


def loss_alone(runs, margin):
    limit = min(means(runs).values()) + margin
    return [r["final_loss"] is not None and r["final_loss"] <= limit for r in runs]


def tail(wins, n):
    return sum(math.comb(n, i) for i in range(wins, n + 1)) / 2**n


def sign_test(wins, n):
    return min(1.0, 2 * tail(max(wins, n - wins), n))


def race(**changes):
    plan = experiment("stable_learning_rate", "quick")
    methods = tuple(m for m in plan.methods if m.name in ("plain", "clip", "pss_clip"))
    own = Method("sooner", action="log", warmup=10, tau=1.5)
    return replace(plan, **{"methods": (*methods, own), "seeds": 2} | changes)


def without(*names):
    return tuple(m for m in race().methods if m.name not in names)


@pytest.mark.parametrize(
    "name, answer",
    [
        ("how-large-a-learning-rate/explosion-step", explosion_step),
        ("how-large-a-learning-rate/who-trained", who_trained),
        ("how-large-a-learning-rate/who-trained", by_hand),
        ("how-large-a-learning-rate/sign-test", sign_test),
        ("how-large-a-learning-rate/triggers-allowed", 1000 * 0.005 / 1.4),
        ("how-large-a-learning-rate/triggers-allowed", 3.57),
        ("how-large-a-learning-rate/own-method", race()),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("how-large-a-learning-rate/explosion-step", lambda x: explosion_step(x, in_a_row=False), "in a row"),
        ("how-large-a-learning-rate/explosion-step", lambda x: explosion_step(x, nonfinite=False), "NaN or infinity"),
        ("how-large-a-learning-rate/explosion-step", overall, "running one"),
        (
            "how-large-a-learning-rate/explosion-step",
            lambda x: explosion_step(x, level=lambda past: past[0]),
            "the first loss",
        ),
        (
            "how-large-a-learning-rate/explosion-step",
            lambda x: explosion_step(x, level=lambda past: past[-1]),
            "the step before",
        ),
        (
            "how-large-a-learning-rate/explosion-step",
            lambda x: explosion_step(x, patience=1),
            "at the first loss above",
        ),
        ("how-large-a-learning-rate/explosion-step", lambda x: explosion_step(x, patience=101), "one step late"),
        ("how-large-a-learning-rate/explosion-step", lambda x: explosion_step(x, patience=99), "one step early"),
        ("how-large-a-learning-rate/explosion-step", lambda x: explosion_step(x, start=0), "from 0"),
        (
            "how-large-a-learning-rate/explosion-step",
            lambda x: explosion_step(x, level=lambda past: min(past) / 1.0001),
            "exactly 1.5",
        ),
        (
            "how-large-a-learning-rate/explosion-step",
            lambda x: (s := explosion_step(x)) and (s if s < 50 else s - 99),
            "began",
        ),
        ("how-large-a-learning-rate/explosion-step", lambda x: explosion_step(x) is not None, "integer"),
        ("how-large-a-learning-rate/explosion-step", lambda x: 7, "the answer is None"),
        (
            "how-large-a-learning-rate/who-trained",
            lambda runs, margin: [not r["exploded"] for r in runs],
            "only explosions",
        ),
        ("how-large-a-learning-rate/who-trained", loss_alone, "final loss alone"),
        ("how-large-a-learning-rate/who-trained", best_run, "best single run"),
        ("how-large-a-learning-rate/who-trained", own_best, "its own best"),
        ("how-large-a-learning-rate/who-trained", any_cell, "must not set the best"),
        ("how-large-a-learning-rate/who-trained", lambda runs, margin: by_hand(runs, 0.0), "margin"),
        (
            "how-large-a-learning-rate/who-trained",
            lambda runs, margin: [not flag for flag in by_hand(runs, margin)],
            "who failed",
        ),
        ("how-large-a-learning-rate/who-trained", lambda runs, margin: by_hand(runs, margin)[1:], "one verdict a run"),
        ("how-large-a-learning-rate/who-trained", lambda runs, margin: [True] * len(runs), "verdict on this run"),
        ("how-large-a-learning-rate/sign-test", tail, "one-sided"),
        ("how-large-a-learning-rate/sign-test", lambda wins, n: tail(max(wins, n - wins), n), "one-sided"),
        ("how-large-a-learning-rate/sign-test", lambda wins, n: math.comb(n, wins) / 2**n, "exactly this split"),
        ("how-large-a-learning-rate/sign-test", lambda wins, n: 2 * tail(max(wins, n - wins), n), "at most 1"),
        ("how-large-a-learning-rate/sign-test", lambda wins, n: min(1.0, 2 * tail(wins, n)), "either end"),
        (
            "how-large-a-learning-rate/sign-test",
            lambda wins, n: math.erfc(abs(2 * wins - n) / math.sqrt(2 * n)),
            "normal",
        ),
        ("how-large-a-learning-rate/sign-test", lambda wins, n: 0.5, "wins of"),
        ("how-large-a-learning-rate/triggers-allowed", 5 / 2.4, "anyway"),
        ("how-large-a-learning-rate/triggers-allowed", 500 / 1.4, "0.005"),
        ("how-large-a-learning-rate/triggers-allowed", 0.005 / 1.4, "per step"),
        ("how-large-a-learning-rate/triggers-allowed", 1.4 / 5, "upside down"),
        ("how-large-a-learning-rate/triggers-allowed", 3, "do not round"),
        ("how-large-a-learning-rate/triggers-allowed", 42.0, "together"),
        ("how-large-a-learning-rate/own-method", race(methods=without("plain")), "plain is missing"),
        ("how-large-a-learning-rate/own-method", race(methods=without("clip")), "clip is missing"),
        ("how-large-a-learning-rate/own-method", race(methods=without("sooner")), "in the book already"),
        (
            "how-large-a-learning-rate/own-method",
            race(methods=without("sooner") + (Method("renamed"),)),
            "in the book already",
        ),
        (
            "how-large-a-learning-rate/own-method",
            race(methods=race().methods + (Method("clip", tau=9.0),)),
            "the same name",
        ),
        ("how-large-a-learning-rate/own-method", race(seeds=1), "spread"),
        ("how-large-a-learning-rate/own-method", race(rates=(1e-2,)), "one rate"),
        (
            "how-large-a-learning-rate/own-method",
            race(methods=without("sooner") + (Method("late", warmup=5000),)),
            "never fire",
        ),
        ("how-large-a-learning-rate/own-method", race(methods=("plain", "clip")), "Method objects"),
        ("how-large-a-learning-rate/own-method", race().methods, "give a plan"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, answer)
    assert part in str(caught.value)
