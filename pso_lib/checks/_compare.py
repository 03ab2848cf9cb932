"""Comparisons whose failures explain themselves: a mistake is named where the answer is what the mistake gives."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from pso_lib.checks._core import Unanswered, Wrong, wrong

__all__ = [
    "as_number",
    "as_numbers",
    "call",
    "require_close",
    "require_finite",
    "require_function",
    "require_parts",
    "require_shape",
]


ROUNDED = 3e-3  # a mistake is known by three digits


def as_numbers(value: Any, what: str = "your answer") -> Tensor:
    """Numbers in any fair form, as a float64 tensor on the CPU.

    Fair are tensors, arrays, lists and tuples, sympy matrices; and in them Python's, numpy's, torch's and sympy's
    numbers, fractions, and "3/5".
    """
    if value is Ellipsis:
        raise Unanswered
    if isinstance(value, Tensor):
        value = value.detach().to("cpu")
        if value.is_complex():
            wrong(f"{what} is complex; it must be real.")
        return value.to(torch.float64)
    if isinstance(value, sp.MatrixBase):
        value = value.tolist() if min(value.shape) != 1 else list(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        rows = [as_numbers(part, what) for part in value]
        if len({row.shape for row in rows}) > 1:
            shapes = ", ".join(str(tuple(row.shape)) for row in rows[:4])
            wrong(f"{what} is ragged: its parts have the shapes {shapes}; they must be alike.")
        return torch.stack(rows) if rows else torch.zeros(0, dtype=torch.float64, device="cpu")
    try:
        # a fraction of "1e999999999" would be worked out, digit by digit
        number = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (TypeError, ValueError, ArithmeticError):
        wrong(f"{what} has {value!r:.60} where a number is wanted.")
    return torch.tensor(number, dtype=torch.float64, device="cpu")


def as_number(value: Any, what: str = "your answer") -> float:
    """A single number in any fair form, a tensor or list of one entry among them."""
    found = as_numbers(value, what)
    if found.numel() != 1:
        wrong(f"{what} has shape {tuple(found.shape)}; a single number is wanted.")
    return float(found)


def require_finite(value: Any, what: str = "your answer") -> Tensor:
    """The numbers, none of them infinite or NaN; a comparison with NaN is false, and would let it through."""
    found = as_numbers(value, what)
    if not found.isfinite().all():
        wrong(f"{what} has {int((~found.isfinite()).sum())} entries that are no finite number.")
    return found


def require_shape(value: Any, shape: tuple[int, ...], what: str = "your answer") -> Tensor:
    """The numbers, after their shape has been compared."""
    found = as_numbers(value, what)
    if tuple(found.shape) != tuple(shape):
        transposed = " It is the transpose." if tuple(found.shape) == tuple(shape)[::-1] else ""
        wrong(f"{what} has shape {tuple(found.shape)}, expected {tuple(shape)}.{transposed}")
    return found


def require_parts(value: Any, shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Things that are returned together, named and each of its shape, in one vector."""
    if not isinstance(value, tuple | list) or len(value) != len(shapes):
        wrong(f"return {len(shapes)} things, `return {', '.join(shapes)}`; you return {type(value).__name__}.")
    parts = zip(value, shapes.items(), strict=True)
    return torch.cat([require_shape(part, shape, name).reshape(-1) for part, (name, shape) in parts])


def require_close(
    answer: Any,
    expected: Any,
    mistakes: Mapping[str, Any] | None = None,
    *,
    tol: float = 1e-6,
    what: str = "your answer",
) -> None:
    """Compare numbers or sympy expressions.

    Args:
        expected: the right value.
        mistakes: maps an explanation to the wrong value that the mistake gives.
        tol: relative to the largest of the right numbers' magnitudes.
    """
    if isinstance(expected, sp.Basic | sp.MatrixBase) and not getattr(expected, "is_number", False):
        _require_equal_sympy(answer, expected, mistakes or {}, what)
        return
    target = as_numbers(expected)
    value = require_shape(answer, tuple(target.shape), what)
    if _same(value, target, tol):
        return
    for explanation, mistaken in (mistakes or {}).items():
        if _same(value, as_numbers(mistaken), max(tol, ROUNDED)):
            wrong(explanation)
    wrong(f"{what} {_difference(value, target, tol)}")


def require_function(
    function: Any,
    truth: Callable,
    cases: Iterable[tuple],
    mistakes: Mapping[str, Callable] | None = None,
    *,
    form: Callable = lambda value, *case: value,
    tol: float = 1e-6,
    what: str = "your function",
) -> None:
    """Compare a function with the truth on every case; both get copies, and the truth is computed first.

    Args:
        cases: tuples of arguments.
        mistakes: maps an explanation to the function that makes the mistake; it is named where it gives what the answer
            gives on every case.
        form: brings what a function returned for a case into what is compared: numbers in one array, in one order.
    """
    if not callable(function):
        wrong(f"give the function itself, not what it returns; this is {type(function).__name__}.")
    cases = list(cases)
    right = [as_numbers(form(truth(*copy.deepcopy(case)), *case)) for case in cases]
    found = [as_numbers(form(call(function, *case, what=what), *case), f"what {what} returns") for case in cases]
    pairs = list(zip(found, right, strict=True))
    if all(_same(value, target, tol) for value, target in pairs):
        return
    for explanation, mistaken in (mistakes or {}).items():
        if all(
            _same(value, _attempt(mistaken, case, form), max(tol, ROUNDED))
            for value, case in zip(found, cases, strict=True)
        ):
            wrong(explanation)
    if _alike(found) and not _alike(right):
        wrong(f"{what} returns the same in {len(cases)} cases that differ; it must use its arguments.")
    at = next(i for i, (value, target) in enumerate(pairs) if not _same(value, target, tol))
    place = f"{what}, given {_shown(cases[at])}," if len(cases) > 1 else what
    if found[at].shape != right[at].shape:
        require_shape(found[at], tuple(right[at].shape), f"{place} returns what")
    right_ones = sum(_same(value, target, tol) for value, target in pairs)
    also = f" (It is right on {right_ones} of {len(cases)} cases.)" if right_ones else ""
    wrong(f"{place} returns {_shown((found[at],))}, which {_difference(found[at], right[at], tol)}{also}")


def _alike(values: list[Tensor]) -> bool:
    return len(values) > 1 and all(torch.equal(value, values[0]) for value in values)


def call(function: Callable, *arguments: Any, what: str = "your function") -> Any:
    """What the function returns for copies of the arguments; it must leave them as they were, and return something."""
    given = copy.deepcopy(arguments)
    value = function(*given)
    if value is Ellipsis:
        raise Unanswered
    if value is None:
        wrong(f"{what} returns None; end it with `return`.")
    for before, after in zip(arguments, given, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after) and not before.isnan().any():
            wrong(f"{what} changes its argument in place; work on a copy.")
    return value


def _attempt(mistaken: Callable, case: tuple, form: Callable) -> Tensor:
    try:
        return as_numbers(form(mistaken(*copy.deepcopy(case)), *case))
    except (ArithmeticError, ValueError, RuntimeError, IndexError, Wrong):
        return torch.full((0, 0), math.nan, dtype=torch.float64)  # like nothing


def _same(value: Tensor, target: Tensor, tol: float) -> bool:
    return value.shape == target.shape and not bool(_off(value, target, tol).any())


def _off(value: Tensor, target: Tensor, tol: float) -> Tensor:
    """Where they differ. What is not finite must be met exactly: nothing is near infinity."""
    near = (value - target).abs() <= tol * _scale(target)
    return ~(near & target.isfinite() | (value == target))


def _scale(target: Tensor) -> float:
    """The largest magnitude among the finite numbers; 1 where there is none but zeros."""
    finite = target[target.isfinite()].abs()
    return (float(finite.amax()) if finite.numel() else 0.0) or 1.0


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "has the other sign": torch.neg,
    "is twice what is asked for": lambda t: 2 * t,
    "is half of what is asked for": lambda t: t / 2,
    "is the square of what is asked for": torch.square,
    "is the root of what is asked for": torch.sqrt,
    "is one over what is asked for": torch.reciprocal,
    "is the logarithm of what is asked for": torch.log,
    "is one minus what is asked for": lambda t: 1 - t,
    "is one too large": lambda t: t + 1,
    "is one too small": lambda t: t - 1,
    "is the transpose of what is asked for": lambda t: t.mT if t.ndim == 2 and t.shape[0] == t.shape[1] else t,
    "has the right numbers in reversed order": lambda t: t.flip(0) if t.ndim else t,
}


def _difference(value: Tensor, target: Tensor, tol: float) -> str:
    """How a wrong value of the right shape differs, as a student can use it."""
    if (value.isfinite() & ~target.isfinite()).any():
        return "is finite, where the right value is not."
    if wild := int((~value.isfinite() & target.isfinite()).sum()):
        return f"has {wild} entries that are no finite number."
    if _same(value, target, ROUNDED):
        return f"is right to two or three digits; give it to a relative accuracy of {tol:.0e}."
    for form, changed in _FORMS.items():
        if not _same(changed(target), target, tol) and _same(value, changed(target), tol):
            return f"{form}."
    if value.ndim == 1 and _same(value.sort().values, target.sort().values, tol):
        return "has the right numbers in another order."
    if value.numel() == 1:
        size = "large" if float(value - target) > 0 else "small"
        return f"is too {size}, by {100 * abs(float(value - target)) / _scale(target):.2g} % of the right value."
    off = _off(value, target, tol)
    place = tuple(off.nonzero()[0].tolist())
    where = place[0] if len(place) == 1 else place
    count = f"{int(off.sum())} of {off.numel()}"
    return f"differs in {count} entries, first at index {where}, where it is {float(value[place]):.4g}."


def _shown(parts: tuple) -> str:
    """A case in a few words."""

    def one(part: Any) -> str:
        if isinstance(part, Tensor):
            if part.numel() > 6:
                return f"a tensor {tuple(part.shape)}"
            return str([round(float(v), 4) for v in part.flatten()] if part.ndim else round(float(part), 6))
        text = repr(part)
        return text if len(text) <= 60 else f"a {type(part).__name__}"

    return ", ".join(one(part) for part in parts)


def _require_equal_sympy(answer: Any, expected: Any, mistakes: Mapping[str, Any], what: str) -> None:
    if answer is Ellipsis:
        raise Unanswered
    answer = sp.sympify(answer)

    def same(other: Any) -> bool:
        matrices = isinstance(answer, sp.MatrixBase), isinstance(other, sp.MatrixBase)
        if any(matrices):
            return all(matrices) and answer.shape == other.shape and sp.simplify(answer - other).is_zero_matrix
        return sp.simplify(answer - other) == 0

    if same(expected):
        return
    for explanation, mistaken in mistakes.items():
        if same(sp.sympify(mistaken)):
            wrong(explanation)
    opposite = " It has the other sign." if same(-expected) else ""
    wrong(f"{what} is {answer}, which is not equal to the right expression.{opposite}")
