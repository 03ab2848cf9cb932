"""The plans of the experiments on depth: buildable, and those of the recorded results."""

import pytest
import torch

from pso_lib.experiments import (
    depth_plans,
    experiment,
    record,
)
from pso_lib.experiments.rivals import network as build


@pytest.mark.parametrize("name", depth_plans.names())
@pytest.mark.parametrize("scale", ["smoke", "quick", "full"])
def test_every_arm_of_every_experiment_can_be_built(name, scale):
    plan = experiment(name, scale)
    assert len({arm.name for arm in plan.arms}) == len(plan.arms)
    for arm in plan.arms:
        network = build(arm, 2, plan.width, 20, 10, seed=0)
        assert network(torch.zeros(3, 20)).shape == (3, 10)


def test_the_configurations_are_those_of_the_recorded_results():
    """A changed fingerprint would orphan journals and results that took hours: change plans on purpose only."""
    known = {"smoke": "ec28758a585ecc1c", "quick": "1d5002436a88b3ed", "full": "15afef41bf15e1d5"}
    assert {scale: record.fingerprint(experiment("depth", scale)) for scale in known} == known
