"""A thousand natural mistakes: none unnoticed, none hangs, nearly all are told what to do. See ``mistakes.py``."""

from collections import Counter

import pytest
from mistake_cases import CASES
from mistakes import outcome, trials

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
