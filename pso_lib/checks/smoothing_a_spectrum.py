"""Checks of the chapter on smoothing a spectrum."""

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pso_lib.analysis.singularity import leading_count
from pso_lib.analysis.spectrum import spectrum_stable_rank
from pso_lib.checks._compare import as_numbers, require_function
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, haar, seeded
from pso_lib.smoothing import smoothed_spectrum


def _fewest(target: float, tau: float, alpha: float) -> int:
    """By simulation: the largest norm that is not heard, and its average, again and again."""
    norm, average, steps = 0.0, 1.0, 0
    while norm < target:
        norm, steps = tau * average, steps + 1
        average = alpha * average + (1 - alpha) * norm
    return steps


@exercise("smoothing-a-spectrum/fastest-unheard", points=2)
def _unheard(fewest_steps) -> str:
    """``fewest_steps(target, tau, alpha)``: until a norm reaches ``target`` without an alarm; the average is 1."""
    require_function(
        fewest_steps,
        _fewest,
        [(1e6, 2.5, 0.9), (50.0, 1.5, 0.5), (3e4, 4.0, 0.99), (2.0, 2.5, 0.9), (700.0, 3.0, 0.2)],
        {
            "you let the norm grow by one factor from 1 on; the first jump may be one to tau, above the average.": (
                lambda target, tau, alpha: math.ceil(math.log(target) / math.log(alpha + tau * (1 - alpha)))
            ),
            "you let each norm be tau times the one before; it is compared with the average, which lags behind.": (
                lambda target, tau, alpha: math.ceil(math.log(target) / math.log(tau))
            ),
            "this is the step of the last norm below the target; one more.": lambda *case: _fewest(*case) - 1,
            "you are one late: the step whose norm reaches the target counts, and none after it.": (
                lambda *case: _fewest(*case) + 1
            ),
            "this is when the average reaches the target; asked is the norm.": (
                lambda target, tau, alpha: _fewest(tau * target, tau, alpha)
            ),
            "steps are whole: round up.": lambda target, tau, alpha: (
                1 + math.log(target / tau) / math.log(alpha + tau * (1 - alpha))
            ),
        },
        what="the number of steps",
    )
    return "one jump to tau, then alpha + tau (1 - alpha) a step: hardly faster than a steady growth"


@exercise("smoothing-a-spectrum/sharpening-convolution", points=2)
def _sharpening(spectrum) -> str:
    """A spectrum (r,), largest first, whose stable rank falls by 5 % under convolution with the paper's k."""
    s = as_numbers(spectrum, "your spectrum")
    if s.ndim != 1 or len(s) < 2:
        wrong(f"your spectrum has shape {tuple(s.shape)}; give a list of two singular values or more.")
    if not s.isfinite().all() or (s < 0).any() or s.amax() <= 0:
        wrong("singular values are finite and not negative, and not all of them zero here.")
    if (s[1:] > s[:-1]).any():
        wrong("put the values in order, the largest first.")
    s = s / s[0]
    before = spectrum_stable_rank(s)
    k = int(leading_count(before, rank=len(s)))
    if k < 3:
        does = "changes nothing" if k == 1 else "only moves two values towards each other"
        wrong(f"its stable rank is {before:.3g}, so k = {k}: convolution then {does}. A longer tail makes k larger.")
    after, with_all = (spectrum_stable_rank(smoothed_spectrum(s, "convolution", count)) for count in (k, len(s)))
    if after > 0.95 * before:
        hint = " With all values it would; k is the stable rank rounded down." if with_all < 0.95 * before else ""
        wrong(
            f"with k = {k} the stable rank goes from {before:.4g} to {after:.4g}; it does not fall by 5 %.{hint} "
            "Put a cliff behind two equal values, inside the first k."
        )
    return f"from {before:.3g} to {after:.3g}, with k = {k}: the second value falls off the cliff, the first stays"


def _by_parts(parts: Callable, back: Callable, level: Callable | None = None) -> Callable:
    """Clip each of the matrices into which ``parts`` takes a kernel apart, and put them together again."""

    def clip(M: Tensor) -> Tensor:
        U, s, Vh = torch.linalg.svd(M, full_matrices=False)
        k = int(leading_count(spectrum_stable_rank(s), rank=len(s)))
        s = level(s.clone(), k) if level else torch.cat([s[k - 1].expand(k), s[k:]])
        return (U * s) @ Vh

    return lambda W, groups: back(torch.stack([clip(M) for M in parts(W, groups)]), W)


def _blocks(W: Tensor, groups: int) -> list[Tensor]:
    return [block.flatten(1) for block in W.chunk(groups)]


def _whole(new: Tensor, W: Tensor) -> Tensor:
    return new.reshape(W.shape)


def _fill(place: Callable[[int], slice], value: Callable) -> Callable:
    """A mistaken clip: the values at ``place(k)`` become ``value(s, k)``."""

    def level(s: Tensor, k: int) -> Tensor:
        s[place(k)] = value(s.clone(), k)
        return s

    return level


def _kernel(groups: int, rows: int, columns: tuple[int, ...], seed: int) -> Tensor:
    """A kernel whose blocks have their own spectra, of other sizes and stable ranks."""
    g, width = seeded(seed), math.prod(columns)
    r = min(rows, width)
    spectra = [4.0**i * torch.linspace(1, 0.75 - 0.1 * i, r).double() for i in range(groups)]
    blocks = [(haar(rows, r, g) * s) @ haar(width, r, g).T for s in spectra]
    return torch.cat(blocks).reshape(groups * rows, *columns)


@exercise("smoothing-a-spectrum/grouped-kernel", points=2)
def _grouped(clip_grouped) -> str:
    """``clip_grouped(W, groups)`` of a kernel (out, in / groups, h, w): each group's matrix clipped by itself."""
    cases = [
        (_kernel(2, 4, (3, 3, 3), 0), 2),
        (_kernel(3, 4, (2, 3, 1), 1), 3),
        (_kernel(1, 5, (4, 3, 3), 2), 1),
        (_kernel(4, 1, (1, 3, 3), 3), 4),
    ]
    right = _by_parts(_blocks, _whole)
    require_function(
        clip_grouped,
        right,
        cases,
        {
            "the kernel is unchanged; set the first k singular values of each group to the k-th.": lambda W, groups: W,
            "you take the kernel as one matrix; each group has its own inputs, and so its own spectrum.": (
                lambda W, groups: right(W, 1)
            ),
            "you take channels o, o + groups, …; group i has the i-th out / groups channels in a row.": _by_parts(
                lambda W, groups: [W[i::groups].flatten(1) for i in range(groups)],
                lambda new, W: new.transpose(0, 1).reshape(W.shape),
            ),
            "you smooth every small h x w matrix by itself; flatten a group to (out / groups, in / groups · h · w).": (
                _by_parts(lambda W, groups: W.flatten(0, 1), _whole)
            ),
            "the rows of a group's matrix are its output channels, axis 0; you take those of axis 1.": _by_parts(
                lambda W, groups: [block.transpose(0, 1).flatten(1) for block in W.chunk(groups)],
                lambda new, W: torch.cat([M.reshape(W.shape[1], -1, *W.shape[2:]).transpose(0, 1) for M in new]),
            ),
            "you take the singular value after the first k (or round the stable rank up); clip takes sigma_k.": (
                _by_parts(_blocks, _whole, _fill(lambda k: slice(k), lambda s, k: s[min(k, len(s) - 1)]))
            ),
            "you set all singular values to sigma_k; those after it stay.": (
                _by_parts(_blocks, _whole, _fill(lambda k: slice(None), lambda s, k: s[k - 1]))
            ),
            "you set the first k values to their mean; clip takes the smallest of them.": (
                _by_parts(_blocks, _whole, _fill(lambda k: slice(k), lambda s, k: s[:k].mean()))
            ),
        },
        what="the kernel",
    )
    return "a spectrum a group; with one channel a group, as in depthwise convolutions, there is nothing to smooth"


class _Scaler(torch.amp.GradScaler):
    """A real one that counts."""

    def __init__(self):
        super().__init__("cpu", init_scale=1024.0)
        self.stepped = self.updated = 0

    def step(self, optimizer, *args, **kwargs):
        self.stepped += 1
        return super().step(optimizer, *args, **kwargs)

    def update(self, new_scale=None):
        self.updated += 1
        with contextlib.suppress(AssertionError):  # where nothing was unscaled; other words than torch's say so
            super().update(new_scale)


class _Guard:
    """Says what it was told to, and remembers the gradient norm that it saw."""

    def __init__(self, model, agrees):
        self.model, self.agrees, self.seen = model, agrees, -1.0

    def step(self) -> bool:
        self.seen = float(self.model.weight.grad.norm())
        return self.agrees


def _observed(step: Callable) -> Callable:
    """What a step does: the norm that the guard sees, how often the scaler steps and is updated, the weights."""

    def observe(size: float, agrees: bool) -> Tensor:
        model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
        model.weight.data.copy_(gaussian(2, 3, 1.0, seeded(0)))
        model.weight.grad = torch.ones_like(model.weight)  # of the step before
        optimizer, scaler, guard = torch.optim.SGD(model.parameters(), lr=0.5), _Scaler(), _Guard(model, agrees)
        loss = size * model(gaussian(4, 3, 1.0, seeded(1))).square().mean()
        step(loss, model, optimizer, scaler, guard, 1.0)
        calls = torch.tensor([guard.seen, scaler.stepped, scaler.updated]).double()
        return torch.cat([calls, model.weight.detach().flatten()])

    return observe


def _steps(order: str) -> Callable:
    """A step that does these things in this order; after "if" only where the guard agrees, until "end"."""

    def step(loss, model, optimizer, scaler, guard, limit):
        does = {
            "zero": optimizer.zero_grad,
            "backward": lambda: scaler.scale(loss).backward(),
            "unscale": lambda: scaler.unscale_(optimizer),
            "guard": guard.step,
            "clip": lambda: nn.utils.clip_grad_norm_(model.parameters(), limit),
            "step": lambda: scaler.step(optimizer),
            "bare": optimizer.step,
            "update": scaler.update,
        }
        agreed = True
        for name in order.split():
            if name in ("if", "end"):
                agreed = guard.step() if name == "if" else True
            elif agreed:
                does[name]()

    return _observed(step)


@exercise("smoothing-a-spectrum/guarded-step", points=3)
def _guarded(guarded_step) -> str:
    """``guarded_step(loss, model, optimizer, scaler, guard, limit)``: one step with mixed precision and clipping."""
    require_function(
        _observed(guarded_step) if callable(guarded_step) else guarded_step,
        _steps("zero backward unscale if clip step end update"),
        [(30.0, True), (0.01, True), (30.0, False)],
        {
            "the guard judges gradients multiplied by the scale, which changes from time to time; unscale first.": (
                _steps("zero backward if unscale clip step end update")
            ),
            "the guard sees clipped gradients: no spike above the limit of the clipping reaches it.": (
                _steps("zero backward unscale clip if step end update")
            ),
            "you clip gradients that are multiplied by the scale; unscale first.": (
                _steps("zero backward if clip step end update")
            ),
            "the limit of the clipping is meant for true gradients; unscale before you clip.": (
                _steps("zero backward clip unscale if step end update")
            ),
            "the gradients of the step before are still there: zero_grad before backward.": (
                _steps("backward unscale if clip step end update")
            ),
            "the scaler is not updated where the guard says no; it must be, whatever happens.": (
                _steps("zero backward unscale if clip step update end")
            ),
            "the scaler is never updated; its scale would never change.": _steps(
                "zero backward unscale if clip step end"
            ),
            "the update happens although the guard says no.": _steps("zero backward unscale guard clip step update"),
            "the guard is never asked.": _steps("zero backward unscale clip step update"),
            "the gradients are not clipped.": _steps("zero backward unscale if step end update"),
            "call scaler.step(optimizer) in place of optimizer.step(): it leaves out a step that overflowed.": (
                _steps("zero backward unscale if clip bare end update")
            ),
        },
        what="the list of the norm that the guard sees, the calls of scaler.step and update, and the new weights",
    )
    return "true gradients for the guard, judged ones for the clipping, clipped ones for the update"
