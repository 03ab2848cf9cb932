"""Which runs a configuration implies."""

import pytest

from pso_lib.experiments import experiment, record
from pso_lib.experiments.registry import suite_of


@pytest.mark.parametrize("name", ["depth", "learning_rate", "pss_controls", "rescue", "survival"])
def test_units_have_the_runs_that_the_configuration_implies(name):
    for scale in ("smoke", "quick", "full"):
        plan = experiment(name, scale)
        kind = suite_of(plan)
        implied = kind.schema.implied(record.configuration(plan))
        assert sum(kind.size(plan, unit) for unit in kind.units(plan)) == len(implied) == len(set(implied))
