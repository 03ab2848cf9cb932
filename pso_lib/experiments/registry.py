"""The kinds of experiments, and the experiments of all of them by name."""

from pso_lib.errors import require_choice
from pso_lib.experiments.depth import DEPTH
from pso_lib.experiments.instability import INSTABILITY
from pso_lib.experiments.record import schema_of
from pso_lib.experiments.suite import Suite
from pso_lib.experiments.survival import SURVIVAL
from pso_lib.scale import SCALES

__all__ = ["SUITES", "experiment", "suite_named", "suite_of", "names"]

SUITES: dict[str, Suite] = {kind.schema.name: kind for kind in (DEPTH, INSTABILITY, SURVIVAL)}


def names() -> list[str]:
    """The names of all experiments."""
    return [name for kind in SUITES.values() for name in kind.names()]


def experiment(name: str, scale: str = "full"):
    """The experiment of that name at a scale.

    Raises:
        ValueError: unknown name or scale; the text lists the known ones.
    """
    require_choice("experiment", name, names())
    require_choice("scale", scale, SCALES)
    return next(kind for kind in SUITES.values() if name in kind.names()).experiment(name, scale)


def suite_of(plan) -> Suite:
    """The kind of a plan."""
    for kind in SUITES.values():
        if isinstance(plan, kind.plan):
            return kind
    known = ", ".join(kind.plan.__name__ for kind in SUITES.values())
    raise ValueError(f"{type(plan).__name__} is no experiment; give a name, or a plan of one of the types {known}.")


def suite_named(result: dict) -> Suite:
    """The kind of a valid result."""
    return SUITES[schema_of(result).name]
