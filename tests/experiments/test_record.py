"""Records and journals: nothing is overwritten, lost or left out without a word; reading one is light."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_plan
from tiny_plan import quiet, tiny

from pso_lib.experiments import ResultError, experiment, load, record, run
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.record import Journal, path_of
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


def journal_of(folder: Path) -> Path:
    return path_of("depth", "smoke", folder).with_suffix(".journal.jsonl")


def stop_after(units: int):
    """A ``progress`` that interrupts after so many units."""
    seen = []

    def stop(line):
        seen.append(line)
        if len(seen) == units:
            raise KeyboardInterrupt

    return stop


# ------------------------------------------------------------------------------- finished is finished


def test_a_finished_experiment_is_not_run_again(folder, recorded, monkeypatch):
    path, lines = path_of("depth", "smoke", folder), []
    before = path.read_bytes(), path.stat().st_mtime_ns
    monkeypatch.setattr(type(suite_of(tiny())), "run_unit", lambda *a: pytest.fail("it ran"))
    assert run(tiny(), "smoke", folder=folder, progress=lines.append) == recorded[1]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert len(lines) == 1 and "recorded already" in lines[0] and "--again" in lines[0]
    assert os.listdir(folder) == [path.name]


def test_again_runs_it_and_replaces_the_result_at_the_end(folder, recorded):
    path, lines = path_of("depth", "smoke", folder), []
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), "smoke", folder=folder, again=True, progress=stop_after(1))
    assert path.read_bytes() == before and journal_of(folder).exists()
    result = run(tiny(), "smoke", folder=folder, again=True, progress=lines.append)
    assert len(lines) == 4  # three units were left, and the file was written
    assert result["runs"] == recorded[1]["runs"] and os.listdir(folder) == [path.name]


def test_again_does_not_take_the_journal_of_the_finished_run_for_its_own(folder, recorded):
    """A kill between the writing of the result and the removal of the journal leaves both."""
    with Journal(journal_of(folder), tiny(), "smoke") as journal:
        for unit in suite_of(tiny()).units(tiny()):
            runs = [r for r in recorded[1]["runs"] if (r["layer"], r["depth"]) == unit.what[1:]]
            journal.add(unit.key, {"runs": runs, "choosing": [], "data": "x", "seconds": 1.0})
    lines = []
    run(tiny(), "smoke", folder=folder, again=True, progress=lines.append)
    assert len(lines) == 5


def test_a_result_of_another_configuration_is_never_overwritten(folder):
    path = path_of("depth", "smoke", folder)
    before = path.read_bytes()
    with pytest.raises(ResultError, match="another configuration of 'depth'.*--again"):
        run(tiny(epochs=0.3), "smoke", folder=folder, progress=quiet)
    path.write_bytes(before[:-20])
    with pytest.raises(ResultError, match="damaged"):
        run(tiny(), "smoke", folder=folder, progress=quiet)
    assert path.read_bytes() == before[:-20] and os.listdir(folder) == [path.name]


# --------------------------------------------------------------------------------- several processes


def _compete(folder: str, results) -> None:
    try:
        run(tiny(), "smoke", folder=Path(folder), progress=quiet)
        results.put("finished")
    except ResultError as error:
        results.put("held" if "held by another process" in str(error) else repr(error))
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.slow
def test_processes_that_run_the_same_experiment(tmp_path, recorded):
    """One works, the others are told so, or find the result; whoever comes, it is whole."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_compete, args=(str(tmp_path), results)) for _ in range(3)]
    for process in processes:
        process.start()
    said = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert "finished" in said and set(said) <= {"finished", "held"}
    assert load("depth", "smoke", tmp_path)["runs"] == recorded[1]["runs"]
    assert os.listdir(tmp_path) == [path_of("depth", "smoke", tmp_path).name]


def test_a_journal_is_held_by_one_and_never_made_without_its_head(tmp_path):
    path = tmp_path / "x.journal.jsonl"
    first = Journal(path, tiny(), "smoke")
    with pytest.raises(ResultError, match="held by another process"):
        Journal(path, tiny(), "smoke")
    path.unlink()  # what another process does that finishes
    first.add("u", {"runs": [{}]})
    assert not path.exists()
    second = Journal(path, tiny(), "smoke")
    assert json.loads(path.read_text())["format"] == record.FORMAT + " journal" and not second.units
    second.finish(), first.finish()  # removed already
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------- damaged journals


def test_without_locks_a_journal_is_a_journal_all_the_same(tmp_path, monkeypatch, recorded):
    """As on Windows: processes are not kept apart, and each one's work is whole."""
    monkeypatch.setattr(record, "fcntl", None)
    path = tmp_path / "x.journal.jsonl"
    first, second = Journal(path, tiny(), "smoke"), Journal(path, tiny(), "smoke")
    first.add("u", {"runs": []}), second.add("v", {"runs": []}), first.close()
    with Journal(path, tiny(), "smoke") as third:
        assert third.units.keys() == {"u", "v"}
        third.clear()
        assert not third.units
        third.add("w", {"runs": []})
    with Journal(path, tiny(), "smoke") as fourth:
        assert fourth.units.keys() == {"w"}
        fourth.finish()
    assert run(tiny(), "smoke", folder=tmp_path, progress=quiet)["runs"] == recorded[1]["runs"]


def test_a_cut_line_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "x.journal.jsonl"
    with Journal(path, tiny(), "smoke") as journal:
        journal.add("u", {"runs": []})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"unit": "v", "ru')
    with Journal(path, tiny(), "smoke") as journal:
        assert journal.units.keys() == {"u"} and path.read_bytes() == whole
        journal.add("w", {"runs": []})
    with Journal(path, tiny(), "smoke") as journal:
        assert journal.units.keys() == {"u", "w"}


@pytest.mark.parametrize(
    "line",
    [
        *(b"[]", b"5", b"null", b'"text"', b"{}", b"\xff", b"", b"{"),
        *(b'{"unit": 3, "runs": []}', b'{"unit": "u"}', b'{"unit": "u", "runs": [5, null]}'),
        *(b'{"unit": "u", "runs": [], "seconds": NaN}', b'{"unit": "u", "runs": [], "seconds": true}'),
        *(b'{"unit": "u", "runs": [], "seconds": -1}', b'{"unit": "u", "runs": [], "data": 7}'),
    ],
)
def test_odd_lines_are_refused(tmp_path, line):
    path = tmp_path / "x.journal.jsonl"
    Journal(path, tiny(), "smoke").close()
    before = path.read_bytes() + line + b"\n"
    path.write_bytes(before)
    with pytest.raises(ResultError, match=r"x.journal.jsonl is damaged: .*Move"):
        Journal(path, tiny(), "smoke")
    assert path.read_bytes() == before
    with pytest.raises(ResultError, match="damaged"):  # the refused one does not hold it
        Journal(path, tiny(), "smoke")


def test_a_unit_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "x.journal.jsonl"
    with Journal(path, tiny(), "smoke") as journal:
        journal.add("u", {"runs": []}), journal.add("u", {"runs": [{}]})
    with pytest.raises(
        ResultError, match="line 3 is not a finished unit: the unit 'u' was there before. Remove the line"
    ):
        Journal(path, tiny(), "smoke")


def change_unit(path: Path, change) -> None:
    head, *lines = path.read_text().splitlines()
    part = json.loads(lines[0])
    change(part)
    path.write_text("\n".join([head, json.dumps(part), *lines[1:]]) + "\n")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda part: part.update(runs=[]), "0 runs in place of 2"),
        (lambda part: part["runs"].pop(), "1 runs in place of 2"),
        (lambda part: part["runs"][1].pop("lr"), "'lr' is missing"),
        (lambda part: part["runs"][0].update(width=-5), "'width' is -5"),
        (lambda part: part.pop("data"), "its data or its seconds"),
        (lambda part: part.update(unit="mnist/A/L=2"), "no unit 'mnist/A/L=2' in the plan"),
    ],
)
def test_a_unit_without_all_its_runs_is_not_accepted(tmp_path, change, words):
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), "smoke", folder=tmp_path, progress=stop_after(2))
    change_unit(journal_of(tmp_path), change)
    with pytest.raises(ResultError, match=f"{words}.*Remove its line"):
        run(tiny(), "smoke", folder=tmp_path, progress=quiet)


# ----------------------------------------------------------------------------------- results that lack


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda r: r.update(runs=r["runs"][: len(r["runs"]) // 2]),
            "4 of the 8 runs .* missing, digits/he/3/0/0.001 first",
        ),
        (lambda r: r["runs"].pop(3), "1 of the 8 runs"),
        (lambda r: r["runs"].append(r["runs"][0]), r"holds 1 run\(s\) that its configuration does not"),
        (lambda r: r["runs"][0].update(seed=7), "1 of the 8 runs of its configuration are missing"),
        (lambda r: r["configuration"].pop("seeds"), "not that of a plan .*seeds"),
        (lambda r: r["configuration"].update(arms=3), "not that of a plan"),
        (lambda r: r.update(kind=["depth"]), "kind .* is unknown"),
        (lambda r: r["runs"][0].update(curve={"steps": 3}), "curve"),
    ],
)
def test_a_result_without_all_its_runs_is_refused(folder, change, words, capsys):
    path = path_of("depth", "smoke", folder)
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))
    with pytest.raises(ResultError, match=words):
        load("depth", "smoke", folder)
    assert main(["show", "depth", "--scale", "smoke", "--out", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_one_run_a_line(folder, recorded):
    lines = path_of("depth", "smoke", folder).read_text().splitlines()
    runs = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"dataset"')]
    assert runs == json.loads(json.dumps(recorded[1]["runs"]))
    assert load("depth", "smoke", folder) == json.loads(json.dumps(recorded[1]))


def test_the_old_form_on_one_line_is_read(folder, recorded):
    path_of("depth", "smoke", folder).write_text(json.dumps(recorded[1]))
    assert load("depth", "smoke", folder)["runs"] == json.loads(json.dumps(recorded[1]["runs"]))


# ------------------------------------------------------------------------------ errors in one sentence


def refusal(arguments, capsys) -> str:
    assert main(["run", "learning_rate", "--scale", "smoke", *arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text and text.count("\n") == 1
    return text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--device", "foo"], "device='foo' cannot be used here"),
        (["--device", "cuda:99"], "device='cuda:99' cannot be used here"),
        (["--device", "meta"], "device='meta' holds no numbers"),
        (["--epochs", "inf"], "epochs must be a finite number above 0, got inf"),
        (["--epochs", "nan"], "epochs must be a finite number above 0, got nan"),
        (["--epochs", "-1"], "epochs must be"),
        (["--evaluations", "0"], "evaluations must be an integer"),
        (["--seeds", "3"], "learning_rate has no seeds to change"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, words):
    assert words in refusal([*arguments, "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


def test_out_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert f"{tmp_path / 'file'} is a file" in refusal(["--out", str(tmp_path / "file")], capsys)
    assert "file" in refusal(["--out", str(tmp_path / "file" / "below")], capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch, number):
    """By the error itself: who runs the tests as root may write everywhere."""

    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    text = refusal(["--out", str(tmp_path)], capsys)
    assert os.strerror(number) in text and str(tmp_path) in text and "--out" in text


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_keeps_what_is_finished(tmp_path, capsys, monkeypatch, after):
    """fsync fails, as it does on a full disk: at the head, at the first unit, at the second."""
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor)

    monkeypatch.setattr(record.os, "fsync", full)
    assert "No space left" in refusal(["--out", str(tmp_path)], capsys)
    (journal,) = tmp_path.glob("*.jsonl")
    assert len(journal.read_bytes().splitlines()) == after
    monkeypatch.undo()
    assert main(["run", "learning_rate", "--scale", "smoke", "--out", str(tmp_path)]) == 0
    load("learning_rate", "smoke", tmp_path)


def test_numpys_numbers_may_change_a_plan(tmp_path):
    plan = replace(tiny(), depths=(2,))
    result = run(plan, "smoke", folder=tmp_path, epochs=np.float32(0.25), evaluations=np.int64(1), progress=quiet)
    assert load("depth", "smoke", tmp_path) == json.loads(json.dumps(result))


# --------------------------------------------------------------------------------- provenance, weight


def test_reading_a_record_imports_neither_torch_nor_sympy():
    code = (
        "import sys\nfrom pso_lib.experiments.record import load, select, summary\n"
        "summary(select(load('depth'), depth=50), 'arm')\n"
        "print([m for m in ('torch', 'sympy', 'numpy', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_installed_package_reads_the_records_that_came_with_it(tmp_path, monkeypatch):
    """Results of one's own come first; nothing is written among the packaged ones."""
    packaged, own = tmp_path / "recorded", tmp_path / "results"
    packaged.mkdir()
    (packaged / "depth.full.json").write_bytes((record.RESULTS / "depth.full.json").read_bytes())
    monkeypatch.setattr(record, "RECORDED", packaged)
    monkeypatch.setattr(record, "RESULTS", own)
    assert record.load("depth")["experiment"] == "depth"
    assert record.path_of("depth", "full").parent == own
    with pytest.raises(record.ResultError, match="does not exist"):
        record.load("depth", folder=tmp_path / "elsewhere")
    own.mkdir()
    (own / "depth.full.json").write_text("{}")
    with pytest.raises(record.ResultError, match="not written by"):
        record.load("depth")


def test_the_wheel_holds_every_package_and_the_records():
    import tomllib

    settings = tomllib.loads((record.CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (record.CHECKOUT / "pso_lib").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(record.CHECKOUT).parts) for folder in folders}
    assert set(settings["packages"]) == packages | {"pso_lib.recorded"}
    assert settings["package-dir"] == {"pso_lib.recorded": "results"}


@pytest.mark.parametrize("text", ["my notes", "my notes\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, text):
    path = tmp_path / "notes.jsonl"
    path.write_text(text)
    with pytest.raises(ResultError, match="Move .* away"):
        Journal(path, experiment("depth", "smoke"), "smoke")
    assert path.read_text() == text
