"""The errors themselves, and the checks of what needs no tensor: names, numbers, dictionaries, objects."""

import math
import numbers
import operator
import sys
import types
from collections.abc import Hashable
from difflib import get_close_matches

import numpy as np
import torch

__all__ = [
    "DataError",
    "NonFiniteError",
    "UndefinedError",
    "nearest",
    "require_attributes",
    "require_choice",
    "require_int",
    "require_keys",
    "require_number",
    "require_outside_optimizer",
    "require_positive",
    "require_positive_int",
]


class DataError(RuntimeError):
    """A data set is missing, damaged or not what it should be. The text holds the remedy."""


class UndefinedError(ValueError):
    """A quantity is not defined for these numbers: a zero matrix, say. Not an argument's fault."""


class NonFiniteError(UndefinedError):
    """A tensor holds NaN or an infinity."""


def nearest(given, known) -> str:
    """Return " Did you mean 'x'?" for the known name closest to ``given``, else ""."""
    match = get_close_matches(str(given), [str(name) for name in known], n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def require_choice(argument: str, given, known) -> None:
    """Raise ``ValueError`` unless ``given`` is one of the names ``known``."""
    if not isinstance(given, Hashable) or given not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"{argument}={given!r} is unknown; choose one of {names}.{nearest(given, known)}")


def require_int(argument: str, given) -> int:
    """The integer ``given`` (Python's, numpy's, or a tensor of one). ``ValueError`` for anything else, 2.0 too."""
    number = _integer(given)
    if number is None:
        raise ValueError(f"{argument} must be an integer, got {given!r}.")
    return number


def require_positive_int(argument: str, given, least: int = 1) -> int:
    """The integer ``given``, as in ``require_int``. ``ValueError`` unless it is at least ``least``."""
    number = _integer(given)
    if number is None or number < least:
        raise ValueError(f"{argument} must be an integer of at least {least}, got {given!r}.")
    return number


def _integer(given) -> int | None:
    try:
        return None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        return None


def require_number(argument: str, given, *, least: float = -math.inf, most: float = math.inf) -> float:
    """The real number ``given`` as a float: Python's, numpy's, or a tensor of one.

    ``ValueError`` unless it is finite and lies between the bounds, themselves included.
    """
    number = _real(given)
    if number is None or not math.isfinite(number) or not least <= number <= most:
        where = (
            "" if least == -math.inf else f", {least:g} or above" if most == math.inf else f" in [{least:g}, {most:g}]"
        )
        raise ValueError(f"{argument} must be a finite number{where}, got {given!r}.")
    return number


def require_positive(argument: str, given) -> float:
    """The real number ``given``, as in ``require_number``. ``ValueError`` unless it is finite and above 0."""
    number = _real(given)
    if number is None or not 0 < number < math.inf:
        raise ValueError(f"{argument} must be a finite number above 0, got {given!r}.")
    return number


def _real(given) -> float | None:
    if isinstance(given, torch.Tensor):
        one = given.ndim == 0 and not given.is_meta and not given.is_complex() and given.dtype != torch.bool
        return float(given) if one else None
    return float(given) if isinstance(given, numbers.Real) and not isinstance(given, (bool, np.bool_)) else None


def require_keys(argument: str, state: dict, keys) -> None:
    """Raise ``ValueError`` unless the dictionary ``state`` has exactly the given keys."""
    if not isinstance(state, dict) or set(state) != set(keys):
        found = sorted(map(str, state)) if isinstance(state, dict) else repr(state)
        raise ValueError(f"{argument} is of another kind: it needs {sorted(keys)}, and has {found}.")


def require_attributes(argument: str, value, *names: str) -> None:
    """Raise ``TypeError`` unless ``value`` is an object with these attributes; whatever has them will do."""
    missing = [name for name in names if not hasattr(value, name)]
    if missing or isinstance(value, type):
        what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise TypeError(f"{argument} is {what}; give an object that has {', '.join(names)}.")


def require_outside_optimizer(call: str) -> None:
    """Raise ``RuntimeError`` if the caller runs inside ``optimizer.step(closure)``."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "step" and isinstance(frame.f_locals.get("self"), torch.optim.Optimizer):
            raise RuntimeError(
                f"{call} is called from the closure of {type(frame.f_locals['self']).__name__}.step, which runs it as "
                "often as it likes and cannot skip the update. Call it before: loss.backward(), then the guard or "
                "recorder, then optimizer.step(closure) with a closure that only computes the loss and its gradients."
            )
        frame = frame.f_back
