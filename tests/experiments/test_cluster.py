"""Units on other processes: the same results as on one, whatever happens to workers and to the scheduler."""

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from pso_lib.experiments import ClusterError, experiment, record, run, runner
from pso_lib.experiments import cluster as cluster_module
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.record import path_of, without_timings
from pso_lib.experiments.registry import suite_of

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")
cloudpickle = pytest.importorskip("cloudpickle")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers know nothing of the tests

ROOT = Path(__file__).resolve().parents[2]


def staged():
    """Two starts, whose rates are chosen before the runs that use them: units that wait for others."""
    plan = experiment("depth_tuned", "smoke")
    return replace(plan, arms=plan.arms[:2], depths=(3,), epochs=0.2, evaluations=1)


def matched():
    """One method that acts as often as another did."""
    plan = experiment("pss_controls", "smoke")
    methods = ("random_times", "plain", "pss_clip")
    workload = replace(next(p for p in plan.workloads if p.name == "mlp"), steps=24, methods=methods)
    return replace(plan, workloads=(workload,), rates=(0.3,), detector=(3, 1))


def quiet(line: str) -> None:
    pass


def start(*command: str) -> subprocess.Popen:
    """In a session of its own, with what it starts itself."""
    quietly = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, **quietly)


def end(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def scheduler(file: Path) -> subprocess.Popen:
    return start(
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        file,
    )


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    return {plan.name: run(plan, "smoke", folder=folder, progress=quiet) for plan in (staged(), matched())}


class Cluster(NamedTuple):
    file: Path
    scheduler: subprocess.Popen


@pytest.fixture(scope="module")
def same():
    """What workers are compared with: who edits the library while this is tested is not refused."""
    return cluster_module._same()


@pytest.fixture(autouse=True)
def begun(same, monkeypatch):
    monkeypatch.setattr(cluster_module, "_same", lambda: same)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler with two workers."""
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    first = scheduler(file)
    options = (
        "--nworkers",
        "2",
        "--nthreads",
        "1",
        "--memory-limit",
        "0",
        "--no-dashboard",
        "--local-directory",
        str(file.parent),
    )
    second = start("distributed.cli.dask_worker", *options, "--scheduler-file", str(file))
    yield Cluster(file, first)
    end(second)
    end(first)


def watched(log: Path, victim: str, kind, plan, commit, unit, finished, sources):
    """Note that a unit is begun and what it was given; the first time that it is the victim, die in its middle."""
    with log.open("a") as file:
        file.write(f"{unit.key} after {sorted(finished)}\n")
    found = runner.run_unit(kind, plan, commit, unit, finished, sources)
    if unit.key == victim and log.read_text().count(f"{victim} after") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return found


@pytest.mark.parametrize("make", [staged, matched])
def test_the_result_is_that_of_one_process_though_a_worker_dies(make, serial, cluster, tmp_path, monkeypatch):
    plan, log = make(), tmp_path / "log"
    units = suite_of(plan).units(plan)
    victim = units[1].key
    monkeypatch.setattr(runner, "run_unit", partial(watched, log, victim))
    lines = []
    result = run(plan, "smoke", folder=tmp_path, scheduler=cluster.file, progress=lines.append)
    assert without_timings(result) == without_timings(serial[plan.name])
    begun = [line.split(" after ")[0] for line in log.read_text().splitlines()]
    assert sorted(begun) == sorted([*(unit.key for unit in units), victim])
    for unit in units:  # every unit was given what it goes on from
        assert f"{unit.key} after {sorted(suite_of(plan).after(plan, unit))}" in log.read_text()
    said = [line for line in lines if "% done" in line]
    assert len(said) == len(units) and said[-1].split("; ")[1].startswith("100 % done")


def test_ctrl_c_keeps_the_journal_and_leaves_no_process(tmp_path):
    command = "-W ignore -m pso_lib.experiments run depth_tuned --scale smoke --workers 1 --out".split()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *command, tmp_path], cwd=ROOT, start_new_session=True, **pipes)
    assert "% done" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "stopped; the same command goes on where it was\n"
    assert not [one for one in psutil.process_iter(["status"]) if of_session(one, process.pid)]
    journal = path_of("depth_tuned", "smoke", tmp_path).with_suffix(".journal.jsonl").read_text()
    assert journal.endswith("\n") and all(json.loads(line) for line in journal.splitlines())
    assert 1 <= record.units_done("depth_tuned", "smoke", tmp_path) < 108


def of_session(process: psutil.Process, session: int) -> bool:
    """Whether it belongs there, and is alive."""
    try:
        return os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE
    except ProcessLookupError:
        return False


def refuse(kind, plan, commit, unit, finished, sources):
    if unit.key.endswith("final"):
        raise ArithmeticError("on purpose")
    return runner.run_unit(kind, plan, commit, unit, finished, sources)


def test_a_unit_that_raises_ends_the_run_and_finished_units_are_kept(cluster, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_unit", refuse)
        with pytest.raises(ArithmeticError, match="on purpose"):
            run(staged(), "smoke", folder=tmp_path, scheduler=cluster.file, progress=quiet)
    assert record.units_done("depth_tuned", "smoke", tmp_path) >= 1


@pytest.mark.parametrize("what", ["Python", "torch", "pso_lib"])
def test_a_worker_of_another_version_is_refused(what, same, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "_same", lambda: same | {what: "0.0"})
    with pytest.raises(ClusterError, match=f"has {what} {re.escape(same[what])}, the run has 0.0. Use one"):
        run(staged(), "smoke", folder=tmp_path, scheduler=cluster.file, progress=quiet)


def test_one_letter_of_the_source_is_another_version(tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(cluster_module, "__file__", str(tmp_path / "experiments" / "cluster.py"))
    found = set()
    for name, text in (("a.py", "x = 1\n"), ("a.py", "x = 2\n"), ("notes.md", "a page\n"), ("b.py", "")):
        (tmp_path / name).write_text(text)
        found.add(cluster_module._same()["pso_lib"])
    assert len(found) == 3


def test_a_device_that_a_worker_does_not_have(cluster, tmp_path):
    with pytest.raises(ValueError, match="device='cuda:99' cannot be used by the worker tcp://"):
        run(staged(), "smoke", folder=tmp_path, scheduler=cluster.file, device="cuda:99", progress=quiet)


def test_a_worker_of_several_threads_is_refused(tmp_path):
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as local, pytest.raises(ClusterError, match="--nthreads 1"):
        run(staged(), "smoke", folder=tmp_path, scheduler=local, progress=quiet)


def test_nobody_answers(tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    command = ["run", "depth", "--scale", "smoke", "--out", str(tmp_path), "--scheduler"]
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        assert main([*command, address]) == 2
        assert f"error: no scheduler answers at {address}" in capsys.readouterr().err
        assert main([*command, "nonsense://x"]) == 2
        assert "error: no scheduler answers at nonsense://x" in capsys.readouterr().err


def test_without_dask_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r'pip install "pso_lib\[cluster\]"'):
        run(staged(), "smoke", folder=tmp_path, workers=2, progress=quiet)


@pytest.mark.parametrize("given, text", [({"workers": 0}, "workers"), ({"workers": 2, "scheduler": "x"}, "exclude")])
def test_what_cannot_be_meant(given, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        run(staged(), "smoke", folder=tmp_path, progress=quiet, **given)


def test_dask_is_imported_by_who_asks_for_it(monkeypatch):
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    runpy.run_path(cluster_module.__file__)


def test_a_lost_scheduler_ends_in_a_sentence_and_the_next_call_resumes(serial, cluster, tmp_path):
    """The last test, for it is gone then."""
    lines = []

    def lose(line: str) -> None:
        lines.append(line)
        end(cluster.scheduler)

    with pytest.raises(ClusterError, match="is gone.*the same command goes on there"):
        run(staged(), "smoke", folder=tmp_path, scheduler=cluster.file, progress=lose)
    result = run(staged(), "smoke", folder=tmp_path, progress=lines.append)
    assert sum("% done" in line for line in lines) == 6
    assert without_timings(result) == without_timings(serial["depth_tuned"])
