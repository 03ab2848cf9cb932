"""The machinery of the checks: what an exercise is, what a check says, and where its names are found."""

import dis
import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pso_lib.errors import nearest

__all__ = ["Result", "Unanswered", "Wrong", "check", "exercise", "is_blank", "known", "wrong"]


class Wrong(AssertionError):
    """The answer is not right; the text names the likely mistake."""


class Unanswered(Exception):
    """The answer still is the blank of its starter."""


def wrong(message: str) -> NoReturn:
    """Raise ``Wrong``."""
    raise Wrong(message)


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        name: of the exercise, "chapter/exercise".
        passed: whether the answer is right; None where there is none yet.
        message: why it holds, or what is likely wrong.
        points: earned, of ``out_of``.
    """

    name: str
    passed: bool | None
    message: str
    points: float = 0.0
    out_of: float = 1.0

    def __bool__(self) -> bool:
        return self.passed is True

    def __str__(self) -> str:
        return f"{ {True: '✓', False: '✗', None: '·'}[self.passed] } {self.name}: {self.message}"

    def _ipython_display_(self) -> None:
        """Nothing: ``check`` has printed it."""


@dataclass(frozen=True)
class _Check:
    function: Callable[..., str]
    points: float


_registry: dict[str, _Check] = {}


def exercise(name: str, points: float = 1) -> Callable:
    """Register ``function(*answer) -> str`` as the check of "chapter/exercise"; it returns the reason why it holds."""

    def register(function: Callable) -> Callable:
        if name in _registry:
            raise ValueError(f"the exercise {name!r} has two checks; give one another name.")
        _registry[name] = _Check(function, points)
        return function

    return register


def chapters() -> list[str]:
    """The chapters that have checks, by the names of their pages."""
    import pso_lib.checks as package

    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return [name.replace("_", "-") for name in modules if not name.startswith("_")]


def known(chapter: str | None = None) -> list[str]:
    """The names of all checks, or of those of one chapter, which alone is then loaded."""
    for one in chapters() if chapter is None else [chapter]:
        importlib.import_module(f"pso_lib.checks.{one.replace('-', '_')}")
    return sorted(name for name in _registry if chapter is None or name.startswith(f"{chapter}/"))


def _find(name: str) -> _Check:
    chapter = name.partition("/")[0]
    if name not in _registry and chapter in chapters():
        known(chapter)
    if name in _registry:
        return _registry[name]
    names = known(chapter) if chapter in chapters() else known()
    raise ValueError(f"no exercise is called {name!r}.{nearest(name, names)} There are: {', '.join(names)}.")


def check(name: str, *answer: Any, strict: bool | None = None) -> Result:
    """Check an answer, print in one line what was found, and return it.

    An answer that still is ``...``, or a function whose body is, is no answer yet: neither right nor wrong.

    Args:
        name: "chapter/exercise", as the exercise says.
        answer: in any fair form: numbers as Python's, numpy's, torch's or sympy's, in lists, tuples, arrays or tensors.
        strict: raise ``Wrong`` in place of returning a result that did not pass; None for what the environment variable
            PSO_STRICT says: 1 in the book's own tests, off elsewhere.

    Raises:
        ValueError: no exercise has that name.
        Wrong: with ``strict``, the answer is wrong, or fails when it is called.
    """
    found = _judge(name, _find(name), answer)
    if found.passed is False and (os.environ.get("PSO_STRICT") == "1" if strict is None else strict):
        raise Wrong(f"{name}: {found.message}")
    print(found)
    return found


def _judge(name: str, one: _Check, answer: tuple) -> Result:
    none_yet = Result(name, None, "no answer yet: replace the ...", out_of=one.points)
    if not answer or any(is_blank(part) for part in answer):
        return none_yet
    if any(part is None for part in answer):
        message = "the answer is None: a function must return its result."
        return Result(name, False, message, out_of=one.points)
    try:
        return Result(name, True, one.function(*answer), one.points, one.points)
    except Unanswered:
        return none_yet
    except Wrong as error:
        return Result(name, False, str(error), out_of=one.points)
    except Exception as error:
        message = f"your answer could not be checked: {type(error).__name__}: {error}"
        return Result(name, False, message, out_of=one.points)


def is_blank(answer: Any) -> bool:
    """Whether it is ``...``, or a function of which nothing is written but perhaps a docstring."""
    if answer is Ellipsis:
        return True
    code = getattr(answer, "__code__", None)
    if code is None or not {step.opname for step in dis.get_instructions(code)} <= _NOTHING:
        return False
    if code.co_name == "<lambda>" and Ellipsis not in code.co_consts:
        return False  # one that returns None says so
    return set(code.co_consts) <= {None, Ellipsis, getattr(answer, "__doc__", None)}


_NOTHING = {"RESUME", "NOP", "LOAD_CONST", "POP_TOP", "RETURN_VALUE", "RETURN_CONST"}  # what a body of ... compiles to
