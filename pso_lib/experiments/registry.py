"""The kinds of experiments, and the experiments of all of them by name."""

from pso_lib.errors import require_choice
from pso_lib.experiments.deep import DEPTH
from pso_lib.experiments.kind import Kind
from pso_lib.experiments.survival import SURVIVAL
from pso_lib.experiments.unstable import INSTABILITY

__all__ = ["KINDS", "experiment", "kind_named", "kind_of", "names"]

KINDS: dict[str, Kind] = {kind.schema.name: kind for kind in (DEPTH, INSTABILITY, SURVIVAL)}


def names() -> list[str]:
    """The names of all experiments."""
    return [name for kind in KINDS.values() for name in kind.names()]


def experiment(name: str, scale: str = "full"):
    """The experiment of that name at a scale.

    Raises:
        ValueError: unknown name or scale; the text lists the known ones.
    """
    require_choice("experiment", name, names())
    require_choice("scale", scale, ("smoke", "quick", "full"))
    return next(kind for kind in KINDS.values() if name in kind.names()).experiment(name, scale)


def kind_of(plan) -> Kind:
    """The kind of a plan."""
    for kind in KINDS.values():
        if isinstance(plan, kind.plan):
            return kind
    known = ", ".join(kind.plan.__name__ for kind in KINDS.values())
    raise ValueError(f"{type(plan).__name__} is no experiment; give a name, or a plan of one of the types {known}.")


def kind_named(result: dict) -> Kind | None:
    """The kind of a result; None if this library does not know it."""
    return KINDS.get(result.get("kind", DEPTH.schema.name))
