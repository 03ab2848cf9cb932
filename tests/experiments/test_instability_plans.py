"""The plans of the experiments on unstable training."""

import json
from dataclasses import asdict

import pytest

from pso_lib.experiments import (
    experiment,
)
from pso_lib.experiments.instability_plans import names as unstable_names
from pso_lib.experiments.registry import suite_of


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
