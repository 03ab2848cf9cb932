"""Run an experiment unit by unit, resume it where it was, and write its result.

A unit is one data set, one layer type and one depth: all its arms, seeds and rates train side by side in the
ensemble engine. First, where the experiment says so, each arm's learning rate is chosen at this depth on held-out
training images, which the reported runs then train on again.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pso_lib import data
from pso_lib.ensemble import Ensemble
from pso_lib.errors import require_positive_int
from pso_lib.experiments import record
from pso_lib.experiments.catalogue import Arm, Experiment, build, experiment, scale_of
from pso_lib.training import History

__all__ = ["live", "run"]

CHOOSING_SEED = 1_000  # no reported run uses it
TOGETHER = {"cpu": 10, "cuda": 200}  # networks per pass: what fits the caches, or the memory


def run(
    name: str | Experiment,
    scale: str = "quick",
    *,
    device: str = "cpu",
    folder: Path | None = None,
    root: Path | None = None,
    epochs: float | None = None,
    evaluations: int | None = None,
    progress: Callable[[str], None] = print,
) -> dict:
    """Run an experiment, or what is left of it, and return its result, which is then on disk as well.

    Args:
        name: of an experiment of the catalogue, or an ``Experiment`` of your own.
        scale: "smoke", "quick" or "full"; with an ``Experiment`` of your own only a label.
        folder: where results lie; ``results/`` of the checkout by default.
        root: of the data sets; by default as ``pso_lib.data`` says.
        epochs, evaluations: in place of the experiment's own; the result says so.
        progress: called with one line per finished unit.

    Raises:
        ResultError: a journal of another configuration is in the way.
    """
    plan = experiment(name, scale) if isinstance(name, str) else name
    protocol = plan.epochs
    if epochs is not None:
        if not epochs > 0:
            raise ValueError(f"epochs must be positive, got {epochs!r}.")
        plan = replace(plan, epochs=epochs)
    if evaluations is not None:
        require_positive_int("evaluations", evaluations)
        plan = replace(plan, evaluations=evaluations)
    target = record.path_of(plan.name, scale, folder)
    journal = record.Journal(target.with_suffix(".journal.jsonl"), plan, scale)
    units = list(_units(plan))
    work = {unit: _work(plan, *unit) for unit in units}
    total = sum(work.values())
    done = sum(work[unit] for unit in units if _key(unit) in journal.units)
    spent = worked = 0.0
    images, loaded = None, None
    for unit in units:
        key = _key(unit)
        if key in journal.units:
            continue
        dataset, layer, depth = unit
        if loaded != dataset:
            images, loaded = data.load(dataset, root=root, device=device), dataset
        begin = time.monotonic()
        finished = _run_unit(plan, images, dataset, layer, depth, device)
        seconds = time.monotonic() - begin
        journal.add(key, finished | {"seconds": round(seconds, 1)})
        spent, worked, done = spent + seconds, worked + work[unit], done + work[unit]
        left = spent / worked * (total - done)
        progress(f"{key}: {seconds:.0f} s; {100 * done / total:.0f} % done, about {_clock(left)} left")
    result = _assemble(plan, scale, journal, units, device, protocol)
    record.write(target, result)
    journal.path.unlink()
    progress(f"wrote {target}")
    return result


def live(plan: Experiment, *, device: str | None = None, root: Path | None = None) -> list[dict]:
    """Run an experiment here and now and return its runs; nothing is written. By default on CUDA if there is any."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    runs = []
    for dataset in plan.datasets:
        images = data.load(dataset, root=root, device=device)
        for _, layer, depth in _units(replace(plan, datasets=(dataset,))):
            runs += _run_unit(plan, images, dataset, layer, depth, device)["runs"]
    return runs


def _units(plan: Experiment):
    """Shallow depths first, so that a first picture comes early."""
    layers = sorted({arm.layer for arm in plan.arms})
    return ((dataset, layer, depth) for dataset in plan.datasets for depth in plan.depths for layer in layers)


def _key(unit: tuple[str, str, int]) -> str:
    dataset, layer, depth = unit
    return f"{dataset}/{layer}/L={depth}"


def _work(plan: Experiment, dataset: str, layer: str, depth: int) -> float:
    arms = sum(arm.layer == layer for arm in plan.arms)
    if plan.choose_rate:
        return arms * depth * plan.epochs * (plan.seeds + len(plan.rates) * plan.choosing)
    return arms * depth * plan.seeds * plan.epochs * len(plan.rates)


def _run_unit(plan: Experiment, images: data.Images, dataset: str, layer: str, depth: int, device: str) -> dict:
    arms = [arm for arm in plan.arms if arm.layer == layer]
    choosing: list[dict] = []
    if plan.choose_rate:
        held = images.hold_out(min(plan.held_out, len(images.train_y) // 5), seed=0)
        jobs = [(arm, CHOOSING_SEED, rate) for arm in arms for rate in plan.rates]
        found = _train(plan, held, depth, jobs, plan.choosing * plan.epochs, device, evaluations=1)
        choosing = [
            {"arm": arm.name, "depth": depth, "dataset": dataset, "lr": rate, "held_out_accuracy": _final(history)}
            for (arm, _, rate), history in zip(jobs, found, strict=True)
        ]
        best = {
            arm.name: max((c for c in choosing if c["arm"] == arm.name), key=lambda c: c["held_out_accuracy"])["lr"]
            for arm in arms
        }
        jobs = [(arm, seed, best[arm.name]) for arm in arms for seed in range(plan.seeds)]
    else:
        jobs = [(arm, seed, rate) for arm in arms for rate in plan.rates for seed in range(plan.seeds)]
    histories = _train(plan, images, depth, jobs, plan.epochs, device, evaluations=plan.evaluations)
    runs = [
        _as_run(plan, dataset, arm, depth, seed, rate, history)
        for (arm, seed, rate), history in zip(jobs, histories, strict=True)
    ]
    return {"data": images.description, "choosing": choosing, "runs": runs}


def _train(
    plan: Experiment,
    images: data.Images,
    depth: int,
    jobs: list[tuple[Arm, int, float]],
    epochs: float,
    device: str,
    *,
    evaluations: int,
) -> list[History]:
    steps = max(1, round(epochs * (len(images.train_y) // plan.batch)))
    histories: list[History | None] = [None] * len(jobs)
    # One activation and one beta at a time: the engine trains networks of one shape.
    shapes: dict[tuple, list[int]] = {}
    for index, (arm, _, _) in enumerate(jobs):
        shapes.setdefault((arm.activation, scale_of(arm, depth) if arm.layer == "B" else 0), []).append(index)
    together = TOGETHER["cuda" if device.startswith("cuda") else "cpu"]
    for indices in shapes.values():
        for first in range(0, len(indices), together):
            chunk = indices[first : first + together]
            networks = [
                build(jobs[i][0], depth, plan.width, images.train_x.shape[1], images.classes, jobs[i][1], device=device)
                for i in chunk
            ]
            found = Ensemble(networks).train(
                images,
                steps=steps,
                lr=[jobs[i][2] for i in chunk],
                batch=plan.batch,
                generators=[torch.Generator().manual_seed(jobs[i][1]) for i in chunk],
                eval_every=max(1, steps // evaluations),
            )
            for i, history in zip(chunk, found, strict=True):
                histories[i] = history
    return histories


def _as_run(plan, dataset: str, arm: Arm, depth: int, seed: int, rate: float, history: History) -> dict:
    return {
        "dataset": dataset,
        "arm": arm.name,
        "layer": arm.layer,
        "init": arm.init,
        "depth": depth,
        "width": plan.width,
        "seed": seed,
        "lr": rate,
        "epochs": plan.epochs,
        "test_accuracy": _final(history),
        "diverged": history.diverged,
        "curve": {
            "steps": list(history.steps),
            "test_accuracy": [_number(a) or 0.0 for a in history.test_accuracy],
            "loss": _thinned(history),
        },
    }


def _final(history: History) -> float:
    """The last accuracy; a network that has diverged answers nothing right."""
    return _number(history.final_accuracy) or 0.0


def _thinned(history: History) -> list[float | None]:
    """The mean training loss between evaluations; None where it was not finite."""
    bounds = [0, *[step for step in history.steps if step > 0]]
    means = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        part = history.loss[start:end]
        means.append(_number(sum(part) / len(part)) if part else None)
    return means


def _number(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def _assemble(plan: Experiment, scale: str, journal: record.Journal, units, device: str, protocol: float) -> dict:
    parts = [journal.units[_key(unit)] for unit in units]
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    return {
        "format": record.FORMAT,
        "version": record.VERSION,
        "experiment": plan.name,
        "scale": scale,
        "configuration": record.configuration(plan),
        "provenance": record.provenance(device, dtype)
        | {
            "seconds": round(sum(p["seconds"] for p in parts)),
            "data": sorted({p["data"] for p in parts}),
            "protocol_epochs": protocol,
        },
        "choosing": [choice for part in parts for choice in part["choosing"]],
        "runs": [one for part in parts for one in part["runs"]],
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
