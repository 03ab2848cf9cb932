"""The length of all gradients: right wherever it can be written."""

import math

import pytest
import torch
from small_models import backward, mlp, quick

from pso_lib.smoothing import AtSteps, Guard


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e20), (torch.float32, 1e-30), (torch.float64, 1e200)])
@pytest.mark.parametrize("norm", ["sum", "global"])
def test_norms_whose_squares_leave_the_type(dtype, size, norm):
    model = mlp(dtype)
    guard = Guard(model, trigger=AtSteps([1]), method="watch", norm=norm)
    backward(model)
    for p in model.parameters():
        p.grad = (p.grad * size).to(dtype)
    assert guard.step() and guard.refused == 0
    norms = [(p.grad.double() / size).norm().item() for p in model.parameters()]
    expected = sum(norms) if norm == "sum" else math.hypot(*norms)
    assert guard.interventions[0]["norm"] == pytest.approx(size * expected, rel=1e-5)


def test_a_huge_finite_gradient_is_an_ordinary_alarm():
    model = mlp(torch.float32)
    guard = Guard(model, trigger=quick(nonfinite="ignore"), method="log", k="ceil")
    for factor in [1.0] * 4 + [1e22]:
        backward(model, factor)
        allowed = guard.step()
    assert not allowed and guard.refused == 0 and guard.interventions[0]["norm"] > 1e20


def test_one_spoilt_entry_among_huge_ones_is_still_not_finite():
    model = mlp(torch.float32)
    guard = Guard(model, trigger=quick(nonfinite="ignore"))
    backward(model, 1e22)
    model[0].weight.grad[0, 0] = math.nan
    assert not guard.step() and guard.refused == 1
