"""The units of an experiment on many processes or machines, through Dask (``pip install "pso_lib[cluster]"``).

On the processes of one machine, which share its threads, and its GPUs if it has several:

    python -m pso_lib.experiments run depth --scale full --workers 4
    python -m pso_lib.experiments run depth --scale full --workers 2 --device cuda

On several machines: a scheduler, a worker for each GPU or each few cores, and the run itself, which only waits and
writes. A job script for SLURM, four workers with a GPU each:

    #!/bin/bash
    #SBATCH --ntasks=4 --cpus-per-task=4 --gpus-per-task=1 --time=12:00:00
    export OMP_NUM_THREADS=4 PSO_DATA=/path/all/nodes/see
    where=$PWD/scheduler.$SLURM_JOB_ID.json
    dask scheduler --port 0 --no-dashboard --scheduler-file $where &
    srun dask worker --nthreads 1 --memory-limit 0 --no-dashboard --scheduler-file $where &
    python -m pso_lib.experiments run depth --scale full --device cuda --scheduler $where

When the time is up, submit it again: the run goes on where it was. Where jobs may be many and short, dask-jobqueue
submits them, here and on PBS, LSF and others, and workers may come and go:

    from dask_jobqueue import SLURMCluster
    from pso_lib.experiments import run

    cluster = SLURMCluster(cores=1, processes=1, memory="16GB", walltime="02:00:00",
                           job_cpu=4, job_extra_directives=["--gpus=1"],
                           job_script_prologue=["export OMP_NUM_THREADS=4"])
    cluster.adapt(maximum_jobs=20)
    run("depth", "full", device="cuda", scheduler=cluster)

On one machine with several GPUs, ``dask cuda worker`` of dask-cuda starts a worker for each. A worker with a GPU is
sent several units at once where they train together (see ``passes``), and they are what its death costs.

Every worker is of one thread (``--nthreads 1``; OMP_NUM_THREADS is how many cores a unit uses), of any memory
(``--memory-limit 0``; Dask's own limit is a core's share), and of the run's versions of Python, torch and pso_lib. It
loads data itself and keeps the last set: put PSO_DATA where all see it, and load a set once where there is a network.
A unit whose worker dies is run again on another; one that raises ends the run. What is finished is in the journal in
any case, and the same command goes on there. After Ctrl-C a scheduler's workers, unlike those of ``--workers``,
finish the units that they have begun, to no avail.

In a script, ``run(…, workers=4)`` belongs under ``if __name__ == "__main__":``, as each worker imports the script.
"""

import hashlib
import logging
import platform
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pso_lib.errors import require_positive_int
from pso_lib.experiments import runner
from pso_lib.experiments.suite import Sources, Unit

__all__ = ["ClusterError", "found"]

# Ctrl-C in a terminal reaches all its processes: the run ends its workers itself, who would only complain.
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
KEPT = "What is finished is kept, and the same command goes on there."


class ClusterError(RuntimeError):
    """Dask is missing, a scheduler does not answer or is lost, a worker is unfit. The text says what to do."""


def found(
    way: Callable,
    together: int,
    units: Sequence[Unit],
    needs: Mapping[str, Sequence[str]],
    parts: Mapping[str, dict],
    root: Path | str | None,
    device: str,
    *,
    workers: int | None = None,
    scheduler: Any = None,
    progress: Callable[[str], None] = print,
) -> Generator[tuple[Unit, dict]]:
    """Yield (unit, what was found), in the order in which units are finished; units of the front are begun first.

    Args:
        way: ``way(units, needs, parts, sources)`` runs units in one process and yields the same; it is sent to workers.
        together: so many units at most are sent at once. A worker that dies costs what it was sent.
        needs: keys of the units that each one goes on from; all are among ``units`` or ``parts``.
        parts: what is finished, by key. The caller puts there what it is given, before it asks for more.
        root: of the data; by default the workers' own. device: theirs as well.
        workers: so many on this machine. Or ``scheduler``: its address, its file (….json), or a cluster object.

    Raises:
        ClusterError: see there. ValueError: both ``workers`` and ``scheduler``. And whatever ``way`` raises.
    """
    if workers is not None and scheduler is not None:
        raise ValueError("workers=, a number on this machine, and scheduler= exclude each other; give one of them.")
    if workers is not None:
        require_positive_int("workers", workers)
    try:
        from distributed import as_completed
    except ImportError:
        raise ClusterError(
            'Dask, which brings units to other processes, is not installed: pip install "pso_lib[cluster]".'
        ) from None
    setting = {
        "same": _same(),
        "root": None if root is None else Path(root).absolute(),
        "device": device,
        "threads": max(1, torch.get_num_threads() // workers) if workers else None,
    }
    rank = {unit.key: -index for index, unit in enumerate(units)}
    waiting, running = list(units), dict[Any, list[Unit]]()
    with ExitStack() as stack:
        client = stack.enter_context(_client(stack, workers, scheduler))
        where = client.scheduler.address
        if not _asked(client.nthreads, where):
            progress(f"{where} has no workers yet; waiting for the first")
        done = as_completed(loop=client.loop)
        while waiting or running:
            ready = {unit.key: unit for unit in waiting if all(key in parts for key in needs[unit.key])}
            waiting = [unit for unit in waiting if unit.key not in ready]
            if client.status == "closed":
                raise _lost(where)
            there = len(_asked(client.nthreads, where)) if ready and together > 1 else 1
            for some in _groups(list(ready.values()), together, there):
                before = {unit.key: {key: parts[key] for key in needs[unit.key]} for unit in some}
                future = client.submit(_on_worker, setting, way, some, before, priority=rank[some[0].key], pure=False)
                running[future] = some
                done.add(future)
            failed = None
            for future in done.next_batch():
                some = running.pop(future)
                if future.status == "finished":
                    yield from zip(some, _asked(future.result, where), strict=True)
                else:
                    failed = failed or (some, future)  # raised when what was finished by then is kept
            if failed:
                _fail(*failed, where)


def _client(stack: ExitStack, workers: int | None, scheduler):
    """Connected; the stack closes what was opened."""
    from distributed import Client, LocalCluster

    if workers is not None:
        options = {
            "threads_per_worker": 1,
            "memory_limit": 0,
            "dashboard_address": "127.0.0.1:0",
            "silence_logs": logging.ERROR,
        }
        scheduler = stack.enter_context(LocalCluster(n_workers=workers, preload=[DEAF], **options))
    file = isinstance(scheduler, (str, Path)) and str(scheduler).endswith(".json")
    try:
        return Client(**{"scheduler_file" if file else "address": scheduler}, set_as_default=False)
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise ClusterError(
            f"no scheduler answers at {scheduler} ({why}). Start one with `dask scheduler`, and give its address, "
            "tcp://host:8786, or its file."
        ) from None


def _asked(question: Callable[[], Any], where: str):
    """The answer to what only the scheduler knows."""
    try:
        return question()
    except (OSError, CancelledError):
        raise _lost(where) from None


def _lost(where: str) -> ClusterError:
    return ClusterError(f"the scheduler {where} is gone, or has dropped what it was given. {KEPT}")


def _groups(units: list[Unit], most: int, workers: int) -> Iterator[list[Unit]]:
    """As large as may be, while every worker gets some."""
    size = max(1, min(most, len(units) // max(1, workers)))
    return (units[first : first + size] for first in range(0, len(units), size))


def _fail(units: Sequence[Unit], future, where: str):
    """Raise what has become of units."""
    from distributed.scheduler import KilledWorker

    if future.status != "error":  # cancelled, or lost
        raise _lost(where)
    error = future.exception()
    if isinstance(error, KilledWorker):
        keys = ", ".join(unit.key for unit in units)
        raise ClusterError(
            f"workers died of {keys} time and again; their logs may say why. Often it is memory: give them more, and "
            f"start them with --memory-limit 0. {KEPT}"
        )
    for cause in (error, error.__cause__):  # the scheduler looks at what it hands on, and may lack it as well
        if isinstance(cause, ModuleNotFoundError) and (cause.name or "").startswith("pso_lib"):
            raise ClusterError(
                f"the scheduler {where} or a worker of it has no {cause.name}. Use one environment for all."
            ) from None
    raise error


def _same() -> dict[str, str]:
    """What must be the same on all machines for their results to be one result."""
    source = hashlib.sha256()  # a version says too little of a checkout, and a commit changes with any page
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        source.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "pso_lib": f"{import_module('pso_lib').__version__} of source {source.hexdigest()[:8]}",
    }


@cache
def _mine() -> dict[str, str]:
    """The same of a worker; looked up once, as that is what it has loaded."""
    return _same()


@lru_cache(maxsize=1)
def _sources(root: Path | None, device: str) -> Sources:
    return Sources(root, device)


def _on_worker(setting: dict, way, units: Sequence[Unit], before: Mapping[str, Mapping[str, dict]]) -> list[dict]:
    """Run units, if this worker can; ``before``: for each, those that it goes on from."""
    from distributed import get_worker

    worker, device, mine = get_worker(), setting["device"], _mine()
    for what, wanted in setting["same"].items():
        if mine[what] != wanted:
            raise ClusterError(
                f"the worker {worker.address} has {what} {mine[what]}, the run has {wanted}. Use one environment and "
                "one checkout for all, and start workers anew after an update."
            )
    if worker.state.nthreads != 1:
        raise ClusterError(
            f"the worker {worker.address} would run {worker.state.nthreads} units at a time in one process, where they "
            "disturb each other. Start it with --nthreads 1, and one for each GPU or each few cores."
        )
    if setting["threads"]:  # a worker of this machine: they share out its threads and GPUs
        torch.set_num_threads(setting["threads"])
        if device == "cuda" and torch.cuda.is_available():
            device = f"cuda:{worker.name % torch.cuda.device_count()}"
    runner._check_device(device, f"by the worker {worker.address}")
    needs = {key: list(finished) for key, finished in before.items()}
    parts = {key: part for finished in before.values() for key, part in finished.items()}
    found = {unit.key: part for unit, part in way(units, needs, parts, _sources(setting["root"], device))}
    return [found[unit.key] for unit in units]
