"""How much an experiment runs: ``smoke`` in tests, ``quick`` for a reader, ``full`` as in the papers.

The environment variable ``PSO_SCALE`` chooses; it is read at each call, so a notebook may set it.
"""

import os
from typing import TypeVar

from pso_lib.errors import nearest

__all__ = ["SCALES", "choose", "scale"]

SCALES = ("smoke", "quick", "full")

T = TypeVar("T")


def scale() -> str:
    """The current scale: "smoke", "quick" (the default) or "full". Raises ``ValueError`` for another name."""
    given = os.environ.get("PSO_SCALE", "").strip().lower() or "quick"
    if given not in SCALES:
        names = ", ".join(repr(name) for name in SCALES)
        raise ValueError(
            f"the environment variable PSO_SCALE={given!r} is unknown; set it to one of {names}, or unset it "
            f"for 'quick'.{nearest(given, SCALES)}"
        )
    return given


def choose(*, smoke: T, quick: T, full: T) -> T:
    """The value for the current scale. All three are required, so that no experiment forgets one."""
    return {"smoke": smoke, "quick": quick, "full": full}[scale()]
