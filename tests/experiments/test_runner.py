"""The runner: what is left is told, a live run checks its device, a result names the library's own commit.

What several sittings made says so, and what is unfinished disturbs nobody.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_plan
from tiny_plan import quiet, tiny

from pso_lib.experiments import ResultError, experiment, live, record, run, runner, source
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.record import path_of, without_timings
from pso_lib.experiments.registry import suite_of


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    return folder, tiny_plan.record(folder)


@pytest.fixture
def folder(recorded, tmp_path):
    """A folder of its own with the finished result."""
    tiny_plan.copy_record(recorded[0], tmp_path)
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


class Stop(Exception):
    pass


def stop(line: str) -> None:
    raise Stop


def test_a_later_commit_goes_on_where_an_earlier_one_stopped_and_the_record_says_so(recorded, tmp_path, monkeypatch):
    for commit, day in (("a" * 40, "2026-11-26"), ("b" * 40, "2026-12-01")):
        monkeypatch.setattr(runner, "_commit", lambda checkout, commit=commit: commit)
        monkeypatch.setattr(runner, "_today", lambda day=day: day)
        if commit[0] == "a":
            with pytest.raises(Stop):
                run(tiny(), "smoke", folder=tmp_path, progress=stop)
    result = run(tiny(), "smoke", folder=tmp_path, progress=quiet)
    sittings = result["provenance"]["sittings"]
    assert [(s["commit"], s["date"], s["units"]) for s in sittings] == [
        ("a" * 40, "2026-11-26", 1),
        ("b" * 40, "2026-12-01", 3),
    ]
    assert round(sum(s["seconds"] for s in sittings)) == result["provenance"]["seconds"]
    assert "2026-11-26 to 2026-12-01" in source(result | {"experiment": "depth"})
    assert "sittings" not in recorded[1]["provenance"]  # made in one go
    assert without_timings(result) == without_timings(recorded[1])


def test_an_unfinished_run_is_listed_and_disturbs_no_reader(tmp_path, monkeypatch, capsys):
    whole = experiment("depth_tuned", "smoke")
    with pytest.raises(Stop):
        run(whole, "smoke", folder=tmp_path, progress=stop)
    monkeypatch.setattr("pso_lib.experiments.record.RESULTS", tmp_path)
    assert main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("depth_tuned "))
    assert line.endswith("[smoke unfinished, 1 of 108 units]")  # three depths, twelve arms, three stages
    with pytest.raises(ResultError, match="does not exist"):
        record.load("depth_tuned", "smoke", tmp_path)


def test_journals_of_full_runs_are_kept_between_machines():
    """They may be committed; those of other scales may not, and no journal is packaged."""
    root = Path(__file__).resolve().parents[2]

    def ignored(name: str) -> bool:
        return subprocess.run(["git", "-C", str(root), "check-ignore", "-q", f"results/{name}"]).returncode == 0

    assert ignored("depth.quick.journal.jsonl") and not ignored("depth.full.journal.jsonl")
    assert '"pso_lib.recorded" = ["*.full.json"]' in (root / "pyproject.toml").read_text(encoding="utf8")


def test_a_search_without_its_rates_is_damaged(tmp_path):
    plan = experiment("depth_tuned", "smoke")
    unit = suite_of(plan).units(plan)[0].key
    with pytest.raises(Stop):
        run(plan, "smoke", folder=tmp_path, progress=stop)
    journal = path_of(plan.name, "smoke", tmp_path).with_suffix(".journal.jsonl")
    head = journal.read_text().partition("\n")[0]
    journal.write_text(head + "\n" + json.dumps({"unit": unit, "runs": [], "data": "digits", "seconds": 1}) + "\n")
    with pytest.raises(ResultError, match=f"damaged: unit '{unit}': its rates are missing"):
        run(plan, "smoke", folder=tmp_path, progress=quiet)


@pytest.mark.slow
def test_told_to_end_it_ends_at_once_and_goes_on_later(tmp_path):
    """SIGTERM in the middle of a unit: exit status and words of Ctrl-C, and whole lines in the journal."""
    command = [sys.executable, "-W", "ignore", "-m", "pso_lib.experiments", "run", "depth_tuned", "--scale", "smoke"]
    command += ["--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()  # the first unit is done
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on where it was" in said
    journal = path_of("depth_tuned", "smoke", tmp_path).with_suffix(".journal.jsonl").read_text()
    assert journal.endswith("\n") and all(json.loads(line) for line in journal.splitlines())
    done = record.units_done("depth_tuned", "smoke", tmp_path)
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.count(" left\n") == 108 - done
