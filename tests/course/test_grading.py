"""A folder is graded in order, goes on where it was stopped, and an oracle's own failure is told to the instructor."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sample_course import BRIEF, REASONS, SAMPLE, SECRET, brief, right, sample, with_answers

import pso_lib
from pso_lib.course import grading, judging, worker
from pso_lib.course.__main__ import main
from pso_lib.course.assignment import Case, CourseError, Exercise, Judgement, read
from pso_lib.course.grading import Journal, grade
from pso_lib.course.notebook import make
from pso_lib.course.sandbox import WorkerEnded, choose, why_not


def folder_of(tmp_path, **files):
    (tmp_path / "in").mkdir(exist_ok=True)
    for name, text in files.items():
        (tmp_path / "in" / f"{name}.py").write_text(text)
    return sorted((tmp_path / "in").iterdir())


def run(tmp_path, files, assignment=None, **options):
    said = []
    found = grade(assignment or brief(), files, tmp_path / "in", SECRET, tmp_path / "out", say=said.append, **options)
    return {one.file: one for one in found}, said


@pytest.mark.slow
def test_the_second_run_asks_nobody_and_a_change_is_graded_anew(tmp_path, monkeypatch):
    files = folder_of(tmp_path, a=right(), b=right("bob"))
    first, said = run(tmp_path, files, jobs=2)
    assert sorted(said) == ["a.py: 15 of 15 points", "b.py: 15 of 15 points"]
    lines = (tmp_path / "out" / "graded.jsonl").read_text().splitlines()
    assert len(lines) == 2 * len(BRIEF)

    def nobody(mode):
        raise AssertionError("a sandbox was started")

    monkeypatch.setattr(grading, "Worker", nobody)
    again, _ = run(tmp_path, files)
    assert again == first
    monkeypatch.undo()
    files[0].write_text(with_answers(pieces="return 1"))
    changed, _ = run(tmp_path, files)
    assert changed["a.py"].points == 13 and changed["b.py"] == first["b.py"]
    assert len((tmp_path / "out" / "graded.jsonl").read_text().splitlines()) == 3 * len(BRIEF)


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path):
    files = folder_of(tmp_path, a=right(), b=with_answers("bob", pieces="import time\ntime.sleep(60)"))
    code = (
        "import sys; sys.path[:0] = {paths}\n"
        "from pathlib import Path\nfrom sample_course import SECRET, brief\nfrom pso_lib.course.grading import grade\n"
        "if __name__ == '__main__':\n"
        "    grade(brief(), {files}, Path({folder!r}), SECRET, Path({out!r}))\n"
    ).format(
        paths=[str(SAMPLE.parents[1]), *sys.path],
        files=f"[Path(p) for p in {[str(path) for path in files]}]",
        folder=str(tmp_path / "in"),
        out=str(tmp_path / "out"),
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    journal, until = tmp_path / "out" / "graded.jsonl", time.monotonic() + 120
    while time.monotonic() < until and not (journal.exists() and journal.read_bytes().count(b"\n") >= 6):
        time.sleep(0.05)
    process.kill()
    process.wait()
    with open(journal, "ab") as file:
        file.write(b'{"key": "cut sho')
    before = journal.read_bytes()
    found, _ = run(tmp_path, files)
    assert found["a.py"].points == 15 and found["b.py"].points == 12
    assert journal.read_bytes().startswith(before + b"\n")
    assert all("result" in json.loads(line) for line in journal.read_text().splitlines() if "cut sho" not in line)


def fails(value):
    raise RuntimeError("a bug of the oracle")


def dies(value):
    os._exit(7)


def odd(value):
    return 1.0


def with_judge(judge, **more):
    one = sample()
    cases = [Case(1, (1.0,), judge, "the case")]
    exercise = Exercise(4, cases=lambda variant, rng: cases, seconds=5, **more)
    changed = {"activation": exercise}
    return type(one)(**{**one.__dict__, "exercises": changed})


@pytest.mark.slow
@pytest.mark.parametrize(
    "judge, points, remark",
    [
        (fails, 0, "activation: the oracle failed on an answer; see its log"),
        (dies, 0, "the judge's process ended: grade by hand, or with --regrade"),
        (odd, 0, "activation: the oracle failed on an answer; see its log"),
        (lambda value: Judgement(0.4, "half of it"), 1.6, None),
        (lambda value: Judgement(float("nan"), "no share"), 0, None),
        (lambda value: Judgement(7.0), 4, None),
        (lambda value: None, 4, None),
    ],
)
def test_judges(tmp_path, judge, points, remark):
    found, _ = run(tmp_path, folder_of(tmp_path, a=right()), with_judge(judge))
    result = found["a.py"].results["activation"]
    assert result["points"] == pytest.approx(points) and result["remarks"] == ([remark] if remark else [])
    again, _ = run(tmp_path, folder_of(tmp_path, a=right()), with_judge(judge))
    assert again["a.py"].points == found["a.py"].points


@pytest.mark.slow
def test_a_judge_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "JUDGING", 0.3)

    def slow(value):
        while True:
            time.sleep(0.01)

    found, _ = run(tmp_path, folder_of(tmp_path, a=right()), with_judge(slow))
    assert found["a.py"].results["activation"]["remarks"]
    assert "a judge took more than 0.3 seconds" in (tmp_path / "out/logs/a.py/activation.log").read_text()


SETTINGS = """
import torch
from mpmath import mp
torch.set_default_dtype(torch.float64)
mp.dps = 400
EPS = 10**-12
NOISE = torch.randn(3)
for LIMIT in range(3):
    pass
def signed_distance():
    return [mp.dps, EPS, NOISE.tolist()]
def fold():
    return LIMIT
"""


@pytest.mark.slow
def test_settings_are_taken_and_a_name_that_grading_lacks_is_told(tmp_path):
    generator = torch.Generator().manual_seed(0)
    right = [400, 1e-12, torch.randn(3, dtype=torch.float64, generator=generator).tolist()]
    case = Case(1, (), lambda value: Judgement(value == right), "settings")
    exercises = {name: Exercise(4, cases=lambda variant, rng: [case]) for name in ("signed_distance", "fold")}
    found, _ = run(tmp_path, folder_of(tmp_path, a=SETTINGS), replace(brief(), exercises=exercises))
    results = found["a.py"].results
    assert results["signed_distance"]["points"] == 4 and results["fold"]["points"] == 0
    said = results["fold"]["cases"][0]["message"]
    assert "'LIMIT'" in said and "your file, line 8 gives it, which is not run for grading" in said
    assert results["fold"]["remarks"] == ["fold: no name 'LIMIT' when graded"]


def test_settings_that_take_long_are_given_up_together(monkeypatch, capsys):
    monkeypatch.setattr(worker, "SETTING", 0.05)
    before = signal.getsignal(signal.SIGVTALRM)
    slow = "A = sum(1 for _ in range(10**12))\nB = sum(1 for _ in range(10**12))\ndef f():\n    return A"
    try:
        function, reason = worker._function({"cells": [["cell 1", slow, [0, 1, 2]]], "function": "f"})
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert reason is None and not {"A", "B"} & function.__globals__.keys()
    assert capsys.readouterr().err.count("took more than 0.05 seconds") == 2


def test_a_process_that_does_not_start_stops_the_run_and_is_no_students_fault(tmp_path, monkeypatch):
    def never(mode):
        raise WorkerEnded("No module named pso_lib")

    monkeypatch.setattr(grading, "Worker", never)
    with pytest.raises(CourseError, match="no process starts in it: No module named pso_lib"):
        run(tmp_path, folder_of(tmp_path, a=right()), mode="plain")
    journal = tmp_path / "out" / "graded.jsonl"
    assert not journal.exists() or not journal.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [name for name, why in REASONS.items() if not why])
def test_the_library_may_lie_in_the_folder_that_the_sandbox_hides(mode):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copytree(Path(pso_lib.__file__).parent, Path(folder) / "pso_lib")
        code = (
            f"import sys; sys.path[:0] = [{folder!r}]; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' "
            "not in str(f)]; import pso_lib; print(pso_lib.__file__); from pso_lib.course.sandbox import *; "
            f"print(why_not({mode!r})); Worker({mode!r}).close()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and done.stdout.splitlines() == [f"{folder}/pso_lib/__init__.py", ""], done


def test_what_belongs_to_nobody_is_not_graded_and_what_has_changed_is_told(tmp_path):
    blank = make(brief(), SECRET, "ada")
    text = json.dumps(blank)
    old = make(brief(), b"a secret that was lost", "ada")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "new_notebook.ipynb").write_text(json.dumps(old))
    (tmp_path / "in" / "ada_old.ipynb").write_text(json.dumps(old))
    (tmp_path / "in" / "ada.ipynb").write_text(text)
    found, said = run(tmp_path, sorted((tmp_path / "in").iterdir()), roster=["ada", "bob"])
    assert found["new_notebook.ipynb"].problem == "whose is it? Put the ID into its name."
    assert found["new_notebook.ipynb"].results == {}
    assert found["ada.ipynb"].remarks == []
    changed = "made for another variant: the assignment or the secret has changed since"
    assert found["ada_old.ipynb"].remarks == ["its stamp was not made with this secret", changed]
    stamped = "its stamp was not made with this secret"
    assert sorted(said) == [
        "ada.ipynb: 0 of 15 points",
        f"ada_old.ipynb: 0 of 15 points ({stamped})",
        f"new_notebook.ipynb: whose is it? Put the ID into its name. ({stamped})",
    ]


def test_an_oracle_without_cases_is_refused_before_anything_is_graded(tmp_path):
    shutil.copytree(SAMPLE / "s1", tmp_path / "s1")
    path = tmp_path / "s1" / "oracle.py"
    path.write_text(path.read_text().replace("cases=pieces_cases, ", ""))
    with pytest.raises(CourseError, match="'pieces' needs cases"):
        run(tmp_path, folder_of(tmp_path, a=right()), read("s1", tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_sandbox_that_is_not_there(monkeypatch):
    why_not.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(shutil, "which", lambda *args, **options: None)
    assert why_not("bubblewrap") == "bwrap is not installed" and choose() == "plain"
    with pytest.raises(CourseError, match="--sandbox unshare does not work here: unshare, setpriv"):
        choose("unshare")
    why_not.cache_clear()


def test_the_journal_passes_over_what_is_damaged(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    assert journal.read() == {}
    journal.write("k", "a.py", "f", {"points": 1})
    journal.path.write_bytes(journal.path.read_bytes() + b'\xff{"key"\n[]\n{"key": 3}\n{"ke')
    journal.write("l", "a.py", "g", {"points": 2})
    assert journal.read() == {"k": {"points": 1}, "l": {"points": 2}}


# ---- the command line ----
def command(tmp_path, *words):
    return main([words[0], "s1", "--assignments", str(SAMPLE), *map(str, words[1:])])


@pytest.mark.slow
def test_from_handing_out_to_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("roster.csv").write_text("student,due\nada,\nbob,2030-01-01\ncy,\n")
    solutions = SAMPLE / "solutions"
    assert command(tmp_path, "make", "--roster", "roster.csv", "--solutions", solutions) == 0
    assert sorted(path.name for path in Path("handout").rglob("*.ipynb")) == sorted(
        ["s1-ada.ipynb", "s1-bob.ipynb", "s1-cy.ipynb"]
    )
    assert Path(".course-secret").stat().st_mode & 0o077 == 0
    Path("in/one two").mkdir(parents=True)
    shutil.copy("handout/s1-ada.ipynb", "in/one two/Notebook (1).ipynb")
    shutil.copy("handout-solutions/s1-bob.ipynb", "in/x.ipynb")
    Path("in/scan.pdf").write_text("no code")
    for path in Path("in").rglob("*.ipynb"):
        os.utime(path, (1.8e9, 1.8e9))  # January 2027
    words = ["grade", "in", "--roster", "roster.csv", "--late", "10%/day", "--due", "2027-01-14T00:00", "--jobs", "2"]
    assert command(tmp_path, *words) == 0
    said = capsys.readouterr()
    assert not [path for path in Path("feedback").iterdir() if path.suffix != ".md"]  # it can be handed out whole
    assert Path("feedback-private/graded.jsonl").exists()
    assert "nothing from cy" in said.out and "x.ipynb: 18 of 18 points" in said.out and "scan.pdf" in said.err
    table = Path("grades.csv").read_text()
    assert "x.ipynb,bob,4,4,4,3,3,,,18,,,defines VARIANT" in table
    assert ",ada,0,0,0,0,0,,,0,0.8,,late by 2 days" in table and "\n,cy,0,0,0,0,0,,,0,,,nothing handed in" in table
    pages = {path.name: path.read_text() for path in Path("feedback").glob("*.md")}
    assert (
        "no answer yet" in pages["ada.one_two_Notebook_1_.ipynb.md"]
        and "**18 of 20 points**" in pages["bob.x.ipynb.md"]
    )
    assert command(tmp_path, "similar", "in", "--public", solutions) == 0
    assert "x.ipynb  ~" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["grade", "in"], "--secret-file .course-secret is not there"),
        (["grade", "in", "--secret-file", "short"], "at least 16 characters"),
        (["grade", "nowhere", "--secret-file", "secret"], "nowhere is no folder"),
        (["grade", "empty", "--secret-file", "secret"], "holds neither notebooks nor Python files"),
        (["grade", "in", "--secret-file", "secret", "--late", "10%/day"], "needs a date"),
        (["grade", "in", "--secret-file", "secret", "--oracle", "none.py"], "none.py is missing"),
        (["make", "--solutions", "none.py"], "--solutions none.py is not there"),
        (["make", "--roster", "none.csv"], "--roster none.csv: No such file"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("empty").mkdir()
    Path("in/a.py").write_text("x = 1")
    Path("short").write_text("short")
    Path("secret").write_text("a secret that is long enough")
    assert command(tmp_path, *words) == 2
    assert said in capsys.readouterr().err
    assert not Path("grades.csv").exists() and not Path("feedback").exists() and not Path(".course-secret").exists()
