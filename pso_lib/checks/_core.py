"""The machinery of the checks: a registry, and comparisons whose failures explain themselves."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import NoReturn

import sympy as sp
import torch

from pso_lib.errors import nearest

_registry: dict[str, Callable] = {}


class Wrong(AssertionError):
    """The answer is not right; the text names the likely mistake."""


def wrong(message: str) -> NoReturn:
    """Raise ``Wrong``."""
    raise Wrong(message)


def exercise(name: str) -> Callable:
    """Register ``function(answer) -> str`` as the check of that name; what it returns is the reason it holds."""

    def register(function: Callable) -> Callable:
        if name in _registry:
            raise ValueError(f"the exercise {name!r} has two checks; give one another name.")
        _registry[name] = function
        return function

    return register


def _load() -> None:
    import pso_lib.checks as package

    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")


def known() -> list[str]:
    """The names of all checks."""
    _load()
    return sorted(_registry)


def check(name: str, *answer) -> None:
    """Check an answer: print one line if it is right, raise ``Wrong`` with the likely mistake if not.

    An answer that still is ``...`` only prints a reminder, so that an unsolved chapter runs to its end.

    Raises:
        Wrong: the answer is wrong, or fails when it is called.
        ValueError: no exercise has that name.
    """
    _load()
    if name not in _registry:
        near = nearest(name, _registry)
        raise ValueError(f"no exercise is called {name!r}.{near} There are: {', '.join(sorted(_registry))}.")
    if any(part is Ellipsis for part in answer):
        print(f"· {name}: no answer yet: replace the ...")
        return
    if not answer or any(part is None for part in answer):
        wrong(f"{name}: the answer is None: a function must return its result.")
    try:
        why = _registry[name](*answer)
    except Wrong as error:
        raise Wrong(f"{name}: {error}") from None
    except Exception as error:
        raise Wrong(f"{name}: your answer could not be checked: {type(error).__name__}: {error}") from error
    print(f"✓ {name}: {why}")


def require_shape_like(answer, expected: tuple[int, ...], what: str = "your answer") -> torch.Tensor:
    """The answer as a float64 tensor, after its shape has been compared with the expected one."""
    value = torch.as_tensor(answer, device="cpu").detach().to(torch.float64)
    if tuple(value.shape) != tuple(expected):
        transposed = " It is the transpose." if tuple(value.shape) == tuple(expected)[::-1] else ""
        wrong(f"{what} has shape {tuple(value.shape)}, expected {tuple(expected)}.{transposed}")
    return value


def require_close(
    answer, expected, mistakes: Mapping[str, object] | None = None, *, tol: float = 1e-6, what: str = "your answer"
) -> None:
    """Compare numbers, tensors or sympy expressions; ``mistakes`` maps an explanation to the wrong value it gives."""
    mistakes = mistakes or {}
    if isinstance(expected, sp.Basic | sp.MatrixBase):
        _require_equal_sympy(answer, expected, mistakes, what)
        return
    target = torch.as_tensor(expected, dtype=torch.float64, device="cpu")
    value = require_shape_like(answer, tuple(target.shape), what)
    scale = 1 + target.abs().max()
    if bool(((value - target).abs() <= tol * scale).all()):
        return
    for explanation, mistaken in mistakes.items():
        other = torch.as_tensor(mistaken, dtype=torch.float64, device="cpu")
        if other.shape == value.shape and bool(((value - other).abs() <= tol * scale).all()):
            wrong(explanation)
    gap = (value - target).abs().max().item()
    wrong(f"{what} is off by {gap:.2g} (allowed {tol * float(scale):.2g}).")


def _require_equal_sympy(answer, expected, mistakes, what) -> None:
    answer = sp.sympify(answer)

    def same(other) -> bool:
        matrices = isinstance(answer, sp.MatrixBase), isinstance(other, sp.MatrixBase)
        if any(matrices):
            return all(matrices) and answer.shape == other.shape and sp.simplify(answer - other).is_zero_matrix
        return sp.simplify(answer - other) == 0

    if same(expected):
        return
    for explanation, mistaken in mistakes.items():
        if same(sp.sympify(mistaken)):
            wrong(explanation)
    wrong(f"{what} is {answer}, which is not equal to the right expression.")
