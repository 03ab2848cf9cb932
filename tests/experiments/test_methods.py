"""The methods of the experiments on unstable training: each does what its name says."""

from dataclasses import asdict

import pytest

from pso_lib.experiments.methods import CONTROLS, Method, baseline_of, times_of, trigger_of
from pso_lib.smoothing import AtSteps, Detector, EnergyTrigger, StableRankTrigger


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
