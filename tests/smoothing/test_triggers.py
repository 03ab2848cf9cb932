"""What else may be watched: stable rank, Jacobian energy, a timetable."""

import math

import pytest
import torch
from small_models import backward, mlp, run
from torch import nn

from pso_lib.analysis.singularity import stable_jacobian_energy
from pso_lib.analysis.spectrum import stable_rank
from pso_lib.smoothing import AtSteps, EnergyTrigger, Guard, StableRankTrigger


def test_stable_rank_trigger_reads_by_power_iteration_and_fires_on_a_fall():
    model = mlp()
    matrices = [p.detach() for p in model.parameters() if p.ndim == 2]
    trigger = StableRankTrigger(every=1, warmup=2, cooldown=3)
    weights = dict(model.named_parameters())
    weights = {name: p for name, p in weights.items() if p.ndim == 2}
    exact = sum(stable_rank(M).item() for M in matrices) / 3
    for _ in range(10):
        reading = trigger.measure(weights).item()
        assert not trigger.update(1.0, reading)
    assert reading == pytest.approx(exact, rel=1e-3) and reading >= exact * (1 - 1e-9)
    with torch.no_grad():
        for M in matrices:
            u, v = torch.randn(M.shape[0], dtype=M.dtype), torch.randn(M.shape[1], dtype=M.dtype)
            M.add_(torch.outer(u / u.norm(), v / v.norm()) * 5 * torch.linalg.matrix_norm(M, 2))
    found = [trigger.update(1.0, trigger.measure(weights).item()) for _ in range(4)]
    assert found[:2].count(True) == 1 and sum(found) == 1  # once, then cooldown


def test_stable_rank_trigger_outlives_zero_and_spoilt_weights():
    W = nn.Parameter(torch.zeros(4, 4))
    trigger = StableRankTrigger(every=1)
    assert trigger.measure({"W": W}).item() == 1
    W.data = torch.full((4, 4), torch.nan)
    trigger.measure({"W": W})
    W.data = torch.diag(torch.tensor([2.0, 1, 1, 1]))
    for _ in range(20):
        reading = trigger.measure({"W": W}).item()
    assert reading == pytest.approx(7 / 4, rel=1e-3)


def test_energy_trigger():
    model = mlp()
    backward(model)
    trigger = EnergyTrigger(every=2, warmup=1, cooldown=0)
    weights = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    expected = [stable_jacobian_energy(p.detach(), p.grad, denominator="gradient") for p in weights.values()]
    reading = trigger.measure(weights).item()
    assert reading == pytest.approx(torch.stack(expected).mean().item())
    assert not trigger.update(1.0, reading)
    assert trigger.measure(weights) is None and not trigger.update(1.0)  # not due
    assert trigger.update(1.0, 1.6 * reading)
    assert trigger.update(math.nan)
    model.zero_grad()
    assert EnergyTrigger().measure(weights) is None


def test_at_steps():
    model = mlp()
    guard = Guard(model, trigger=AtSteps([2, 5]), method="log", skip_step=False)
    run(model, guard, torch.optim.SGD(model.parameters(), lr=0.01), [1.0] * 6)
    assert [record["step"] for record in guard.interventions] == [2, 5]
