"""The experiment on survival: what it measures is right at the start, and penalties hold what they should."""

from dataclasses import replace

import pytest
import torch

from pso_lib.analysis.jacobian import jacobian
from pso_lib.analysis.spectrum import singular_values
from pso_lib.experiments import experiment, load, run, without_timings
from pso_lib.experiments.__main__ import main
from pso_lib.experiments.registry import suite_of
from pso_lib.experiments.starts import build
from pso_lib.experiments.survival import distance, measure
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import FeedForward
from pso_lib.nn.networks import DeepNetwork
from pso_lib.nn.weights import hidden_matrices

pytestmark = pytest.mark.slow  # its runs take seconds


@pytest.fixture(scope="module")
def tiny():
    plan = experiment("survival", "smoke")
    return replace(plan, starts=tuple(s for s in plan.starts if s.name != "projection"), steps=12)


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, run(tiny, "smoke", folder=folder, progress=lambda line: None)


@pytest.mark.parametrize("scale", ["smoke", "quick", "full"])
def test_units_are_distinct_and_small(scale):
    plan = experiment("survival", scale)
    units = suite_of(plan).units(plan)
    cells = len(plan.starts) * len(plan.depths) * len(plan.rates) * len(plan.methods)
    assert len({unit.key for unit in units}) == len(units) == cells
    assert {start.name for start in plan.starts} >= {"he", "shared"}
    assert scale != "full" or plan.seeds >= 3


def test_measures_agree_with_the_definitions():
    shared = next(s for s in experiment("survival").starts if s.name == "shared")
    network = build(shared, 5, 16, 20, 10, seed=0)
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    found = measure(network, x)
    exact = network.double()
    s = singular_values(jacobian(exact.trunk, exact.lift(x.double()), on_kink="ignore"))
    ones = ((s - 1).abs() < 1e-5).sum(1).double().mean().item()
    # in float32 the start is a projection to 1e-6; no layer stretches, so the ones are the persistent directions
    assert found["persistent_dimension"] == found["loose_dimension"] == found["softened_count"] == ones > 4
    assert found["jacobian_stable_rank"] == pytest.approx(ones, rel=1e-3)


@pytest.mark.parametrize(("gain", "kept"), [(1.01, True), (1.05, False)])
def test_the_loose_tenth_is_for_all_layers_together(gain, kept):
    shared = next(s for s in experiment("survival").starts if s.name == "shared")
    network = build(shared, 5, 16, 20, 10, seed=0)
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    ones = measure(network, x)["loose_dimension"]
    for layer in network.layers:
        layer.set_weights(B=gain * layer.B.detach())  # each layer within a tenth; five of them 1.05 or 1.28
    found = measure(network, x)
    assert found["persistent_dimension"] == 0 and found["softened_count"] == ones > 4
    assert found["loose_dimension"] == (ones if kept else 0)


def test_measures_of_a_lost_network_are_none():
    network = build(experiment("survival").starts[0], 2, 8, 4, 10, seed=0)
    network.layers[0].A.data.fill_(float("nan"))
    assert set(measure(network, torch.ones(2, 4)).values()) == {None}
    network.layers[0].A.data.fill_(0.0)
    assert measure(network, torch.ones(2, 4))["jacobian_stable_rank"] == 0


def test_distance_is_to_the_start():
    network = build(experiment("survival").starts[0], 2, 8, 4, 10, seed=0)
    first = {name: W.detach().clone() for name, W in hidden_matrices(network).items()}
    assert distance(network, first) == 0
    network.layers[1].A.data[0, 0] += 3.0
    assert distance(network, first).item() == pytest.approx(9.0)


def test_runs_carry_the_promised_fields_and_repeat(recorded, tiny, tmp_path):
    folder, result = recorded
    assert load("survival", "smoke", folder)["kind"] == "survival"
    assert len(result["runs"]) == 2 * len(experiment("survival").methods) * 2
    for one in result["runs"]:
        assert one["model"] == f"{one['start']} L={one['depth']}" and one["watched"]["departure"][0] == 0
        assert {"exploded", "final_loss", "triggers", "overhead", "accuracy"} <= one.keys()
        if one["method"] != "pss_clip":
            assert one["watched"]["departure"][-1] > 0
    part = replace(tiny, starts=tiny.starts[1:], methods=tiny.methods[:2])
    again = run(part, "smoke", folder=tmp_path, progress=lambda line: None)
    known = {(r["model"], r["method"], r["seed"]): r for r in without_timings(result)["runs"]}
    assert all(known[r["model"], r["method"], r["seed"]] == r for r in without_timings(again)["runs"])


def test_penalties_hold_the_network_back(tiny, tmp_path):
    wanted = ("adam", "distance_10", "orthogonality")
    strong = tuple(replace(m, strength=10.0) for m in tiny.methods if m.name in wanted)
    plan = replace(tiny, starts=tiny.starts[1:], methods=strong, rates=(1e-2,), seeds=1, steps=30)
    runs = {r["method"]: r for r in run(plan, "smoke", folder=tmp_path, progress=lambda line: None)["runs"]}
    gone = {name: r["watched"]["departure"][-1] for name, r in runs.items()}
    assert gone["distance_10"] < gone["adam"] / 2
    assert runs["orthogonality"]["watched"]["stable_rank"][-1] > runs["adam"]["watched"]["stable_rank"][-1]


def test_show(recorded, capsys):
    assert main(["show", "survival", "--scale", "smoke", "--out", str(recorded[0])]) == 0
    shown = capsys.readouterr().out
    assert "softened_count" in shown and "shared 3 0.001 orthogonality" in shown


def test_a_network_without_a_lift_is_measured_at_its_own_inputs():
    network = DeepNetwork(
        [FeedForward(6, orthogonal="start", dtype=torch.float64, generator=seeded(i)) for i in (0, 1)]
    )
    lifted = DeepNetwork(network.layers, lift=torch.nn.Identity())
    x = torch.randn(3, 6, generator=seeded(2), dtype=torch.float64)
    assert measure(network, x) == measure(lifted, x)
