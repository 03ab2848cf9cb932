"""Which runs trained, and at which rates."""

import math

import pytest

from pso_lib.experiments import (
    best_loss,
    summary,
    trained,
    training_rates,
)


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
