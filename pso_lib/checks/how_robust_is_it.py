"""Checks of the chapter on robustness."""

import math

import torch

from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import seeded


@exercise("how-robust-is-it/chance-of-none")
def _chance(law) -> str:
    """``law(n, k)`` returns the mean persistent dimension of the block start and the share of draws with none."""
    for n, k in ((64, 63), (64, 56), (16, 8), (10, 0)):
        found = law(n, k)
        if not isinstance(found, tuple | list) or len(found) != 2:
            wrong("law(n, k) must return two numbers: the mean dimension, and the share of draws with none.")
        mean, none = (float(value) for value in found)
        where = f"for n = {n}, k = {k} "
        if abs(mean - (n - k) / 2) > 1e-9:
            if abs(mean - (n - k)) < 1e-9:
                wrong(f"{where}you count all {n - k} isometric units; a ReLU passes only those that are active.")
            if abs(mean - n / 2) < 1e-9:
                wrong(f"{where}you count the active units of all {n}; those of the ordinary part keep nothing.")
            if abs(mean - k / 2) < 1e-9:
                wrong(f"{where}you took the ordinary part; k is the dimension that is *not* isometric.")
            wrong(f"{where}the mean is {(n - k) / 2:g}, not {mean:g}.")
        if abs(none - 0.5 ** (n - k)) > 1e-12:
            if abs(none - 0.5**k) < 1e-12:
                wrong(f"{where}you took the ordinary part; all n - k isometric units must be off.")
            if abs(none - (1 - 0.5 ** (n - k))) < 1e-12:
                wrong(f"{where}this is the share of draws with some direction left; the one with none is 1 minus it.")
            if abs(none - 0.5) < 1e-12:
                wrong(f"{where}one unit is off with chance 1/2, but all {n - k} must be.")
            wrong(f"{where}the share with none is {0.5 ** (n - k):.3g}, not {none:.3g}.")
    return "n - k fair coins: (n - k)/2 heads on average, none with chance 2^-(n - k)"


def _synthetic_runs() -> list[dict]:
    """Two arms, two depths, four rates, three seeds; a run that diverged counts 0."""
    table = {
        ("he", 5): ((0.50, 0.51, 0.52), (0.90, 0.91, 0.92), (0.90, 0.92, 0.94), (0.0, 0.95, 0.96)),
        ("he", 50): ((0.10, 0.11, 0.12), (0.20, 0.21, 0.22), (0.60, 0.61, 0.62), (0.11, 0.11, 0.11)),
        ("shared", 5): ((0.70, 0.71, 0.72), (0.945, 0.95, 0.955), (0.96, 0.965, 0.97), (0.955, 0.96, 0.965)),
        ("shared", 50): ((0.70, 0.71, 0.72), (0.93, 0.94, 0.95), (0.95, 0.955, 0.96), (0.94, 0.95, 0.96)),
    }
    rates = (1e-6, 1e-5, 1e-4, 1e-3)
    runs = [
        {"arm": arm, "depth": depth, "lr": lr, "seed": seed, "test_accuracy": a, "diverged": a == 0}
        for (arm, depth), rows in table.items()
        for lr, row in zip(rates, rows, strict=True)
        for seed, a in enumerate(row)
    ]
    return runs[::-1]  # in no helpful order


@exercise("how-robust-is-it/rates-that-train")
def _rates(training_rates) -> str:
    """``training_rates(runs, arm, depth, margin)`` lists the rates whose mean is within margin of the arm's best."""
    runs = _synthetic_runs()

    def means(arm, depth, pick=lambda a: sum(a) / len(a), keep=lambda r: True):
        groups: dict = {}
        for r in runs:
            if r["arm"] == arm and depth in (None, r["depth"]) and keep(r):
                groups.setdefault(r["lr"], []).append(r["test_accuracy"])
        return {lr: pick(a) for lr, a in groups.items()}

    def near(found: dict, margin, best=None):
        best = max(found.values()) if best is None else best
        return sorted(lr for lr, a in found.items() if a >= best - margin - 1e-12)

    for arm, depth, margin in (("he", 5, 0.02), ("he", 50, 0.05), ("shared", 5, 0.02), ("shared", 50, 0.05)):
        found = means(arm, depth)
        expected, answer = near(found, margin), list(training_rates(runs, arm, depth, margin))
        where = f"for {arm} at depth {depth}, margin {margin:g}: "
        if answer == expected:
            continue
        if sorted(answer) == expected:
            wrong(f"{where}the right rates, but not in increasing order.")
        if answer == near(means(arm, depth, max), margin):
            wrong(f"{where}you compare the best runs; compare the means over the seeds.")
        if answer == near(means(arm, depth, keep=lambda r: not r["diverged"]), margin):
            wrong(f"{where}you leave out a run that diverged; it counts, with accuracy 0.")
        other = max(max(means(a, depth).values()) for a in ("he", "shared"))
        if answer == near(found, margin, other):
            wrong(f"{where}you measure against the best of all arms; the definition takes the arm's own best.")
        if answer == near(means(arm, None), margin):
            wrong(f"{where}you mix the depths.")
        wrong(f"{where}you return {answer}, expected {expected}.")
    return "within the margin of the arm's own best mean, diverged runs counted as 0"


def _tanh_rate(g: float) -> float:
    """lim (1/L) log of the derivative of L steps of u -> tanh(g u), for u > 0."""
    if g <= 1:
        return math.log(g)
    u = _tanh_rest(g)
    return math.log(g * (1 - u * u))


def _tanh_rest(g: float) -> float:
    """The positive solution of u = tanh(g u), g > 1."""
    low, high = 1e-9, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.tanh(g * middle) > middle else (low, middle)
    return (low + high) / 2


@exercise("how-robust-is-it/tanh-layers-cost")
def _gain(rate) -> str:
    """``rate(g)`` is lim (1/L) log |d_L| at a positive input, d_L the derivative of L steps of u -> tanh(g u)."""
    for g in (0.5, 0.9, 1.0, 1.2, 2.0, 4.0):
        found, expected = float(rate(g)), _tanh_rate(g)
        if abs(found - expected) <= 2e-3 * (1 + abs(expected)):
            continue
        where = f"for g = {g:g} "
        if g > 1:
            if abs(found - math.log(g)) < 1e-6:
                wrong(f"{where}you take the slope at 0, but the orbit runs to the other fixed point, u = tanh(g u).")
            if abs(found - math.log(1 - _tanh_rest(g) ** 2)) < 1e-3:
                wrong(f"{where}the factor g is missing: the derivative of tanh(g u) is g (1 - tanh(g u)^2).")
        if abs(found + expected) < 1e-3 * (1 + abs(expected)):
            wrong(f"{where}the sign is wrong: where derivatives shrink, their logarithm is negative.")
        if abs(math.log(found) - expected) < 1e-3 if found > 0 else False:
            wrong(f"{where}you return the factor per layer; its logarithm is asked for.")
        if g == 1 and found < 0:
            wrong(f"{where}you return {found:.2g}; the loss is a power law there, and (log L)/L goes to 0.")
        wrong(f"{where}the rate is {expected:.4f}, not {found:.4f}.")
    return "negative on both sides of g = 1, and zero there: only then do layers cost no factor"


@exercise("how-robust-is-it/smooth-and-persistent")
def _smooth(sigma) -> str:
    """``sigma(z)``: no kink, not affine, and a shared start of 200 layers keeps a subspace at every input drawn."""
    z = torch.linspace(-6, 6, 120_001, dtype=torch.float64, requires_grad=True)
    out = sigma(z)
    if not isinstance(out, torch.Tensor) or out.shape != z.shape or not out.requires_grad:
        wrong("sigma must take a tensor and return a tensor of the same shape that autograd can differentiate.")
    (slope,) = torch.autograd.grad(out.sum(), z)
    step = z[1] - z[0]
    if not torch.isfinite(slope).all():
        wrong("the slope is not finite everywhere between -6 and 6; mind torch.where, which differentiates both sides.")
    leap = (out[1:] - out[:-1]).abs()
    if (leap > step * (slope.abs().max() + 1)).any():
        wrong(f"sigma is not continuous: it jumps near z = {z[leap.argmax()]:.2f}.")
    jump = (slope[1:] - slope[:-1]).abs()
    if jump.max() > 0.02:
        where = z[jump.argmax()].item()
        wrong(f"the slope jumps by {jump.max():.2g} near z = {where:.2f}: a kink. Join the pieces with equal slopes.")
    if slope.max() - slope.min() < 0.1:
        wrong("sigma is affine, or nearly; with Q orthogonal the whole network is then a rotation.")
    u = torch.randn(100, 64, generator=seeded(0), dtype=torch.float64)
    kept, first = torch.ones_like(u, dtype=torch.bool), 0
    for layer in range(200):
        u = u.detach().requires_grad_()
        out = sigma(u)
        (slope,) = torch.autograd.grad(out.sum(), u)
        kept &= (slope.abs() - 1).abs() < 1e-8
        first = int(kept.sum(1).min()) if layer == 0 else first
        u = out
    dimension = kept.sum(1)
    if dimension.min() == 0:
        if first == 0:
            wrong(
                "at some inputs no coordinate has slope 1 or -1 even in the first layer. The slope must be exactly "
                "1 or -1 on an interval that normal coordinates often hit."
            )
        wrong(
            f"in the first layer at least {first} coordinates have slope 1 or -1, after 200 layers none at some "
            "inputs: their orbits leave the interval. sigma must map it into itself."
        )
    return f"no kink; {int(dimension.min())} to {int(dimension.max())} of 64 dimensions persist"
