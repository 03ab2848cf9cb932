"""The loop of the experiments on instability: it repeats itself, says what failed, and times the guard."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from pso_lib.data import load
from pso_lib.data.text import load_text
from pso_lib.train.baselines import BASELINES, Baseline
from pso_lib.train.monitored import Run, rate_factor, run
from pso_lib.train.workloads import mlp_workload, transformer_workload


@pytest.fixture(scope="module")
def mlp():
    return mlp_workload(load("digits"), depth=3, width=16, batch=16)


@pytest.fixture(scope="module")
def transformer():
    return transformer_workload(load_text("topics"), batch=4, context=8, width=8, layers=1, heads=2, windows=4)


class Scripted:
    """A guard that intervenes and skips at chosen steps."""

    def __init__(self, fires=(), skips=(), seconds=0.0, also=lambda: None):
        self.fires, self.skips, self.seconds, self.also = fires, skips, seconds, also
        self.steps, self.interventions = 0, []

    def step(self) -> bool:
        self.steps += 1
        time.sleep(self.seconds)
        if self.steps in self.fires:
            self.interventions.append({"step": self.steps})
            self.also()
        return self.steps not in self.skips


# --------------------------------------------------------------------------------------- rates


def test_rates():
    assert [rate_factor(s, 10, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = [rate_factor(s, 10, 2, "cosine") for s in range(11)]
    assert cosine[:3] == [0.5, 1.0, 1.0] and cosine[6] == pytest.approx(0.55) and cosine[10] == pytest.approx(0.1)
    assert rate_factor(0, 10, 0) == 1.0
    for step in (0, 5):
        with pytest.raises(ValueError, match="schedule='linear' is unknown; choose one of 'constant', 'cosine'"):
            rate_factor(step, 10, 4, "linear")


# ---------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "muon" or hasattr(torch.optim, "Muon")])
def test_the_same_seeds_give_the_same_record_twice(transformer, name):
    first, again = (run(transformer, BASELINES[name], lr=1e-2, seed=1, steps=12, warmup=3) for _ in range(2))
    assert first.as_dict(timings=False) == again.as_dict(timings=False)
    assert first.losses == again.losses and first.gradient_sums == again.gradient_sums
    assert len(first.losses) == 12 and not first.exploded and first.final_loss > 1
    other = run(transformer, BASELINES[name], lr=1e-2, seed=2, steps=12, warmup=3)
    assert other.losses != first.losses


@pytest.mark.parametrize("name", ["plain", "clip", "orthogonality", "spectral_norm", "sigma_reparam", "zclip", "muon"])
def test_every_arm_but_qk_norm_trains_the_mlp(mlp, name):
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no torch.optim.Muon")
    result = run(mlp, BASELINES[name], lr=1e-2, seed=0, steps=60)
    assert result.validation["accuracy"] > 0.35 and result.last_loss < 2.2


def test_qk_norm_is_not_for_the_mlp(mlp):
    with pytest.raises(ValueError, match="the mlp has no option 'qk_norm'.*Leave this arm out"):
        run(mlp, BASELINES["qk_norm"], lr=1e-2, seed=0, steps=2)


def test_it_equals_the_naive_loop(mlp):
    result = run(mlp, BASELINES["plain"], lr=1e-2, seed=5, steps=8, warmup=4, schedule="cosine")
    model, draw = mlp.model(5), torch.Generator().manual_seed(1_000_003 + 5)
    optimizer = BASELINES["plain"].optimizer(model, 1e-2)
    for step in range(8):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate_factor(step, 8, 4, "cosine")
        loss = mlp.loss(model, mlp.batch(draw))
        optimizer.zero_grad()
        loss.backward()
        norms = [p.grad.norm().item() for p in model.parameters()]
        optimizer.step()
        assert result.losses[step] == pytest.approx(loss.item(), rel=1e-5)
        assert result.gradient_sums[step] == pytest.approx(sum(norms), rel=1e-5)
        assert result.gradient_norms[step] == pytest.approx(math.hypot(*norms), rel=1e-5)
    assert result.validation["loss"] == pytest.approx(mlp.evaluate(model)["loss"], rel=1e-5)


def test_a_guard_is_asked_obeyed_and_timed(mlp):
    guard = Scripted(fires=(3, 4), skips=(4,), seconds=0.002)
    seen = {}

    def watch(step, model):
        seen[step] = model.layers[0].A.detach().clone()
        assert model.layers[0].A.grad is not None
        return step * step

    arm = Baseline("scripted", guard=lambda model, optimizer: guard)
    result = run(mlp, arm, lr=1e-2, seed=0, steps=6, watch=watch)
    assert result.triggers == [3, 4] and result.skipped == [4] and result.watched[-1] == (6, 36)
    assert torch.equal(seen[4], seen[5]) and not torch.equal(seen[3], seen[4])
    assert 0.012 < sum(result.guard_seconds) < result.seconds and result.overhead > 0
    record = json.loads(json.dumps(result.as_dict()))
    assert record["method"] == "scripted" and record["triggers"] == [3, 4] and record["trigger_step_ms"] > 2


def test_what_a_guard_does_to_the_rate_stays(mlp):
    rates = []

    def arm_guard(model, optimizer):
        def halve():
            for group in optimizer.param_groups:
                group["lr"] /= 2

        guard = Scripted(fires=(2,), also=halve)
        step = guard.step

        def noting():
            proceed = step()
            rates.append(optimizer.param_groups[0]["lr"])
            return proceed

        guard.step = noting
        return guard

    run(mlp, Baseline("halve", guard=arm_guard), lr=0.1, seed=0, steps=5, warmup=4)
    assert rates == pytest.approx([0.025, 0.025, 0.0375, 0.05, 0.05])


def test_an_explosion_is_seen_and_may_end_the_run(mlp):
    steady = run(mlp, BASELINES["plain"], lr=2.0, seed=0, steps=40, warmup=0, limits=(1.5, 5))
    assert steady.exploded and steady.ended_at is None and len(steady.losses) == 40
    ended = run(mlp, BASELINES["plain"], lr=2.0, seed=0, steps=40, warmup=0, limits=(1.5, 5), stop="exploded")
    assert ended.ended_at == ended.exploded_at == steady.exploded_at == len(ended.losses)
    assert ended.losses == steady.losses[: ended.ended_at]


def test_a_lost_network_ends_the_run_without_asking_the_guard(mlp):
    guard = Scripted()

    def poison(model, optimizer):
        guard.fires = (3,)
        guard.also = lambda: next(model.parameters()).data.fill_(math.nan)
        return guard

    result = run(mlp, Baseline("poison", guard=poison), lr=1e-2, seed=0, steps=9)
    assert result.exploded_at == result.ended_at == 4 and guard.steps == 3
    record = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert record["final_loss"] is None and record["exploded"] and record["curve"]["loss"][-1] is None
    assert result.validation["accuracy"] == 0.0


def test_curves_are_thinned(mlp):
    result = run(mlp, BASELINES["plain"], lr=1e-3, seed=0, steps=25)
    curve = result.as_dict(curve=10)["curve"]
    assert curve["steps"] == [3, 6, 9, 12, 15, 18, 21, 24, 25] and len(curve["loss"]) == 9
    assert curve["loss"][0] == pytest.approx(sum(result.losses[:3]) / 3, rel=1e-4)
    assert curve["gradient_norm"][0] == pytest.approx(max(result.gradient_norms[:3]), rel=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": 0.0}, "lr must be a finite number above 0"),
        ({"steps": 0}, "steps must be an integer"),
        ({"warmup": -1}, "warmup must be an integer of at least 0"),
        ({"schedule": "linear"}, "schedule='linear' is unknown"),
        ({"stop": "never"}, "stop='never' is unknown; choose one of 'lost', 'exploded'"),
        ({"watch_every": 0}, "watch_every must be"),
    ],
)
def test_bad_numbers(mlp, options, message):
    with pytest.raises(ValueError, match=message):
        run(mlp, BASELINES["plain"], **{"lr": 1e-3, "seed": 0, "steps": 10} | options)


def test_overhead_is_the_guards_share_of_the_rest():
    """Of 6 s, the guard took 2: half as much again as the 4 s without it."""
    result = Run("task", "arm", 0.1, 0, 3, step_seconds=[1.0, 2.0, 3.0], guard_seconds=[0.5, 0.5, 1.0])
    assert result.seconds == 6.0 and result.overhead == 0.5
    assert Run("task", "arm", 0.1, 0, 1, step_seconds=[2.0], guard_seconds=[0.0]).overhead == 0.0


def test_a_penalty_is_added_to_the_loss(mlp):
    """By hand, one step of gradient descent: the penalty's own gradient comes with a plus, and is not recorded."""

    def penalty(model):
        return 3.0 * model.readout.bias.sum()

    arm = Baseline("penalised", optimizer=lambda model, lr: torch.optim.SGD(model.parameters(), lr=lr), penalty=penalty)
    weights = {}
    for name, one in (("with", arm), ("without", replace(arm, penalty=None))):
        keep = replace(one, guard=lambda model, optimizer, name=name: weights.update({name: model}))
        result = run(mlp, keep, lr=0.5, seed=0, steps=1, warmup=0)
        weights[name] = (weights[name].readout.bias.detach().clone(), result.losses)
    torch.testing.assert_close(weights["with"][0], weights["without"][0] - 0.5 * 3.0)
    assert weights["with"][1] == weights["without"][1]


def test_numpys_numbers_are_numbers(mlp):
    ours = run(mlp, BASELINES["plain"], lr=np.float64(1e-2), seed=0, steps=np.int64(3), warmup=np.int32(2))
    plain = run(mlp, BASELINES["plain"], lr=1e-2, seed=0, steps=3, warmup=2)
    assert ours.losses == plain.losses and json.dumps(ours.as_dict())
