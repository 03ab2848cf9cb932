"""Experiments by name: each is found, of one kind, and a wrong name is answered with the right ones."""

import pytest

from pso_lib.experiments.registry import SUITES, experiment, names, suite_of


def test_names_are_distinct_and_found():
    assert len(set(names())) == len(names()) > 0
    for name in names():
        plan = experiment(name, "smoke")
        assert plan.name == name and suite_of(plan) is next(kind for kind in SUITES.values() if name in kind.names())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: experiment("dept"), "experiment='dept' is unknown.*Did you mean 'depth'"),
        (lambda: experiment("depth", "smok"), "scale='smok' is unknown.*Did you mean 'smoke'"),
        (lambda: suite_of(3), "int is no experiment"),
    ],
)
def test_what_is_not_there_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
