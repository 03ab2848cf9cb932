"""Run an experiment unit by unit, resume it where it was, and write its result.

What a unit is, and how it is run, is the business of the experiment's kind.
"""

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pso_lib.errors import require_positive, require_positive_int
from pso_lib.experiments import record
from pso_lib.experiments.record import Journal, ResultError
from pso_lib.experiments.registry import experiment, suite_of
from pso_lib.experiments.suite import Sources, Suite, Unit

__all__ = ["live", "provenance", "run"]


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
    again: bool = False,
    progress: Callable[[str], None] = print,
) -> dict:
    """Run an experiment, or what is left of it, and return its result, which is then on disk as well.

    A result that is recorded already is returned as it stands.

    Args:
        name: of an experiment of the catalogue, or a plan of your own (an ``Experiment``, say).
        scale: "smoke", "quick" or "full"; with a plan of your own only a label.
        folder: where results lie; ``results/`` of the checkout by default.
        root: of the data sets; by default as ``pso_lib.data`` says.
        epochs, evaluations: in place of the plan's own, for experiments on depth; the result says so.
        seeds: the same, for those on unstable training and for ``survival``.
        again: run it anew though it is recorded; the old result is replaced when the last unit is done.
        progress: called with one line per finished unit.

    Raises:
        ResultError: a result or journal of another configuration is in the way, or another process at work.
        ValueError: an override that this kind of experiment does not have; a device that cannot be used.
        OSError: the folder cannot be written; finished units are kept.
    """
    protocol = experiment(name, scale) if isinstance(name, str) else name
    kind = suite_of(protocol)
    plan = _changed(protocol, kind, epochs=epochs, evaluations=evaluations, seeds=seeds)
    _check_device(device)
    target = record.path_of(plan.name, scale, folder)
    if target.parent.exists() and not target.parent.is_dir():
        raise ResultError(f"{target.parent} is a file; results are written into a folder. Choose another.")
    recorded = _recorded(plan, scale, target, again, progress)
    if recorded is not None:
        return recorded
    units = kind.units(plan)
    with Journal(target.with_suffix(".journal.jsonl"), plan, scale) as journal:
        recorded = _recorded(plan, scale, target, again, progress)  # another process may have finished meanwhile
        if recorded is not None:
            journal.finish()
            return recorded
        _check_journal(journal, plan, kind, units)
        if again and target.exists() and len(journal.units) == len(units):
            journal.clear()  # left behind by the run that wrote the result
        _work(plan, kind, units, journal, Sources(root, device), device, progress)
        result = _assemble(plan, kind, scale, journal, units, device, protocol)
        record.write(target, result)
        journal.finish()
    progress(f"wrote {target}")
    return result


def _recorded(plan, scale: str, target: Path, again: bool, progress) -> dict | None:
    """The result that stands there already, unless it is to be made anew."""
    if again or not target.exists():
        return None
    result = record.load(plan.name, scale, target.parent)
    if result["configuration"] != record.configuration(plan):
        raise ResultError(
            f"{target} holds a result of another configuration of {plan.name!r}. Choose another folder, move it away, "
            "or replace it by again=True, on the command line --again."
        )
    progress(f"{target} is recorded already, with this configuration; again=True (--again) runs it anew")
    return result


def _work(plan, kind: Suite, units: Sequence[Unit], journal: Journal, sources: Sources, device: str, progress) -> None:
    """Run what is left."""
    total = sum(unit.work for unit in units)
    done = sum(unit.work for unit in units if unit.key in journal.units)
    spent = worked = 0.0
    name, commit = _name(device), _commit(record.CHECKOUT)  # the commit that this process has loaded
    for unit in units:
        if unit.key in journal.units:
            continue
        begin = time.monotonic()
        found = kind.run_unit(plan, unit, sources, device, journal.units)
        seconds = time.monotonic() - begin
        made = {"device": name, "date": _today(), "commit": commit}
        journal.add(unit.key, found | {"seconds": round(seconds, 1), "made": made})
        spent, worked, done = spent + seconds, worked + unit.work, done + unit.work
        left = spent / worked * (total - done)
        progress(f"{unit.key}: {seconds:.0f} s; {100 * done / total:.0f} % done, about {_clock(left)} left")


def live(plan, *, device: str | None = None, root: Path | None = None) -> list[dict]:
    """Run an experiment here and now and return its runs; nothing is written. By default on CUDA if there is any."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    kind, sources = suite_of(plan), Sources(root, device)
    parts: dict[str, dict] = {}
    for unit in kind.units(plan):
        parts[unit.key] = kind.run_unit(plan, unit, sources, device, parts)
    return [run for part in parts.values() for run in part["runs"]]


def provenance(device: str, dtype: str) -> dict:
    """Versions, device, date, and the commit of the checkout that holds the library, if one does."""
    return {
        "device": _name(device),
        "dtype": dtype,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "date": _today(),
        "commit": _commit(record.CHECKOUT),
    }


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{os.cpu_count()} CPU cores"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def _sittings(parts: Sequence[dict]) -> dict:
    """Where and when the units were run, if not all in one go: device, date, commit, how many, for how long."""
    sittings: dict[tuple, dict] = {}
    for part in parts:
        made = part.get("made", {})
        one = sittings.setdefault(tuple(made.values()), made | {"units": 0, "seconds": 0.0})
        one["units"] += 1
        one["seconds"] = round(one["seconds"] + part["seconds"], 1)
    return {"sittings": list(sittings.values())} if len(sittings) > 1 else {}


def _commit(checkout: Path) -> str:
    """Its HEAD; "unknown" where git knows none, or where the folder lies in the checkout of something else."""
    try:
        git = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    top, _, commit = git.stdout.strip().partition("\n")
    return commit if git.returncode == 0 and Path(top).resolve() == checkout.resolve() else "unknown"


def _changed(plan, kind: Suite, **given):
    changes = {key: value for key, value in given.items() if value is not None}
    for key in changes:
        if key not in kind.schema.overrides:
            raise ValueError(
                f"{plan.name} has no {key} to change; it is of the kind {kind.schema.name!r}. Change its plan: "
                f"run(dataclasses.replace(experiment({plan.name!r}), …))."
            )
        changes[key] = (require_positive if key == "epochs" else require_positive_int)(key, changes[key])
    return replace(plan, **changes)


def _check_device(device: str) -> None:
    try:
        usable = torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        why = str(error).partition("\n")[0]
        raise ValueError(f"device={device!r} cannot be used here ({why}); give 'cpu', 'cuda' or 'cuda:1'.") from None
    if usable.is_meta:
        raise ValueError("device='meta' holds no numbers; give 'cpu', 'cuda' or 'cuda:1'.")


def _check_journal(journal: Journal, plan, kind: Suite, units: Sequence[Unit]) -> None:
    """Every unit in it is planned and whole."""
    planned = {unit.key: unit for unit in units}
    for key, part in journal.units.items():
        flaw: str | None = f"there is no unit {key!r} in the plan"
        if key in planned:
            flaw = kind.flaw(plan, planned[key], part)
        if flaw:
            raise ResultError(
                f"{journal.path} is damaged: unit {key!r}: {flaw}. Remove its line, and it is run again; or move the "
                "file away to start afresh."
            )


def _assemble(plan, kind: Suite, scale: str, journal: Journal, units: Sequence[Unit], device, protocol) -> dict:
    parts = [journal.units[unit.key] for unit in units]
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    return {
        "format": record.FORMAT,
        "version": record.VERSION,
        # results on depth are older than this field
        **({} if kind.schema.name == "depth" else {"kind": kind.schema.name}),
        "experiment": plan.name,
        "scale": scale,
        "configuration": record.configuration(plan),
        "provenance": provenance(device, dtype)
        | {"seconds": round(sum(p["seconds"] for p in parts)), "data": sorted({p["data"] for p in parts})}
        | _sittings(parts)
        | kind.provenance(protocol),
        **kind.extras(plan, parts),
        "runs": [one for part in parts for one in part["runs"]],
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
