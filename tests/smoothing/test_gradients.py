"""The length of all gradients: right wherever it can be written."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from pso_lib.nn.init import seeded
from pso_lib.smoothing import AtSteps, Detector, Guard


def draw(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def start(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(draw(*p.shape, seed=i) / max(1, p.shape[-1]) ** 0.5)
    return model


def mlp(dtype=torch.float64) -> nn.Sequential:
    return start(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype))


X, Y = draw(16, 6, seed=1), draw(16, 3, seed=2)


def backward(model, factor=1.0):
    model.zero_grad()
    dtype = next(model.parameters()).dtype
    (factor * mse_loss(model(X.to(dtype)), Y.to(dtype))).backward()


def quick(**options) -> Detector:
    return Detector(**{"warmup": 3, "cooldown": 4} | options)


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
