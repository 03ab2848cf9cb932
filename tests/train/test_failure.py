"""What counts as a failure of training, and as a recovery."""

import math

import pytest

from pso_lib.train.failure import Explosion, explosion, recovery_time, trains


def test_an_explosion_needs_patience_and_a_lost_loss_none():
    calm = [2.0] * 10
    assert explosion(calm + [2.9] * 500) is None  # below 1.5 times the minimum
    assert explosion(calm + [3.1] * 99 + [2.0] + [3.1] * 99) is None  # never 100 in a row
    assert explosion(calm + [3.1] * 100) == 110
    assert explosion(calm + [3.1] * 3, patience=3) == 13
    assert explosion([2.0, math.nan, 1.0]) == 2 and explosion([math.inf]) == 1 and explosion([]) is None


def test_the_minimum_runs_and_the_floor_holds():
    falling = [4.0, 2.0, 1.0, 1.6, 1.6]
    assert explosion(falling, patience=2) == 5
    assert explosion([0.001] + [0.01] * 200) == 101
    assert explosion([0.001] + [0.01] * 200, floor=0.2) is None
    assert explosion([0.001] + [0.31] * 200, floor=0.2) == 101


def test_bad_limits():
    with pytest.raises(ValueError, match="factor must exceed 1"):
        Explosion(factor=1.0)
    with pytest.raises(ValueError, match="patience"):
        Explosion(patience=0)


def test_trains_asks_for_both():
    assert trains(1.55, False, best=1.5) and not trains(1.55, True, best=1.5)
    assert not trains(1.65, False, best=1.5) and not trains(None, False, best=1.5)


def test_recovery():
    losses = [2.0] * 20 + [6.0] * 30 + [2.0] * 20
    assert recovery_time(losses, 21) == 39  # the ten means of steps 51 to 60
    assert recovery_time([2.0] * 20 + [6.0] * 30, 21) is None
    assert recovery_time([2.0] * 40, 21) == 10 and recovery_time([2.0] * 40, 5) is None
