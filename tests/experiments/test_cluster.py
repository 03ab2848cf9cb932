"""Units on other processes: the same results as on one, whatever happens to workers and to the scheduler."""

import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from pso_lib.experiments import ClusterError, experiment, passes, record, run, runner
from pso_lib.experiments import cluster as cluster_module
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.record import path_of, without_timings
from pso_lib.experiments.registry import suite_of

pytestmark = pytest.mark.slow  # processes start, die and are waited for

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

INSIDE = {"processes": False, "n_workers": 1, "dashboard_address": "127.0.0.1:0"}
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


def start(program: str, options: str, folder: Path) -> subprocess.Popen:
    """A program of Dask, in a session of its own with what it starts itself, and with the library in the folder."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *options.split(), "--no-dashboard"]
    command += ["--scheduler-file", str(folder / "scheduler.json")]
    quietly = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **quietly)


def end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    return {plan.name: run(plan, "smoke", folder=folder, progress=quiet) for plan in (staged(), matched())}


class Cluster(NamedTuple):
    file: Path
    scheduler: subprocess.Popen


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the library for other processes, so that it may be edited while this is tested."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "pso_lib", folder / "pso_lib")
    return folder


@pytest.fixture(scope="module")
def same(checkout):
    """What workers are compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_module, "__file__", str(checkout / "pso_lib" / "experiments" / "cluster.py"))
        return cluster_module._same()


@pytest.fixture(autouse=True)
def begun(same, monkeypatch):
    monkeypatch.setattr(cluster_module, "_same", lambda: same)


@pytest.fixture(scope="module")
def cluster(checkout):
    """A scheduler with two workers."""
    first = start("scheduler", "--host 127.0.0.1 --port 0", checkout)
    second = start("worker", "--nworkers 2 --nthreads 1 --memory-limit 0 --local-directory .", checkout)
    yield Cluster(checkout / "scheduler.json", first)
    end(second)
    end(first)


def watched(log: Path, victim: str):
    """A ``run_unit`` that notes each unit and what it was given, and dies in the middle of the victim, once.

    Like the others it is a local function, which is sent whole: workers know nothing of the tests.
    """

    def run_unit(kind, plan, commit, unit, finished, sources):
        with log.open("a") as file:
            file.write(f"{unit.key} after {sorted(finished)}\n")
        found = runner.run_unit(kind, plan, commit, unit, finished, sources)
        if unit.key == victim and log.read_text().count(f"{victim} after") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return run_unit


@pytest.mark.parametrize("make", [staged, matched])
def test_the_result_is_that_of_one_process_though_a_worker_dies(make, serial, cluster, tmp_path, monkeypatch):
    plan, log = make(), tmp_path / "log"
    units = suite_of(plan).units(plan)
    victim = units[1].key
    monkeypatch.setattr(runner, "run_unit", watched(log, victim))
    lines = []
    result = run(plan, "smoke", folder=tmp_path, scheduler=cluster.file, progress=lines.append)
    assert without_timings(result) == without_timings(serial[plan.name])
    begun = [line.split(" after ")[0] for line in log.read_text().splitlines()]
    assert set(begun) == {unit.key for unit in units} and begun.count(victim) == 2
    assert len(begun) <= len(units) + 2  # one that was done as its worker died may not have been fetched
    for unit in units:  # every unit was given what it goes on from
        assert f"{unit.key} after {sorted(suite_of(plan).after(plan, unit))}" in log.read_text()
    said = [line for line in lines if "% done" in line]
    assert len(said) == len(units) and said[-1].split("; ")[1].startswith("100 % done")


def test_units_that_train_together_on_a_gpu_are_sent_together(serial, tmp_path, monkeypatch):
    """Here to the one worker there is, a thread of this process."""
    real, counts = passes._Gatherer, []
    monkeypatch.setattr(passes, "_Gatherer", lambda count: counts.append(count) or real(count))
    monkeypatch.setattr(runner, "_way", lambda kind, device: passes.found)
    with distributed.LocalCluster(threads_per_worker=1, **INSIDE) as local:
        result = run(staged(), "smoke", folder=tmp_path, scheduler=local, progress=quiet)
    assert without_timings(result) == without_timings(serial["depth_tuned"])
    assert counts == [2, 2, 2]  # a stage of both starts


@pytest.mark.parametrize(
    "units, most, workers, sizes",
    [
        (7, 1, 3, [1] * 7),
        (7, 12, 2, [3, 3, 1]),
        (7, 2, 2, [2, 2, 2, 1]),
        (2, 12, 5, [1, 1]),
        (3, 12, 0, [3]),
        (0, 12, 2, []),
    ],
)
def test_groups_leave_no_worker_idle(units, most, workers, sizes):
    found = list(cluster_module._groups(list(range(units)), most, workers))
    assert list(map(len, found)) == sizes and sum(found, []) == list(range(units))


def test_ctrl_c_keeps_the_journal_and_leaves_no_process(checkout, tmp_path):
    command = "-W ignore -m pso_lib.experiments run depth_tuned --scale smoke --workers 1 --out".split()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        [sys.executable, *command, tmp_path],
        cwd=checkout,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a background job has made deaf to it
        **pipes,
    )
    assert "% done" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "stopped; the same command goes on where it was\n"
    for _ in range(100):  # a busy machine takes a moment to end them
        left = [one for one in psutil.process_iter(["status"]) if of_session(one, process.pid)]
        if not left:
            break
        time.sleep(0.2)
    assert not left
    journal = path_of("depth_tuned", "smoke", tmp_path).with_suffix(".journal.jsonl").read_text()
    assert journal.endswith("\n") and all(json.loads(line) for line in journal.splitlines())
    assert 1 <= record.units_done("depth_tuned", "smoke", tmp_path) < 108


def of_session(process: psutil.Process, session: int) -> bool:
    """Whether it belongs there, and is alive."""
    try:
        return os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE
    except ProcessLookupError:
        return False


def test_a_unit_that_raises_ends_the_run_and_finished_units_are_kept(cluster, tmp_path, monkeypatch):
    def refuse(kind, plan, commit, unit, *given):
        if unit.key.endswith("final"):
            raise ArithmeticError("on purpose")
        return runner.run_unit(kind, plan, commit, unit, *given)

    monkeypatch.setattr(runner, "run_unit", refuse)
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
    with (
        distributed.LocalCluster(threads_per_worker=2, **INSIDE) as local,
        pytest.raises(ClusterError, match="--nthreads 1"),
    ):
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
