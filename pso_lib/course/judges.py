"""What oracles judge with: a named mistake and its share, and answers read without trust."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pso_lib.checks import Wrong, as_numbers, require_close, require_shape, wrong
from pso_lib.course.assignment import Judgement

__all__ = ["Partly", "expect", "fields", "numbers", "texts"]


@dataclass(frozen=True, eq=False)
class Partly:
    """What a mistake gives, and the share of the points that it still earns."""

    value: Any
    share: float


def expect(
    expected: Any,
    mistakes: Mapping[str, Any] | None = None,
    *,
    tol: float = 1e-6,
    what: str = "your answer",
) -> Callable[[Any], Judgement | None]:
    """A judge that compares numbers with those expected.

    Args:
        mistakes: maps an explanation to the wrong value that the mistake gives, or to ``Partly`` it.
        tol: relative to the largest of the right numbers.
    """
    given = mistakes or {}
    wrongs = {text: one.value if isinstance(one, Partly) else one for text, one in given.items()}
    shares = {text: one.share for text, one in given.items() if isinstance(one, Partly)}

    def judge(value: Any) -> Judgement | None:
        found = numbers(value, what=what)
        try:
            require_close(found, expected, wrongs, tol=tol, what=what)
        except Wrong as error:
            text = str(error)
            if text.endswith("% of the right value."):  # from which one could compute what is right
                text = f"{what} is a number that no mistake we know of gives; test your function on a smaller case."
            return Judgement(shares.get(text, 0.0), text)
        return None

    return judge


def numbers(value: Any, shape: Sequence[int] | None = None, what: str = "your answer") -> Tensor:
    """Numbers in any fair form as float64; ``Wrong`` for what is none, or has another shape."""
    try:
        return as_numbers(value, what) if shape is None else require_shape(value, tuple(shape), what)
    except (ArithmeticError, TypeError, ValueError) as error:
        wrong(f"{what} cannot be read as numbers: {error}.")


def fields(value: Any, names: Sequence[str], what: str = "your answer") -> list[Any]:
    """The parts of a dict by name, or of a list or tuple of that length in order; ``Wrong`` for anything else."""
    if isinstance(value, dict):
        if missing := [name for name in names if name not in value]:
            wrong(f"{what} lacks {', '.join(missing)}; it must hold {', '.join(names)}.")
        return [value[name] for name in names]
    if isinstance(value, list | tuple) and len(value) == len(names):
        return list(value)
    wrong(f"{what} must be a dict or a tuple of {len(names)}: {', '.join(names)}.")


def texts(value: Any, what: str = "your answer") -> list[str]:
    """A list of strings; ``Wrong`` for anything else."""
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        wrong(f"{what} must be a list of strings.")
    return list(value)
