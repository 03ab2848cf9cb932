"""What a group of runs is summed up to."""

import pytest

from pso_lib.experiments import (
    summary,
)


def test_summary_gives_the_spread_of_each_group():
    runs = [{"arm": a, "depth": 5, "test_accuracy": v} for a, v in (("he", 0.2), ("he", 0.4), ("shared", 0.9))]
    assert summary(runs, "arm")["he"] == (pytest.approx(0.3), 0.2, 0.4, 2)
    assert summary(runs, "arm", "depth")["shared", 5].runs == 1
