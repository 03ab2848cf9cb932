"""Experiments on unstable training: what every run carries, resuming, what each method does, and the verdict."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from pso_lib.experiments import (
    ResultError,
    best_loss,
    experiment,
    live,
    load,
    names,
    run,
    select,
    summary,
    trained,
    training_rates,
    without_timings,
)
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.instability import workload_of
from pso_lib.experiments.instability_plans import names as unstable_names
from pso_lib.experiments.methods import CONTROLS, Method, baseline_of, times_of, trigger_of
from pso_lib.experiments.record import path_of
from pso_lib.experiments.recovery import RECOVERIES, Perturbed, regained
from pso_lib.experiments.registry import suite_of
from pso_lib.experiments.schema import INSTABILITY as SCHEMA
from pso_lib.experiments.suite import Sources
from pso_lib.smoothing import AtSteps, Detector, EnergyTrigger, StableRankTrigger

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


@pytest.mark.parametrize("name", unstable_names())
@pytest.mark.parametrize("scale", ["smoke", "quick", "full"])
def test_plans_are_plain_data_and_their_units_distinct(name, scale):
    plan = experiment(name, scale)
    assert json.loads(json.dumps(asdict(plan)))["name"] == name
    units = suite_of(plan).units(plan)
    assert len({unit.key for unit in units}) == len(units) and all(unit.work > 0 for unit in units)
    known = {method.name for method in plan.methods}
    assert len(known) == len(plan.methods)
    for workload in plan.workloads:
        assert set(workload.methods) <= known
        here = [method.name for method in plan.methods_of(workload)]
        assert all(method.matches in {*here, ""} for method in plan.methods_of(workload))
    assert plan.limits[0] == 1.5 and plan.margin == 0.1  # the same rules everywhere
    assert scale != "full" or plan.limits[1] == 100 and plan.seeds >= 3


def test_one_grid_and_all_methods_on_three_patients():
    plan = experiment("stable_learning_rate")
    named = {p.name: p for p in plan.workloads}
    offered = {name: {m.name for m in plan.methods_of(p)} for name, p in named.items()}
    for name in ("transformer", "mlp", "cnn"):
        assert not named[name].methods and not named[name].rates
    assert offered["transformer"] - offered["mlp"] == {"qk_norm"} and offered["mlp"] == offered["cnn"]
    assert named["mlp_sgd"].optimizer == "sgd" and offered["mlp"] - offered["mlp_sgd"] == {"muon"}


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


# ---------------------------------------------------------------------------------------------- methods


def test_triggers_are_what_the_method_says():
    made = {
        name: trigger_of(Method(name, trigger=name), 50, 30, [4])
        for name in ("norm", "stable_rank", "energy", "random")
    }
    assert isinstance(made["norm"], Detector) and (made["norm"].warmup, made["norm"].cooldown) == (50, 30)
    assert isinstance(made["stable_rank"], StableRankTrigger) and made["stable_rank"].detector.warmup == 5
    assert isinstance(made["energy"], EnergyTrigger) and isinstance(made["random"], AtSteps)
    with pytest.raises(ValueError, match="trigger='noise' is unknown"):
        trigger_of(Method("x", trigger="noise"), 50, 30)


def test_timetables():
    periodic, random = Method("p", trigger="periodic"), Method("r", trigger="random", matches="pss_clip")
    assert times_of(periodic, 350, 50, 0, 0) == [100, 200, 300] and times_of(periodic, 350, 100, 0, 0) == [200, 300]
    times = times_of(random, 350, 50, 7, 3)
    assert len(set(times)) == 7 and min(times) > 50 and max(times) <= 350 and times == sorted(times)
    assert times == times_of(random, 350, 50, 7, 3) != times_of(random, 350, 50, 7, 4)
    assert times_of(Method("n"), 350, 50, 7, 3) == []


def test_controls_differ_from_the_paper_in_one_thing():
    paper = Method("pss_clip")
    for method in CONTROLS:
        if not method.baseline:
            changed = {k for k, v in asdict(method).items() if v != getattr(paper, k)} - {"name"}
            what, when = changed & {"action", "halve"}, changed & {"trigger", "matches", "k"}
            assert not (what and when) or method.name == "stable_rank_shrink"


def test_peers_keep_the_name_of_the_method():
    assert baseline_of(Method("guarded", baseline="clip"), 5, 3).name == "guarded"
    with pytest.raises(ValueError, match="baseline='zap'"):
        baseline_of(Method("x", baseline="zap"), 5, 3)


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
        (lambda r: r["runs"][0]["curve"]["steps"].append(7), "steps and its loss differ"),
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


# ----------------------------------------------------------------------------------------------- verdict


def _run(method, lr, seed, final, exploded=False):
    return {"model": "m", "method": method, "lr": lr, "seed": seed, "final_loss": final, "exploded": exploded}


def test_the_verdict_counts_stalls_and_explosions():
    runs = [_run("a", 1e-3, s, 2.0 + 0.02 * s) for s in range(2)] + [
        _run("a", 1e-2, s, v) for s, v in enumerate((2.05, 2.2))
    ]
    runs += [
        _run("b", 1e-3, 0, 2.1),
        _run("b", 1e-3, 1, 1.0, True),
        _run("b", 1e-2, 0, None, True),
        _run("b", 1e-2, 1, 2.0),
    ]
    assert best_loss(runs, "m") == pytest.approx(2.01)  # a cell with an explosion does not compete
    assert trained(runs) == [True, True, True, False, True, False, False, True]
    assert training_rates(runs) == {("m", "a"): [1e-3], ("m", "b"): []}
    assert training_rates(runs, margin=0.3)["m", "a"] == [1e-3, 1e-2]
    assert summary(runs, "method", "lr", of="final_loss")["b", 1e-2].mean == math.inf
    with pytest.raises(ValueError, match="no run of model='x'"):
        best_loss(runs, "x")


# ------------------------------------------------------------------------------------------------ rescue


@pytest.mark.parametrize("recovery", RECOVERIES)
def test_recoveries(recovery):
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rescue = Perturbed(model, optimizer, perturbation=(3, 5, 30.0), recovery=recovery)
    start = model.weight.detach().clone()
    weights, rates, proceeds = {}, {}, []
    for step in range(1, 8):
        weights[step] = model.weight.detach().clone()
        optimizer.zero_grad()
        model(torch.ones(2, 6)).square().sum().backward()
        proceeds.append(rescue.step())
        rates[step] = optimizer.param_groups[0]["lr"]
        if step == 6:
            mended, fresh = model.weight.detach().clone(), not optimizer.state
        if proceeds[-1]:
            optimizer.step()
    assert [rates[s] for s in (2, 3, 5)] == pytest.approx([0.01, 0.3, 0.3])
    assert rates[6] == rates[7] == pytest.approx(0.001 if recovery == "lower" else 0.01)
    same = recovery in ("none", "lower", "moments")
    assert torch.equal(mended, weights[6]) == same and proceeds == [True] * 5 + [same, True]
    assert fresh == (recovery in ("moments", "restart") or recovery.endswith("+moments"))
    assert recovery != "restart" or torch.equal(mended, start)
    assert recovery != "checkpoint" or torch.equal(mended, weights[3])


def test_an_inner_guard_goes_on_and_its_interventions_count():
    class Inner:
        def __init__(self):
            self.calls, self.interventions = 0, []

        def step(self):
            self.calls += 1
            self.interventions.append(self.calls)
            return self.calls != 2

    model = torch.nn.Linear(2, 2)
    inner = Inner()
    rescue = Perturbed(model, torch.optim.SGD(model.parameters(), lr=0.1), perturbation=(2, 3, 2.0), inner=inner)
    assert [rescue.step() for _ in range(5)] == [True, False, True, True, True] and rescue.interventions == [
        1,
        2,
        3,
        4,
        5,
    ]
    with pytest.raises(ValueError, match="recovery='pray'"):
        Perturbed(model, None, perturbation=(2, 3, 2.0), recovery="pray")
    with pytest.raises(ValueError, match="perturbation must be"):
        Perturbed(model, None, perturbation=(3, 2, 2.0))


def test_regained():
    perturbation = (21, 30, 30.0)
    assert regained([2.0] * 20 + [6.0] * 30 + [2.0] * 20, perturbation) == 30
    assert regained([2.0] * 20 + [6.0] * 30, perturbation) is None
    assert regained([2.0] * 70, perturbation) == 10


def test_rescue_runs_say_when_the_loss_was_back(tmp_path):
    plan = experiment("rescue", "smoke")
    workload = replace(plan.workloads[1], methods=("nothing", "checkpoint", "guard_clip"))
    result = run(replace(plan, workloads=(workload,)), "smoke", folder=tmp_path, progress=lambda line: None)
    assert {r["method"] for r in result["runs"]} == {"nothing", "checkpoint", "guard_clip"}
    assert all("regained" in r for r in result["runs"])
