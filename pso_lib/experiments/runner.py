"""Run an experiment unit by unit, resume it where it was, and write its result.

What a unit is, and how it is run, is the business of the experiment's kind; where it is run, here or on the workers of
a ``cluster``, changes nothing else.

What is unfinished at full scale may be committed: ``results/NAME.full.journal.jsonl`` goes on on another machine and
under a later commit, as long as the configuration is the same. The record then lists its sittings.
"""

import contextlib
import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pso_lib.errors import require_positive, require_positive_int
from pso_lib.experiments import passes, record
from pso_lib.experiments.record import Journal, ResultError
from pso_lib.experiments.registry import experiment, suite_of
from pso_lib.experiments.suite import Sources, Suite, Unit

Found = Generator[tuple[Unit, dict]]

__all__ = ["Unfinished", "live", "provenance", "run", "run_unit"]


class Unfinished(ResultError):
    """A run that stopped in time: what is finished lies in its journal."""


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
    minutes: float | None = None,
    workers: int | None = None,
    scheduler=None,
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
        minutes: begin only what should be done by then, as far as finished units of this device tell; the first in
            any case. What is left is left for the next call.
        workers: run the units on so many processes of this machine, through Dask.
        scheduler: run them on the workers of this one: an address, a scheduler file (….json) or a cluster object. See
            ``cluster``; ``device``, and ``root`` or PSO_DATA, are then the workers'.
        progress: called with one line per finished unit.

    Raises:
        Unfinished: the minutes are over; what is finished is kept.
        ResultError: a result or journal of another configuration is in the way, or another process at work.
        ValueError: an override that this kind of experiment does not have; a device that cannot be used.
        ClusterError: Dask is missing, the scheduler does not answer or is lost, a worker is of another version;
            finished units are kept.
        OSError: the folder cannot be written; finished units are kept.
    """
    device = str(device)  # a torch.device does as well
    protocol = experiment(name, scale) if isinstance(name, str) else name
    kind = suite_of(protocol)
    if minutes is not None:
        require_positive("minutes", minutes)
        if not workers is scheduler is None:
            raise ValueError(
                "minutes is for units that this process runs; a cluster's scheduler has limits of its own."
            )
    plan = _changed(protocol, kind, epochs=epochs, evaluations=evaluations, seeds=seeds)
    if workers is scheduler is None:
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
        left = [unit for unit in units if unit.key not in journal.units]
        work = partial(run_unit, kind, plan, _commit(record.CHECKOUT))  # the commit that this process has loaded
        needs, way = _needs(plan, kind, units), _way(kind, device)
        if not left or workers is scheduler is None:
            fits = _limit(minutes, units, journal.units, device)
            found = way(work, left, needs, journal.units, Sources(root, device), fits=fits)
        else:
            from pso_lib.experiments import cluster

            call = partial(way, work), passes.AT_ONCE if way is passes.found else 1
            options = {"workers": workers, "scheduler": scheduler, "progress": progress}
            found = cluster.found(*call, left, needs, journal.units, root, device, **options)
        _keep(found, units, journal, progress)
        if len(journal.units) < len(units):
            raise Unfinished(
                f"{len(journal.units)} of {len(units)} units are finished and kept; the others did not fit into "
                f"{minutes:g} minutes. The same call goes on there."
            )
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
            f"{target} holds a result of another configuration of {plan.name!r}: {record.command(result)} made it. "
            "Give the same options, choose another folder, move it away, or replace it by again=True (--again)."
        )
    progress(f"{target} is recorded already, with this configuration; again=True (--again) runs it anew")
    return result


def run_unit(kind: Suite, plan, commit: str, unit: Unit, finished: Mapping[str, dict], sources: Sources) -> dict:
    """Run one unit in this process, and return what the journal keeps of it.

    Args:
        commit: of the library, for the provenance.
        finished: the units that it goes on from, as ``Suite.after`` names them.
        sources: of the data, on the device on which it is run.
    """
    begin = time.monotonic()
    found = kind.run_unit(plan, unit, sources, sources.device, finished)
    seconds = time.monotonic() - begin
    made = {"device": _name(sources.device), "date": _today(), "commit": commit}
    return found | {"seconds": round(seconds, 1), "threads": torch.get_num_threads(), "made": made}


def _needs(plan, kind: Suite, units: Sequence[Unit]) -> dict[str, list[str]]:
    """What each unit goes on from; of earlier units only, so that none waits in vain."""
    needs: dict[str, list[str]] = {}
    for unit in units:
        needs[unit.key] = [key for key in kind.after(plan, unit) if key in needs]
    return needs


def _way(kind: Suite, device: str) -> Callable[..., Found]:
    """How units are run in this process: a GPU is filled by many of them, if they train together."""
    return passes.found if kind.gathers and device.startswith("cuda") else _here


def _limit(minutes: float | None, units: Sequence[Unit], parts: Mapping[str, dict], device: str):
    """A function that says whether so much work can be done by the end of the minutes."""
    end = time.monotonic() + 60 * (minutes or 0)

    def fits(work: float) -> bool:
        name = _name(device)
        mine = [
            (parts[unit.key]["seconds"], unit.work)
            for unit in units
            if parts.get(unit.key, {}).get("made", {}).get("device") == name
        ]
        if minutes is None or not mine:
            return True
        seconds, done = map(sum, zip(*mine, strict=True))
        return time.monotonic() + work * seconds / done <= end

    return fits


def _here(
    work, units: Sequence[Unit], needs, parts: Mapping[str, dict], sources: Sources, fits=lambda work: True
) -> Found:
    """(unit, what was found), one after the other in this process."""
    for unit in units:
        if not fits(unit.work):
            return
        yield unit, work(unit, {key: parts[key] for key in needs[unit.key]}, sources)


def _keep(found: Found, units: Sequence[Unit], journal: Journal, progress) -> None:
    """Write down each unit as it comes, and tell how much is left."""
    total = sum(unit.work for unit in units)
    done = sum(unit.work for unit in units if unit.key in journal.units)
    worked, begin = 0.0, None
    with contextlib.closing(found):  # at once, whatever happens: it may hold a cluster
        for unit, part in found:
            journal.add(unit.key, part)
            if begin is None:  # of the first unit: that workers may have been waited for says nothing of what is left
                begin = time.monotonic() - part["seconds"]
            worked, done = worked + unit.work, done + unit.work
            left = (time.monotonic() - begin) / worked * (total - done)
            progress(f"{unit.key}: {part['seconds']:.0f} s; {100 * done / total:.0f} % done, about {_clock(left)} left")


def live(plan, *, device: str | None = None, root: Path | None = None) -> list[dict]:
    """Run an experiment here and now and return its runs; nothing is written. By default on CUDA if there is any."""
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    _check_device(device)
    kind, sources = suite_of(plan), Sources(root, device)
    parts: dict[str, dict] = {}
    units = kind.units(plan)
    work, needs = partial(run_unit, kind, plan, ""), _needs(plan, kind, units)
    for unit, part in _way(kind, device)(work, units, needs, parts, sources):
        parts[unit.key] = part
    return [run for unit in units for run in parts[unit.key]["runs"]]


def provenance(device: str, dtype: str, threads: int | None = None) -> dict:
    """Versions, device, date, and the commit of the checkout that holds the library, if one does.

    Args:
        device: by the name that people know it by.
        threads: of the processes that ran the units; by default those of this one.
    """
    return {
        "device": device,
        "dtype": dtype,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": threads or torch.get_num_threads(),
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


def _check_device(device: str, where: str = "here") -> None:
    try:
        usable = torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        why = str(error).partition("\n")[0]
        raise ValueError(f"device={device!r} cannot be used {where} ({why}); give 'cpu', 'cuda' or 'cuda:1'.") from None
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
    last = parts[-1]  # which may have been run elsewhere, on a device that is not here
    name = last["made"]["device"] if "made" in last else _name(device)
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    return {
        "format": record.FORMAT,
        "version": record.VERSION,
        # results on depth are older than this field
        **({} if kind.schema.name == "depth" else {"kind": kind.schema.name}),
        "experiment": plan.name,
        "scale": scale,
        "configuration": record.configuration(plan),
        "provenance": provenance(name, dtype, last.get("threads"))
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
