"""Experiments on unstable training: what every run carries, resuming, what each method does, and the verdict."""

import json
from dataclasses import replace

import pytest

from pso_lib.experiments import (
    ResultError,
    experiment,
    live,
    load,
    names,
    run,
    select,
    without_timings,
)
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.instability import workload_of
from pso_lib.experiments.instability_plans import names as unstable_names
from pso_lib.experiments.record import path_of
from pso_lib.experiments.registry import suite_of
from pso_lib.experiments.schema import INSTABILITY as SCHEMA
from pso_lib.experiments.suite import Sources

METHODS = ("plain", "pss_clip", "random_times", "halve", "stable_rank")


@pytest.fixture(scope="module")
def tiny():
    """The MLP of the controls, with five methods, at a rate at which the detector fires."""
    plan = experiment("pss_controls", "smoke")
    workload = replace(next(p for p in plan.workloads if p.name == "mlp"), steps=24, methods=METHODS)
    return replace(plan, workloads=(workload,), rates=(0.3,), detector=(3, 1))


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, run(tiny, "smoke", folder=folder, progress=lambda line: None)


# ------------------------------------------------------------------------------------------- the plans


def test_a_patient_brings_its_optimizer(tiny):
    adamw = replace(tiny.workloads[0], methods=("plain",))
    one = replace(tiny, seeds=1, curve=adamw.steps)
    both = [live(replace(one, workloads=(p,)), device="cpu") for p in (replace(adamw, optimizer="sgd"), adamw)]
    assert both[0][0]["curve"]["loss"][0] == both[1][0]["curve"]["loss"][0]  # one start, one first batch
    assert both[0][0]["final_loss"] != both[1][0]["final_loss"]


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_the_patients_can_be_built(scale):
    from pso_lib.data import load as load_images
    from pso_lib.data.text import load_text

    class Bundled(Sources):
        def images(self, name):
            return load_images("digits")

        def text(self, name):
            return load_text("topics")

    sizes = {}
    for name in unstable_names():
        for workload in experiment(name, scale).workloads:
            task = workload_of(workload, Bundled())
            assert task.name == workload.name
            if workload.name not in sizes:
                sizes[workload.name] = sum(p.numel() for p in task.model(0).parameters())
    assert scale == "quick" or 0.9e6 < sizes["transformer_1m"] < 1.2e6 and sizes["transformer"] < 0.3e6


# ----------------------------------------------------------------------------------------------- results


def test_every_run_carries_what_is_promised(recorded):
    folder, result = recorded
    assert load("pss_controls", "smoke", folder) == json.loads(json.dumps(result)) and result["kind"] == "instability"
    assert len(result["runs"]) == 5 * 2
    for one in result["runs"]:
        assert {"model", "method", "lr", "seed", "exploded", "final_loss", "triggers", "overhead"} <= one.keys()
        assert len(one["curve"]["loss"]) == len(one["curve"]["steps"]) <= 5
        assert len(one["watched"]["stable_rank"]) == len(one["watched"]["steps"]) >= 3
        assert all(1 <= rank <= 8 for rank in one["watched"]["stable_rank"])
        assert len(one["recovery"]) == len(one["triggers"]) or one["method"] == "plain"
    assert (
        select(result, method="pss_clip", seed=1)[0]["triggers"]
        == select(result, method="pss_clip", seed=1)[0]["would_fire"]
    )
    assert {r["method"] for r in select(result, model="mlp")} == set(METHODS)
    with pytest.raises(ValueError, match="'arm'"):
        select(result, arm="plain")


def test_the_paper_fires_here_and_random_times_are_as_many(recorded):
    result = recorded[1]
    counts = {m: [len(r["triggers"]) for r in select(result, method=m)] for m in METHODS}
    assert sum(counts["pss_clip"]) > 0 and counts["random_times"] == counts["pss_clip"] and counts["plain"] == [0, 0]
    for one in select(result, method="plain"):  # until it first acts, the guard changes nothing
        guarded = select(result, method="pss_clip", seed=one["seed"])[0]
        assert one["would_fire"][:1] == guarded["triggers"][:1]


def test_the_same_seeds_give_the_same_record_twice(recorded, tiny, tmp_path):
    again = run(tiny, "smoke", folder=tmp_path, progress=lambda line: None)
    assert without_timings(again) == without_timings(recorded[1])
    assert again["runs"] != recorded[1]["runs"]  # by the timings alone
    assert not set(SCHEMA.timings) & set(without_timings(again)["runs"][0])


def test_an_interrupted_run_goes_on_and_ends_the_same(recorded, tiny, tmp_path):
    class Stop(Exception):
        pass

    units = suite_of(tiny).units(tiny)
    assert [unit.key for unit in units][-1] == "mlp/lr=0.3/random_times"  # after what it matches

    def stop_before_the_last(line, done=[]):  # noqa: B006
        done.append(line)
        if len(done) == 4:
            raise Stop

    with pytest.raises(Stop):
        run(tiny, "smoke", folder=tmp_path, progress=stop_before_the_last)
    lines = []
    resumed = run(tiny, "smoke", folder=tmp_path, progress=lines.append)
    assert len(lines) == 2 and without_timings(resumed) == without_timings(recorded[1])


def test_live_is_the_same(tiny):
    plan = replace(tiny, methods=tuple(m for m in tiny.methods if m.name in ("pss_clip", "random_times")), seeds=1)
    plan = replace(plan, workloads=(replace(plan.workloads[0], methods=()),))
    assert [(r["method"], len(r["triggers"]) > 0) for r in live(plan, device="cpu")] == [
        ("pss_clip", True),
        ("random_times", True),
    ]
    alone = replace(plan, methods=plan.methods[1:])
    with pytest.raises(ValueError, match="as often as 'pss_clip'.*keep both"):
        live(alone, device="cpu")


def test_fewer_seeds_are_said_and_epochs_refused(tiny, tmp_path):
    plan = replace(tiny, workloads=(replace(tiny.workloads[0], methods=("plain",)),))
    result = run(plan, "smoke", folder=tmp_path, seeds=1, progress=lambda line: None)
    assert result["configuration"]["seeds"] == 1 and result["provenance"]["protocol_seeds"] == 2
    with pytest.raises(ValueError, match="no epochs to change.*'instability'"):
        run(plan, "smoke", folder=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="seeds must be an integer of at least 1"):
        run(plan, "smoke", folder=tmp_path, seeds=0)


@pytest.mark.parametrize(
    "damage, part",
    [
        (lambda r: r.update(kind="magic"), "its kind 'magic' is unknown"),
        (lambda r: r["runs"][3].pop("final_loss"), "run 3: 'final_loss' is missing"),
        (lambda r: r["runs"][0].update(exploded="no"), "run 0: 'exploded'"),
        (lambda r: r["runs"][0]["curve"]["steps"].append(10**6), "steps and its loss differ"),
    ],
)
def test_a_damaged_file_is_refused(recorded, tmp_path, damage, part):
    result = json.loads(json.dumps(recorded[1]))
    damage(result)
    path_of("pss_controls", "smoke", tmp_path).write_text(json.dumps(result))
    with pytest.raises(ResultError) as caught:
        load("pss_controls", "smoke", tmp_path)
    assert part in str(caught.value)


def test_command_line(recorded, capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names()) and "stable_learning_rate" in listed
    assert main(["show", "pss_controls", "--scale", "smoke", "--out", str(recorded[0])]) == 0
    shown = capsys.readouterr().out
    assert "random_times" in shown and "lr = 0.3" in shown and "mlp" in shown
    assert main(["run", "pss_controls", "--scale", "smoke", "--out", str(recorded[0]), "--epochs", "1"]) == 2
    assert "no epochs" in capsys.readouterr().err
