"""What one kind of experiment brings. Journal, resuming, writing, validating and the command line are common to all."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pso_lib import data
from pso_lib.data.text import Text, load_text
from pso_lib.experiments.schema import Schema
from pso_lib.finite import finite_or_none

__all__ = ["Suite", "Sources", "Unit", "number"]


_LOADING = threading.RLock()


class Unit(NamedTuple):
    """What is run in one go, and lost if it is interrupted.

    Attributes:
        key: its name in the journal.
        work: how long it takes, in any unit that is the same throughout a plan; for the estimate of what is left.
        what: for the kind's own ``run_unit``.
    """

    key: str
    work: float
    what: tuple


class Sources:
    """Data sets on one device, the last of each sort kept, so that units that follow each other share it."""

    def __init__(self, root=None, device: str = "cpu"):
        self.root, self.device = root, device
        self._last: dict[str, tuple[Any, Any]] = {}

    def images(self, name: str) -> data.Images:
        return self._get("images", name, lambda: data.load(name, root=self.root, device=self.device))

    def without(self, name: str, count: int) -> data.Images:
        """The same, with so many of its training images as the test images."""
        return self._get("held out", (name, count), lambda: self.images(name).hold_out(count, seed=0))

    def text(self, name: str) -> Text:
        return self._get("text", name, lambda: load_text(name, root=self.root, device=self.device))

    def _get(self, sort: str, name, make):
        with _LOADING:
            if self._last.get(sort, (None,))[0] != name:
                self._last[sort] = (name, make())
            return self._last[sort][1]


class Suite:
    """The interface; one object per kind, in ``registry.SUITES``.

    Attributes:
        schema: what its records hold.
        plan: the dataclass of its experiments; with fields ``name`` and ``question``.
        gathers: whether its units, run side by side on one device, train their networks together; see ``passes``.
    """

    schema: Schema
    plan: type
    gathers = False

    def names(self) -> list[str]:
        """Of its experiments."""
        raise NotImplementedError

    def experiment(self, name: str, scale: str):
        """The plan of that name at a scale."""
        raise NotImplementedError

    def units(self, plan) -> Sequence[Unit]:
        """In the order in which they are run."""
        raise NotImplementedError

    def size(self, plan, unit: Unit) -> int:
        """How many runs a unit has: one per seed, if nothing else is said."""
        return plan.seeds

    def after(self, plan, unit: Unit) -> Sequence[str]:
        """Keys of the earlier units that this one goes on from: it waits for them, wherever they are run."""
        return ()

    def run_unit(self, plan, unit: Unit, sources: Sources, device: str, finished: Mapping[str, dict]) -> dict:
        """{"data": description, "runs": […]}, and more if ``extras`` has use for it.

        ``finished`` holds the units that ``after`` names.
        """
        raise NotImplementedError

    def flaw(self, plan, unit: Unit, part: dict) -> str | None:
        """What is wrong with a unit that a journal holds; None if nothing is."""
        wanted, found = self.size(plan, unit), len(part["runs"])
        if found != wanted:
            return f"{found} runs in place of {wanted}"
        flaws = [self.schema.flaw(run) for run in part["runs"]]
        missing = None if {"data", "seconds"} <= part.keys() else "its data or its seconds are missing"
        return next(filter(None, flaws), missing)

    def extras(self, plan, parts: Sequence[dict]) -> dict:
        """More for the result, from what the units returned."""
        return {}

    def provenance(self, protocol) -> dict:
        """More for the result's provenance; ``protocol`` is the plan before overrides."""
        return {}

    def table(self, result: dict) -> Iterator[str]:
        """The lines that ``show`` prints."""
        raise NotImplementedError


def number(value: float | None, digits: int = 5) -> float | None:
    """To so many digits after the point; None where it is not finite, as JSON knows no other."""
    finite = finite_or_none(value)
    return None if finite is None else round(finite, digits)
