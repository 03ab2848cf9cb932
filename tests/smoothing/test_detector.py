"""The detector on streams of numbers."""

import json
import math

import pytest
import torch

from pso_lib.nn.init import seeded
from pso_lib.smoothing import Detector


def fired(detector, values) -> list[int]:
    """The steps, from 1, at which it fires."""
    return [step for step, value in enumerate(values, start=1) if detector.update(value)]


def quick(**options) -> Detector:
    return Detector(**{"warmup": 3, "cooldown": 4} | options)


def test_a_spike_fires_at_its_step_and_stays_out_of_the_average():
    detector = Detector()
    trace = [1.0] * 80 + [2.6] + [1.0] * 20
    assert fired(detector, trace) == [81]
    assert detector.average == pytest.approx(1)
    assert fired(Detector(), [1.0] * 80 + [2.4]) == []


def test_tau_is_compared_before_the_value_enters():
    detector = quick(tau=2.0, alpha=0.5)
    assert fired(detector, [1, 1, 1, 2.0]) == []  # not above 2 x 1
    assert detector.average == pytest.approx(1.5)
    assert fired(detector, [3.01]) == [1]
    assert detector.average == pytest.approx(1.5)


def test_nothing_fires_during_warmup_nor_cooldown():
    assert fired(Detector(), [1.0] * 49 + [100.0]) == []  # step 50
    assert fired(Detector(), [1.0] * 50 + [100.0]) == [51]
    # an average that starts at 1 and takes 50 every step of cooldown is soon near 50
    assert fired(Detector(alpha=0.999), [1.0] * 60 + [50.0] * 32) == [61, 92]
    assert fired(quick(cooldown=0, alpha=0.999), [1.0] * 5 + [50.0] * 3) == [6, 7, 8]


def test_a_slow_drift_does_not_fire():
    assert fired(Detector(), [1.05**t for t in range(300)]) == []


def test_a_fast_drift_fires_when_it_outruns_the_average():
    # the average of c^t is (1 - a) c / (c - a) of its newest value: it fires if c - a > tau (1 - a), so c > 1.15
    assert fired(Detector(warmup=0), [1.149**t for t in range(400)]) == []
    found = fired(Detector(warmup=0), [1.151**t for t in range(400)])
    assert 20 < found[0] < 100
    assert fired(Detector(warmup=0), [1.5**t for t in range(9)]) == [4]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_values_fire_and_never_enter(bad):
    detector = quick()
    assert fired(detector, [bad]) == [1] and detector.average is None  # even at the first step
    assert fired(detector, [bad, bad, bad, bad, bad]) == [5]  # not during cooldown
    detector = quick()
    assert fired(detector, [1.0, bad, 2.0]) == [2] and detector.average == pytest.approx(1.1)
    detector = quick(nonfinite="ignore")
    assert fired(detector, [1.0, bad, bad, 1.0, bad]) == [] and detector.average == 1.0


def test_the_first_step_only_sets_the_average():
    detector = Detector(warmup=0)
    assert not detector.update(1e9) and detector.average == 1e9


def test_an_average_of_zero_fires_at_nothing():
    detector = quick()
    assert fired(detector, [0.0] * 10 + [5.0]) == []
    assert detector.average == 5.0
    assert fired(detector, [13.0]) == [1]


def test_below():
    assert fired(quick(side="below", tau=0.8), [5, 5, 5, 5, 4.1, 3.9]) == [6]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_never_fires_on_a_convex_run_that_converges(momentum):
    curvature = torch.logspace(-3, 0, 20, dtype=torch.float64)
    w = torch.randn(20, generator=seeded(), dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.SGD([w], lr=1.0, momentum=momentum)
    norms = []
    for _ in range(400):
        optimizer.zero_grad()
        (curvature * w.square()).sum().div(2).backward()
        norms.append(w.grad.norm().item())
        optimizer.step()
    assert norms[-1] < 0.1 * norms[0]
    for warmup in (0, 50):
        assert fired(Detector(warmup=warmup), norms) == []


def test_a_detector_goes_on_from_its_state():
    trace = [1.0] * 60 + [9.0] + [1.0] * 10 + [math.inf] + [9.0] * 40
    whole = Detector()
    expected = fired(whole, trace)
    for cut in (1, 55, 61, 70, 75):
        first, second = Detector(), Detector()
        begun = fired(first, trace[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert begun + [cut + step for step in fired(second, trace[cut:])] == expected
        assert second.state_dict() == whole.state_dict()
