"""The checks of the chapter on smoothing: right answers pass in every fair form, likely mistakes are named."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from exercise_cases import named, passes

from pso_lib import Detector, smooth_
from pso_lib.checks import check


def fewest_steps(target, tau, alpha, *, extra=0):
    growth = alpha + tau * (1 - alpha)
    return max(1, 1 + math.ceil(math.log(target / tau) / math.log(growth))) + extra


def clip(M, *, extra=0, level=None):
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    k = int(s.square().sum() / s[0] ** 2 + 1e-9)
    s = s.clone()
    s[:k] = s[min(k + extra, len(s)) - 1] if level is None else level(s, k)
    return (U * s) @ Vh


def clip_grouped(W, groups, **how):
    return torch.cat([clip(block.flatten(1), **how).reshape(block.shape) for block in W.chunk(groups)])


def by_the_library(W, groups):
    new = W.clone()
    for block in new.chunk(groups):
        smooth_(block, "clip")
    return new


def slices(W, groups):
    return torch.stack([torch.stack([clip(m) for m in row]) for row in W])


def turned(W, groups):
    def one(block):
        M = block.transpose(0, 1)
        return clip(M.flatten(1)).reshape(M.shape).transpose(0, 1)

    return torch.cat([one(block) for block in W.chunk(groups)])


def interleaved(W, groups):
    new = W.clone()
    for i in range(groups):
        new[i::groups] = clip_grouped(W[i::groups], 1)
    return new


def at_one_level(W, groups):
    def one(M):
        U, s, Vh = torch.linalg.svd(M, full_matrices=False)
        return (U * s[int(s.square().sum() / s[0] ** 2 + 1e-9) - 1]) @ Vh

    return torch.cat([one(block.flatten(1)).reshape(block.shape) for block in W.chunk(groups)])


def in_place(W, groups):
    return W.copy_(clip_grouped(W, groups))


def guarded_step(loss, model, optimizer, scaler, guard, limit):
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    if guard.step():
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        scaler.step(optimizer)
    scaler.update()


def otherwise(order):
    """The step with its calls in another order: z, b, u, c, s (scaler's) or o (bare), p; ? asks, ) ends the if."""

    def step(loss, model, optimizer, scaler, guard, limit):
        agreed = True
        for call in order:
            if call in "?)":
                agreed = guard.step() if call == "?" else True
            elif agreed:
                match call:
                    case "z":
                        optimizer.zero_grad()
                    case "b":
                        scaler.scale(loss).backward()
                    case "u":
                        scaler.unscale_(optimizer)
                    case "g":
                        guard.step()
                    case "c":
                        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
                    case "s":
                        scaler.step(optimizer)
                    case "o":
                        optimizer.step()
                    case "p":
                        scaler.update()

    return step


UNHEARD, SHARPER, KERNEL, STEP = (
    f"smoothing-a-spectrum/{name}"
    for name in ("fastest-unheard", "sharpening-convolution", "grouped-kernel", "guarded-step")
)
SOLUTIONS = {
    UNHEARD: [
        fewest_steps,
        lambda *case: float(fewest_steps(*case)),
        lambda *case: torch.tensor(fewest_steps(*case)),
        lambda *case: sp.Integer(fewest_steps(*case)),
    ],
    SHARPER: [
        [10.0] * 2 + [1.0] * 101,
        np.array([10.0] * 2 + [1.0] * 101) * 1e200,
        [sp.Integer(1), 1, *["1/10"] * 101],
        torch.tensor([5.0] * 3 + [0.5] * 200),
    ],
    KERNEL: [clip_grouped, by_the_library, lambda W, groups: clip_grouped(W, groups).numpy()],
    STEP: [guarded_step, otherwise("zbu?cs)p"), otherwise("zbu?cs)pz")],
}
MISTAKES = {
    UNHEARD: [
        (lambda target, tau, a: math.ceil(math.log(target) / math.log(a + tau * (1 - a))), "first jump"),
        (lambda target, tau, a: math.ceil(math.log(target) / math.log(tau)), "lags behind"),
        (lambda *case: fewest_steps(*case, extra=-1), "one more"),
        (lambda *case: fewest_steps(*case, extra=1), "one late"),
        (lambda target, tau, a: fewest_steps(target * tau, tau, a), "when the average reaches"),
        (lambda target, tau, a: 1 + math.log(target / tau) / math.log(a + tau * (1 - a)), "round up"),
        (lambda target, tau, a: 94, "use its arguments"),
        (94, "the function itself"),
    ],
    SHARPER: [
        ([10.0, 10.0, 1.0, 1.0], "only moves two values"),
        ([10.0, 1.0, 1.0], "changes nothing"),
        ([1.0] * 5, "does not fall"),
        ([10.0, 10.0, 10.0, 1.0, 1.0], "rounded down"),
        ([1.0, 1.0] + [0.99] * 50, "does not fall by 5 %"),
        ([1.0, 2.0], "in order"),
        ([1.0, -2.0], "not negative"),
        ([1.0, float("nan")], "finite"),
        (3.0, "shape"),
        (["a", "b"], "where a number is wanted"),
    ],
    KERNEL: [
        (lambda W, groups: clip_grouped(W, 1), "its own spectrum"),
        (interleaved, "in a row"),
        (slices, "by itself"),
        (turned, "axis 1"),
        (lambda W, groups: W, "unchanged"),
        (at_one_level, "those after it stay"),
        (lambda *case: clip_grouped(*case, extra=1), "round the stable rank up"),
        (lambda *case: clip_grouped(*case, level=lambda s, k: s[:k].mean()), "their mean"),
        (in_place, "in place"),
        (lambda W, groups: clip_grouped(W, groups).flatten(1), "has shape"),
        (lambda W, groups: 0.25 * W, "differs in"),
    ],
    STEP: [
        (otherwise("zb?ucs)p"), "unscale first"),
        (otherwise("zbuc?s)p"), "sees clipped gradients"),
        (otherwise("zb?cs)p"), "multiplied by the scale"),
        (otherwise("zbcu?s)p"), "before you clip"),
        (otherwise("bu?cs)p"), "zero_grad before backward"),
        (otherwise("zbu?csp"), "not updated where the guard"),
        (otherwise("zbu?cs)"), "never updated"),
        (otherwise("zbugcsp"), "although the guard says no"),
        (otherwise("zbucsp"), "never asked"),
        (otherwise("zbu?s)p"), "not clipped"),
        (otherwise("zbu?co)p"), "overflowed"),
        (otherwise("zbu?cs)pp"), "calls of scaler.step"),
        (otherwise("z"), "calls of scaler.step"),
        (["scale and backward", "unscale"], "the function itself"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


@pytest.mark.parametrize("tau, alpha, target", [(2.5, 0.9, 1e6), (1.5, 0.5, 50.0)])
def test_no_faster_growth_is_unheard(tau, alpha, target):
    """The library's detector hears nothing of that growth, and hears each trace that is a hair faster."""
    steps = fewest_steps(target, tau, alpha)
    growth = [tau * (alpha + tau * (1 - alpha)) ** i for i in range(steps)]
    assert growth[-2] < target <= growth[-1]
    for late in range(steps):
        for factor, heard in ((1 - 1e-9, False), (1 + 1e-6, True)):
            detector = Detector(tau, alpha, warmup=0)
            detector.update(1.0)
            trace = [g * (factor if i == late else 1 - 1e-9) for i, g in enumerate(growth)]
            assert any([detector.update(g) for g in trace[: late + 1]]) is heard


def test_a_step_that_asks_for_no_scale_is_told_so():
    def step(loss, model, optimizer, scaler, guard, limit):
        loss.backward()
        scaler.unscale_(optimizer)

    found = check(STEP, step, strict=False)
    assert found.passed is False and "scaler.scale(loss" in found.message
