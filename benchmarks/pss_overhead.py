"""What singularity smoothing costs: detection, a step that smooths, and both over a training run.

    python benchmarks/pss_overhead.py [--json FILE] [--quick] [--device cpu|cuda]

The patient is the `full` Transformer: 1 M parameters, 5 layers of width 128, AdamW in float32, on windows of 64
characters. Plain steps, steps that a guard watches, and steps at which it smooths all weights take turns in one run, so
that a busy moment of the machine falls on all alike; a figure is a median.

Detection reads every gradient once, smoothing decomposes every weight: neither cares how many tokens a step has, while
a plain step takes time in proportion to them. So the shares fall as 1 / tokens, and are measured at two batch sizes.
"""

import argparse
import datetime
import json
import platform
import statistics
import time

import torch

from pso_lib.data.text import load_text
from pso_lib.smoothing import AtSteps, Detector, Guard
from pso_lib.train.optimizers import adamw
from pso_lib.train.workloads import transformer_workload

LIMITS = {"detection": 0.01, "smoothing": 3.0, "in_all": 0.005}
PER_STEPS = 1000  # triggers are counted per so many


class Clock:
    """Milliseconds of what a call does: by CUDA events on a CUDA device, by the wall elsewhere."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"

    def __call__(self, work) -> float:
        if self.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            return begin.elapsed_time(end)
        begin = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - begin)


def measure(task, device: torch.device, repetitions: int, method: str) -> dict[str, list[float]]:
    """Milliseconds of each plain step, of the detector within a watched one, and of a step that smooths."""
    model = task.model(0)
    optimizer, draw, clock = adamw(model, 1e-4), torch.Generator().manual_seed(0), Clock(device)
    # the default detector at work, but for a tau it never exceeds: what it costs does not depend on tau
    watching = Guard(model, method=method, trigger=Detector(tau=1e9))
    # no update is skipped: a step that smooths is a plain one and the smoothing, the most it can cost
    smoothing = Guard(model, method=method, trigger=AtSteps(range(1, 10**6)), skip_step=False)

    def backward() -> None:
        loss = task.loss(model, task.batch(draw))
        optimizer.zero_grad()
        loss.backward()

    def plain() -> None:
        backward()
        optimizer.step()

    def smooth() -> None:
        backward()
        if smoothing.step():
            optimizer.step()

    for _ in range(3):  # warm
        plain(), smooth()
    times: dict[str, list[float]] = {"plain": [], "detection": [], "smoothing": []}
    for _ in range(repetitions):
        times["plain"].append(clock(plain))
        times["smoothing"].append(clock(smooth))
        backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times["detection"].append(clock(watching.step))
        optimizer.step()
    assert len(watching.interventions) == 0 and len(smoothing.interventions) == repetitions + 3
    return times


def train(task, steps: int, method: str) -> tuple[int, float, float]:
    """A run at the default settings: triggers, seconds of the guard, seconds in all."""
    from pso_lib.train.baselines import Baseline
    from pso_lib.train.monitored import run

    arm = Baseline("guard", guard=lambda model, optimizer: Guard(model, method=method))
    found = run(task, arm, lr=1e-3, seed=0, steps=steps)
    return len(found.triggers), sum(found.guard_seconds), found.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--quick", action="store_true", help="a smaller Transformer, few repetitions: does it run?")
    parser.add_argument("--repetitions", type=int, metavar="R", help="40 unless said otherwise, 5 with --quick")
    parser.add_argument("--steps", type=int, metavar="S", help="of each training run: 400 unless said otherwise")
    parser.add_argument("--batches", type=int, nargs="+", metavar="B", help="windows a step: 16 and 64 by default")
    parser.add_argument("--method", default="clip", help="the smoothing (default: %(default)s)")
    parser.add_argument("--text", default="topics", help="'topics' (bundled; the default), 'tinyshakespeare', a file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    repetitions = options.repetitions or (5 if options.quick else 40)
    sizes = {"width": 32, "layers": 2, "context": 16} if options.quick else {}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    environment = {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    steps = options.steps or (60 if options.quick else 400)
    text = load_text(options.text)
    found = []
    for batch in options.batches or ((4, 8) if options.quick else (16, 64)):
        task = transformer_workload(text, device=device, batch=batch, **sizes)
        found.append(report(task, device, batch, repetitions, steps, options.method))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"environment": environment, "limits": LIMITS, "batches": found}, file, indent=1)


def report(task, device: torch.device, batch: int, repetitions: int, steps: int, method: str) -> dict:
    """Measure at one batch size, print the figures beside their limits, and return them."""
    count = sum(p.numel() for p in task.model(0).parameters())
    print(f"\n{task.description}; {count:,} parameters; {repetitions} repetitions, {method}")
    times = measure(task, device, repetitions, method)
    middle = {key: statistics.median(values) for key, values in times.items()}
    for key, value in middle.items():
        print(f"{key:10} {value:9.3f} ms   (least {min(times[key]):.3f}, most {max(times[key]):.3f})")
    extra = middle["smoothing"] - middle["plain"]
    fired, guard_seconds, seconds = train(task, steps, method)
    ratios = {
        "detection": middle["detection"] / middle["plain"],
        "smoothing": middle["smoothing"] / middle["plain"],
        "in_all": (middle["detection"] + extra * fired / steps) / middle["plain"],
    }
    room = (LIMITS["in_all"] - ratios["detection"]) * PER_STEPS * middle["plain"]
    allowed = max(0.0, room / extra) if extra > 0 else None
    print(f"a run of {steps} steps at rate 1e-3, default settings: {fired} triggers")
    if allowed is not None:
        print(
            f"up to {allowed:.2g} triggers per {PER_STEPS:,} steps cost {100 * LIMITS['in_all']:g} % of the time in all"
        )
    beyond = [key for key in LIMITS if ratios[key] > LIMITS[key]]
    print(
        f"ratios: detection {100 * ratios['detection']:.2f} % of a step (limit 1), a smoothing step "
        f"{ratios['smoothing']:.2f} plain steps (limit 3), in all {100 * ratios['in_all']:.2f} % (limit 0.5): "
        + (f"beyond the limit: {', '.join(beyond)}" if beyond else "all within limits")
    )
    return {
        "task": task.description,
        "batch": batch,
        "parameters": count,
        "method": method,
        "milliseconds": times,
        "ratios": ratios,
        "run": {"steps": steps, "triggers": fired, "guard_seconds": guard_seconds, "seconds": seconds},
        "triggers_per_1000_steps_allowed": allowed,
    }


if __name__ == "__main__":
    main()
