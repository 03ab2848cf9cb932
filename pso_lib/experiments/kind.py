"""What one kind of experiment brings. Journal, resuming, writing, validating and the command line are common to all."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pso_lib import data
from pso_lib.text import Text, load_text

__all__ = ["Kind", "Sources", "Unit", "number", "number_type"]

number_type = (int, float)


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
        self._last: dict[str, tuple[str, Any]] = {}

    def images(self, name: str) -> data.Images:
        return self._get("images", name, lambda: data.load(name, root=self.root, device=self.device))

    def text(self, name: str) -> Text:
        return self._get("text", name, lambda: load_text(name, root=self.root, device=self.device))

    def _get(self, sort: str, name: str, make):
        if self._last.get(sort, (None,))[0] != name:
            self._last[sort] = (name, make())
        return self._last[sort][1]


class Kind:
    """The interface; one object per kind, in ``registry.KINDS``.

    Attributes:
        name: written into results, but for "depth", whose files are older than the field.
        plan: the dataclass of its experiments; with fields ``name`` and ``question``.
        fields: what every run must hold, and of which types.
        timings: those fields of a run that differ from one time to the next.
        overrides: fields of the plan that ``run`` may be given in place of the plan's own.
    """

    name: str
    plan: type
    fields: dict[str, type | tuple[type, ...]]
    timings: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Of its experiments."""
        raise NotImplementedError

    def experiment(self, name: str, scale: str):
        """The plan of that name at a scale."""
        raise NotImplementedError

    def units(self, plan) -> Sequence[Unit]:
        """In the order in which they are run."""
        raise NotImplementedError

    def run_unit(self, plan, unit: Unit, sources: Sources, device: str, finished: Sequence[dict]) -> dict:
        """{"data": description, "runs": […]}, and more if ``extras`` has use for it; ``finished``: earlier runs."""
        raise NotImplementedError

    def extras(self, plan, parts: Sequence[dict]) -> dict:
        """More for the result, from what the units returned."""
        return {}

    def provenance(self, protocol) -> dict:
        """More for the result's provenance; ``protocol`` is the plan before overrides."""
        return {}

    def flaw(self, run: dict) -> str | None:
        """What is implausible in a run whose fields have the right types."""
        return None

    def table(self, result: dict) -> Iterator[str]:
        """The lines that ``show`` prints."""
        raise NotImplementedError


def number(value: float | None, digits: int = 5) -> float | None:
    """To so many digits after the point; None where it is not finite, as JSON knows no other."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
