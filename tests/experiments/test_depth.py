"""Named experiments: run, interrupted, resumed, recorded, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pso_lib import plots
from pso_lib.experiments import (
    ResultError,
    experiment,
    live,
    load,
    names,
    record,
    run,
    select,
    source,
)
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.record import Journal, path_of, write


@pytest.fixture(scope="module")
def tiny():
    """Two arms of each type, two depths, digits: seconds."""
    whole = experiment("depth", "smoke")
    arms = tuple(arm for arm in whole.arms if arm.name in ("he", "shared", "he_residual", "independent_folds"))
    return replace(whole, arms=arms, depths=(2, 3), seeds=2, epochs=0.4)


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    lines = []
    result = run(tiny, "smoke", folder=folder, progress=lines.append)
    return folder, result, lines


@pytest.mark.parametrize("path", sorted(record.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_recorded_result_is_valid(path):
    name, scale = path.stem.split(".")
    result = load(name, scale)
    assert result["configuration"]["name"] == name and len(result["runs"]) > 0


def test_a_result_is_complete(recorded, tiny):
    folder, result, lines = recorded
    assert load("depth", "smoke", folder) == json.loads(json.dumps(result))
    runs = result["runs"]
    assert len(runs) == 4 * 2 * 2
    for arm in tiny.arms:
        for depth in tiny.depths:
            assert [r["seed"] for r in select(result, arm=arm.name, depth=depth)] == [0, 1]
    assert {c["lr"] for c in result["choosing"]} == set(tiny.rates)
    for r in runs:  # the rate is the one with the best held-out accuracy
        tried = [c for c in result["choosing"] if (c["arm"], c["depth"]) == (r["arm"], r["depth"])]
        assert r["lr"] == max(tried, key=lambda c: c["held_out_accuracy"])["lr"]
        assert len(r["curve"]["loss"]) == len(r["curve"]["test_accuracy"]) - 1
    assert result["provenance"]["data"] == ["digits (scikit-learn), 1,437/360"]
    assert any("left" in line for line in lines)
    assert not list(folder.glob("*.journal.jsonl")) and not list(folder.glob(".*"))


def test_an_interrupted_run_goes_on_and_ends_the_same(recorded, tiny, tmp_path):
    class Stop(Exception):
        pass

    def stop_after_the_first(line):
        raise Stop

    with pytest.raises(Stop):
        run(tiny, "smoke", folder=tmp_path, progress=stop_after_the_first)
    lines = []
    resumed = run(tiny, "smoke", folder=tmp_path, progress=lines.append)
    assert len(lines) == 4  # three units were left, and the file was written
    assert resumed["runs"] == recorded[1]["runs"] and resumed["choosing"] == recorded[1]["choosing"]


@pytest.mark.slow
def test_kill_minus_nine_loses_one_unit_at_most(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "pso_lib.experiments", "run", "depth", "--scale", "smoke"]
    command += ["--out", str(tmp_path)]
    journal = path_of("depth", "smoke", tmp_path).with_suffix(".journal.jsonl")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    for _ in range(600):
        if journal.exists() and len(journal.read_bytes().splitlines()) >= 3:  # the head and two units
            break
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with journal.open("ab") as file:
        file.write(b'{"unit": "digits/A/L=9", "runs": [')  # what a kill in the middle of a write leaves
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    units = [line for line in out.splitlines() if " left" in line]
    assert len(units) <= 4  # of six
    assert len(load("depth", "smoke", tmp_path)["runs"]) == 12 * 3 * 2


def test_a_journal_of_another_configuration_is_refused(tiny, tmp_path):
    path = tmp_path / "x.journal.jsonl"
    Journal(path, tiny, "smoke").add("u", {"runs": []})
    assert Journal(path, tiny, "smoke").units.keys() == {"u"}
    with pytest.raises(ResultError, match="another configuration.*Move"):
        Journal(path, replace(tiny, epochs=9), "smoke")
    path.write_bytes(b"not json\n")
    with pytest.raises(ResultError, match="damaged.*Move"):
        Journal(path, tiny, "smoke")


@pytest.mark.parametrize(
    "damage, part",
    [
        (lambda r: r.pop("format"), "not written by pso_lib.experiments"),
        (lambda r: r.update(version=99), "version is 99"),
        (lambda r: r.pop("provenance"), "'provenance' is missing"),
        (lambda r: r.update(runs=[]), "no runs"),
        (lambda r: r["runs"][1].pop("lr"), "run 1: 'lr'"),
        (lambda r: r["runs"][0].update(test_accuracy=1.5), "'test_accuracy' is 1.5"),
        (lambda r: r["runs"][0]["curve"]["steps"].append(7), "differ in number"),
        (lambda r: r.update(experiment="ends"), "renamed"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(recorded, tmp_path, damage, part):
    result = json.loads(json.dumps(recorded[1]))
    damage(result)
    path_of("depth", "smoke", tmp_path).write_text(json.dumps(result))
    with pytest.raises(ResultError) as caught:
        load("depth", "smoke", tmp_path)
    assert part in str(caught.value)


def test_a_truncated_or_missing_file_names_the_command(tmp_path):
    with pytest.raises(ResultError, match="python -m pso_lib.experiments run depth --scale full"):
        load("depth", "full", tmp_path)
    path_of("depth", "full", tmp_path).write_text('{"format": ')
    with pytest.raises(ResultError, match="damaged.*run depth"):
        load("depth", "full", tmp_path)


def test_an_invalid_result_never_replaces_a_good_one(recorded, tmp_path):
    path = path_of("depth", "smoke", tmp_path)
    write(path, recorded[1])
    before = path.read_bytes()
    with pytest.raises(ResultError):
        write(path, recorded[1] | {"runs": []})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_select_refuses_unknown_fields(recorded):
    with pytest.raises(ValueError, match="'depht'"):
        select(recorded[1], depht=2)


def test_command_line(recorded, capsys):
    folder = recorded[0]
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names())
    assert main(["show", "depth", "--scale", "smoke", "--out", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "shared" in shown and "L = 3" in shown and "digits" in shown
    assert main(["show", "depth", "--scale", "full", "--out", str(folder)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["run", "dept", "--out", str(folder)]) == 2
    assert "Did you mean 'depth'" in capsys.readouterr().err


def test_the_main_arms_have_a_style():
    for arm in experiment("depth").arms:
        if arm.layer == "A":
            plots.method_style(arm.name)


def test_a_live_run_equals_the_recorded_one(tmp_path):
    plan = experiment("learning_rate", "smoke")
    plan = replace(plan, depths=plan.depths[:1])
    assert live(plan, device="cpu") == run(plan, "smoke", folder=tmp_path, progress=lambda line: None)["runs"]


def test_fewer_epochs_are_said_in_the_result(tmp_path, capsys):
    plan = replace(experiment("learning_rate", "smoke"), depths=(3,))
    result = run(plan, "smoke", folder=tmp_path, epochs=0.25, progress=lambda line: None)
    assert result["configuration"]["epochs"] == 0.25 and result["provenance"]["protocol_epochs"] == 0.5
    assert {r["epochs"] for r in result["runs"]} == {0.25}
    main(["show", "learning_rate", "--scale", "smoke", "--out", str(tmp_path)])
    assert "0.25 epochs (the protocol has 0.5)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="epochs must be a finite number above 0"):
        run(plan, "smoke", folder=tmp_path, epochs=0)


def test_source_names_data_and_the_command_with_what_was_changed():
    deep = source(load("depth"))
    assert "MNIST" in deep and "run depth --scale full --epochs 3" in deep
