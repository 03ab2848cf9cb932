"""A thousand natural mistakes: none unnoticed, none hangs, nearly all are told what to do. See ``mistakes.py``."""

import importlib
import pkgutil
import re
from collections import Counter

import pytest
from mistake_cases import CASES, LEFT_OUT
from mistakes import outcome, trials

import pso_lib

COUNTS: Counter = Counter()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_no_mistake_goes_unnoticed(case):
    bad = []
    for _, argument, mistake, wrong, right in trials([case]):
        kind, text = outcome(case, argument, mistake, wrong, right)
        COUNTS[kind] += 1
        if kind in ("silent", "hang"):
            bad.append(f"{argument}: {mistake}: {kind}, {text}")
    assert not bad, "\n".join(bad)


def test_they_are_many_and_the_errors_say_what_to_do():
    if sum(COUNTS.values()) < 1000:
        pytest.skip("only a part of the cases was run")
    errors = COUNTS["refused"] + COUNTS["unclear"]
    assert COUNTS["refused"] >= 0.95 * errors, COUNTS


def test_every_public_function_has_a_case_or_a_reason():
    public = set()
    for found in pkgutil.walk_packages(pso_lib.__path__, "pso_lib."):
        if not found.name.startswith("pso_lib.checks") and not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            values = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
            public |= {n for n, v in values.items() if callable(v) and getattr(v, "__module__", "") == found.name}
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}
    cases = {re.match(r"\w+", case.name)[0] for case in CASES}
    new, gone = sorted(public - cases - left_out), sorted(left_out - public)
    assert not new and not gone, f"give {new} a case, or say why not; {gone} are gone from the library"
