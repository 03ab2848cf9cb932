"""Runs that are disturbed and come back, or not."""

from dataclasses import replace

import pytest
import torch

from pso_lib.experiments import (
    experiment,
    run,
)
from pso_lib.experiments.recovery import RECOVERIES, Perturbed, regained


@pytest.mark.parametrize("recovery", RECOVERIES)
def test_recoveries(recovery):
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rescue = Perturbed(model, optimizer, perturbation=(3, 5, 30.0), recovery=recovery)
    start = model.weight.detach().clone()
    weights, rates, proceeds = {}, {}, []
    for step in range(1, 8):
        weights[step] = model.weight.detach().clone()
        optimizer.zero_grad()
        model(torch.ones(2, 6)).square().sum().backward()
        proceeds.append(rescue.step())
        rates[step] = optimizer.param_groups[0]["lr"]
        if step == 6:
            mended, fresh = model.weight.detach().clone(), not optimizer.state
        if proceeds[-1]:
            optimizer.step()
    assert [rates[s] for s in (2, 3, 5)] == pytest.approx([0.01, 0.3, 0.3])
    assert rates[6] == rates[7] == pytest.approx(0.001 if recovery == "lower" else 0.01)
    same = recovery in ("none", "lower", "moments")
    assert torch.equal(mended, weights[6]) == same and proceeds == [True] * 5 + [same, True]
    assert fresh == (recovery in ("moments", "restart") or recovery.endswith("+moments"))
    assert recovery != "restart" or torch.equal(mended, start)
    assert recovery != "checkpoint" or torch.equal(mended, weights[3])


def test_an_inner_guard_goes_on_and_its_interventions_count():
    class Inner:
        def __init__(self):
            self.calls, self.interventions = 0, []

        def step(self):
            self.calls += 1
            self.interventions.append(self.calls)
            return self.calls != 2

    model = torch.nn.Linear(2, 2)
    inner = Inner()
    rescue = Perturbed(model, torch.optim.SGD(model.parameters(), lr=0.1), perturbation=(2, 3, 2.0), inner=inner)
    assert [rescue.step() for _ in range(5)] == [True, False, True, True, True] and rescue.interventions == [
        1,
        2,
        3,
        4,
        5,
    ]
    with pytest.raises(ValueError, match="recovery='pray'"):
        Perturbed(model, None, perturbation=(2, 3, 2.0), recovery="pray")
    with pytest.raises(ValueError, match="perturbation must be"):
        Perturbed(model, None, perturbation=(3, 2, 2.0))


def test_regained():
    perturbation = (21, 30, 30.0)
    assert regained([2.0] * 20 + [6.0] * 30 + [2.0] * 20, perturbation) == 30
    assert regained([2.0] * 20 + [6.0] * 30, perturbation) is None
    assert regained([2.0] * 70, perturbation) == 10


def test_rescue_runs_say_when_the_loss_was_back(tmp_path):
    plan = experiment("rescue", "smoke")
    workload = replace(plan.workloads[1], methods=("nothing", "checkpoint", "guard_clip"))
    result = run(replace(plan, workloads=(workload,)), "smoke", folder=tmp_path, progress=lambda line: None)
    assert {r["method"] for r in result["runs"]} == {"nothing", "checkpoint", "guard_clip"}
    assert all("regained" in r for r in result["runs"])
