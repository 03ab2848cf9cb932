"""Starts: the same ends for every one, and a drift between two."""

import torch

from pso_lib.experiments import (
    experiment,
)
from pso_lib.experiments.starts import build


def test_the_same_seed_gives_every_arm_the_same_ends():
    he, shared = (build(arm, 2, 16, 20, 10, seed=3) for arm in experiment("depth").arms if arm.name in ("he", "shared"))
    assert torch.equal(he.lift.weight, shared.lift.weight) and torch.equal(he.readout.weight, shared.readout.weight)
    assert not torch.equal(he.layers[0].A, shared.layers[0].A)


def test_drift_goes_from_shared_to_independent():
    arms = {arm.drift: arm for arm in experiment("persistence").arms if arm.init == "drift"}
    first = {d: build(arm, 2, 16, 20, 10, seed=0).layers for d, arm in arms.items()}
    assert torch.equal(first[0.0][0].A, first[0.0][1].A)
    gaps = [(layers[0].A - layers[1].A).norm().item() for _, layers in sorted(first.items())]
    assert gaps == sorted(gaps)
