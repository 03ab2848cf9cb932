"""Run an experiment unit by unit, resume it where it was, and write its result.

What a unit is, and how it is run, is the business of the experiment's kind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pso_lib.errors import require_positive_int
from pso_lib.experiments import record
from pso_lib.experiments.kind import Kind, Sources, Unit
from pso_lib.experiments.registry import experiment, kind_of

__all__ = ["live", "run"]


def run(
    name,
    scale: str = "quick",
    *,
    device: str = "cpu",
    folder: Path | None = None,
    root: Path | None = None,
    epochs: float | None = None,
    evaluations: int | None = None,
    seeds: int | None = None,
    progress: Callable[[str], None] = print,
) -> dict:
    """Run an experiment, or what is left of it, and return its result, which is then on disk as well.

    Args:
        name: of an experiment of the catalogue, or a plan of your own (an ``Experiment``, say).
        scale: "smoke", "quick" or "full"; with a plan of your own only a label.
        folder: where results lie; ``results/`` of the checkout by default.
        root: of the data sets; by default as ``pso_lib.data`` says.
        epochs, evaluations: in place of the plan's own, for experiments on depth; the result says so.
        seeds: the same, for those on unstable training and for ``survival``.
        progress: called with one line per finished unit.

    Raises:
        ResultError: a journal of another configuration is in the way.
        ValueError: an override that this kind of experiment does not have.
    """
    protocol = experiment(name, scale) if isinstance(name, str) else name
    kind = kind_of(protocol)
    plan = _changed(protocol, kind, epochs=epochs, evaluations=evaluations, seeds=seeds)
    target = record.path_of(plan.name, scale, folder)
    journal = record.Journal(target.with_suffix(".journal.jsonl"), plan, scale)
    units = kind.units(plan)
    total = sum(unit.work for unit in units)
    done = sum(unit.work for unit in units if unit.key in journal.units)
    spent = worked = 0.0
    sources = Sources(root, device)
    for unit in units:
        if unit.key in journal.units:
            continue
        finished = [one for part in journal.units.values() for one in part["runs"]]
        begin = time.monotonic()
        found = kind.run_unit(plan, unit, sources, device, finished)
        seconds = time.monotonic() - begin
        journal.add(unit.key, found | {"seconds": round(seconds, 1)})
        spent, worked, done = spent + seconds, worked + unit.work, done + unit.work
        left = spent / worked * (total - done)
        progress(f"{unit.key}: {seconds:.0f} s; {100 * done / total:.0f} % done, about {_clock(left)} left")
    result = _assemble(plan, kind, scale, journal, units, device, protocol)
    record.write(target, result)
    journal.path.unlink()
    progress(f"wrote {target}")
    return result


def live(plan, *, device: str | None = None, root: Path | None = None) -> list[dict]:
    """Run an experiment here and now and return its runs; nothing is written. By default on CUDA if there is any."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind, sources, runs = kind_of(plan), Sources(root, device), []
    for unit in kind.units(plan):
        runs += kind.run_unit(plan, unit, sources, device, runs)["runs"]
    return runs


def _changed(plan, kind: Kind, **given):
    changes = {key: value for key, value in given.items() if value is not None}
    for key in changes:
        if key not in kind.overrides:
            raise ValueError(
                f"{plan.name} has no {key} to change; it is of the kind {kind.name!r}. Change its plan: "
                f"run(dataclasses.replace(experiment({plan.name!r}), …))."
            )
        if key != "epochs":
            require_positive_int(key, changes[key])
        elif not changes[key] > 0:
            raise ValueError(f"epochs must be positive, got {changes[key]!r}.")
    return replace(plan, **changes)


def _assemble(plan, kind: Kind, scale: str, journal: record.Journal, units: Sequence[Unit], device, protocol) -> dict:
    parts = [journal.units[unit.key] for unit in units]
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    return {
        "format": record.FORMAT,
        "version": record.VERSION,
        # results on depth are older than this field
        **({} if kind.name == "depth" else {"kind": kind.name}),
        "experiment": plan.name,
        "scale": scale,
        "configuration": record.configuration(plan),
        "provenance": record.provenance(device, dtype)
        | {"seconds": round(sum(p["seconds"] for p in parts)), "data": sorted({p["data"] for p in parts})}
        | kind.provenance(protocol),
        **kind.extras(plan, parts),
        "runs": [one for part in parts for one in part["runs"]],
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
