"""A Transformer on characters, of a size at which a step takes a GPU's time: does the guard still cost next to nothing?

Plain AdamW, clipped, guarded by singularity smoothing, and other arms where the library has them; in float32 and under
bfloat16 autocast. Milliseconds by CUDA events, of the guard's part and of all else, step by step.
"""

import contextlib
import math
import statistics
import time

import torch

from pso_lib.data import DataError
from pso_lib.data.text import load_text
from pso_lib.nn.init import seeded
from pso_lib.smoothing import AtSteps, Guard
from pso_lib.train.baselines import BASELINES, Baseline
from pso_lib.train.monitored import BATCHES, rate_factor
from pso_lib.train.workloads import transformer_workload
from stages.report import Options, Report, say

__all__ = ["arms", "run", "train"]

RATE, WARMUP = 1e-3, 50


def arms(steps: int) -> list[Baseline]:
    """The smoothed one at its own alarms; and at ten steps for certain, so that a smoothing has a price."""
    planned = range(max(2, steps // 10), steps + 1, max(1, steps // 10))
    pss = Baseline("smoothing", guard=lambda model, optimizer: Guard(model, method="clip", k="ceil"))
    forced = Baseline(
        "smoothing, ten times",
        guard=lambda model, optimizer: Guard(model, method="clip", k="ceil", trigger=AtSteps(planned), skip_step=False),
    )
    known = [BASELINES[name] for name in ("plain", "clip", "zclip", "msign", "muon") if name in BASELINES]
    return [*known, pss, forced]


class Clock:
    """Marks on the device's own time line, read when all is done."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"

    def mark(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin, end) -> float:
        return begin.elapsed_time(end) if self.cuda else 1e3 * (end - begin)


def train(task, arm: Baseline, device: torch.device, steps: int, half: bool) -> dict:
    """A run: losses, milliseconds, triggers."""
    model = task.model(0, **arm.options)
    if arm.prepare is not None:
        arm.prepare(model)
    optimizer = arm.optimizer(model, RATE)
    guard = arm.guard(model, optimizer) if arm.guard is not None else None
    draw, clock = seeded(BATCHES), Clock(device)
    cast = torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()
    losses, marks, base = [], [], [group["lr"] for group in optimizer.param_groups]
    for step in range(1, steps + 1):
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * rate_factor(step - 1, steps, min(WARMUP, steps // 2), "cosine")
        begun = clock.mark()
        with cast:
            loss = task.loss(model, task.batch(draw))
        optimizer.zero_grad()
        (loss if arm.penalty is None else loss + arm.penalty(model)).backward()
        before = clock.mark()
        proceed = guard is None or bool(guard.step())
        after = clock.mark()
        if proceed:
            optimizer.step()
        marks.append((begun, before, after, clock.mark()))
        losses.append(loss.detach().float())
    found = torch.stack(losses).tolist()  # waits for all of them
    whole = [clock.between(mark[0], mark[3]) for mark in marks]
    guarding = [clock.between(mark[1], mark[2]) for mark in marks]
    fired = {one["step"] for one in getattr(guard, "interventions", ())}
    warm = range(min(5, steps // 2), steps)
    quiet = [step for step in warm if step + 1 not in fired] or warm  # clipping may act at every step
    with cast:
        validation = task.evaluate(model)["loss"]
    return {
        "arm": arm.name,
        "precision": "bfloat16 autocast" if half else "float32",
        "ms a step": statistics.median(whole[step] for step in quiet),
        "ms of the guard, quiet": statistics.median(guarding[step] for step in quiet) if guard else 0.0,
        "ms of the guard, firing": statistics.median(guarding[step - 1] for step in fired) if fired else 0.0,
        "overhead of all steps": sum(guarding) / (sum(whole) - sum(guarding)) if guard else 0.0,
        "triggers": sorted(fired),
        "final loss": sum(found[-10:]) / len(found[-10:]),
        "validation loss": validation,
        "losses": found[:: max(1, steps // 100)],
    }


def run(options: Options, report: Report) -> bool:
    device, good = options.device, True
    try:
        text = load_text("topics" if options.smoke else "tinyshakespeare", device=device, download=False)
    except DataError:
        say("Tiny Shakespeare is not in the data folder; the bundled text is taken")
        text = load_text("topics", device=device)
    sizes = {"width": 512, "layers": 8, "heads": 8, "context": 256, "batch": 32, "windows": 128}
    steps = 6 if options.smoke else 300
    if options.smoke:
        sizes = {"width": 32, "layers": 2, "heads": 2, "context": 16, "batch": 4, "windows": 8}
    task = transformer_workload(text, device=device, **sizes)
    parameters = sum(p.numel() for p in task.model(0).parameters())
    say(f"{task.description}; {parameters:,} parameters; {steps} steps at {RATE:g}, a cosine after {WARMUP} of warm-up")
    report.add("setting", sizes | {"parameters": parameters, "text": text.description, "steps": steps, "rate": RATE})
    for half in (False, True):
        plain = math.nan
        for arm in arms(steps):
            try:
                found = train(task, arm, device, steps, half)
            except Exception as error:  # the other arms may work
                say(f"FAILED {arm.name}: {type(error).__name__}: {error}")
                report.add(f"{arm.name}, {'bfloat16' if half else 'float32'}", {"problem": str(error)})
                good = False
                continue
            plain = found["ms a step"] if arm.name == "plain" else plain
            found["times plain"] = found["ms a step"] / plain
            good = good and math.isfinite(found["final loss"])
            report.add(f"{arm.name}, {found['precision']}", found)
            quiet, firing = found["ms of the guard, quiet"], found["ms of the guard, firing"]
            say(
                f"{arm.name:20} {found['precision']:18} {found['ms a step']:8.2f} ms a step, "
                f"{found['times plain']:.3f} times plain; guard {quiet:.3f} ms, firing {firing:.2f} ms, "
                f"{len(found['triggers'])} times; of all steps {100 * found['overhead of all steps']:.2f} %; "
                f"loss {found['final loss']:.3f}, validation {found['validation loss']:.3f}"
            )
    return good
