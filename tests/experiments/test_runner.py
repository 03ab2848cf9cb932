"""The runner: what is left is told, a live run checks its device, a result names the library's own commit."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pso_lib.experiments import experiment, live, run, runner
from pso_lib.experiments.record import path_of
from pso_lib.experiments.registry import suite_of


def tiny(**changes):
    """One arm of each type, two depths: four units of two runs."""
    whole = experiment("depth", "smoke")
    arms = tuple(arm for arm in whole.arms if arm.name in ("he", "he_residual"))
    plan = replace(whole, arms=arms, depths=(2, 3), seeds=2, epochs=0.2, rates=(1e-3,), choose_rate=False)
    return replace(plan, **changes)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    return folder, run(tiny(), "smoke", folder=folder, progress=quiet)


@pytest.fixture
def folder(recorded, tmp_path):
    """A folder of its own with the finished result."""
    path_of("depth", "smoke", tmp_path).write_bytes(path_of("depth", "smoke", recorded[0]).read_bytes())
    return tmp_path


def test_what_is_left_is_told_from_what_it_took(tmp_path, monkeypatch):
    """Four units; a unit's work is as its depth, 2, 2, 3, 3 times 1; each takes 10 s a unit of depth."""
    plan, clock = tiny(), [0.0]
    kind = type(suite_of(plan))
    monkeypatch.setattr(runner.time, "monotonic", lambda: clock[0])
    real = kind.run_unit

    def take(self, plan, unit, *rest):
        clock[0] += 10.0 * unit.what[2]
        return real(self, plan, unit, *rest)

    monkeypatch.setattr(kind, "run_unit", take)
    lines = []
    run(plan, "smoke", folder=tmp_path, progress=lines.append)
    assert lines[0].endswith("20 s; 20 % done, about 1 min 20 s left")
    assert lines[2].endswith("30 s; 70 % done, about 0 min 30 s left")


def test_a_live_run_checks_its_device():
    with pytest.raises(ValueError, match="device='foo'"):
        live(tiny(), device="foo")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_librarys_own_checkout(tmp_path):
    """Not of a project that holds the environment in which the library is installed."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "somebody's project")
    installed = tmp_path / "venv" / "site-packages"
    installed.mkdir(parents=True)
    assert runner._commit(installed) == "unknown" and runner._commit(tmp_path / "absent") == "unknown"
    assert runner._commit(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
