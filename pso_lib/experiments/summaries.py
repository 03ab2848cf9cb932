"""One number of many runs, group by group."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Spread", "summary"]


class Spread(NamedTuple):
    """One number of several runs: by default their test accuracies."""

    mean: float
    min: float
    max: float
    runs: int


def summary(runs: Sequence[dict], *by: str, of: str = "test_accuracy") -> dict[Any, Spread]:
    """Mean, minimum and maximum of one number of the runs that agree in the fields ``by``.

    ``summary(runs, "arm", "depth")["he", 50].mean``; with one field the keys are its bare values. ``of``: the number's
    field; None, a loss that was not finite, counts as infinite.
    """
    groups: dict = {}
    for run in runs:
        key = tuple(run[field] for field in by)
        value = math.inf if run[of] is None else run[of]
        groups.setdefault(key if len(by) > 1 else key[0], []).append(value)
    return {key: Spread(sum(a) / len(a), min(a), max(a), len(a)) for key, a in groups.items()}
