"""What the exercises call: ``check("chapter/exercise", answer)``.

One line says whether the answer is right and why, or which mistake it likely holds; ``check`` also returns it. Each
chapter is one file, loaded when one of its exercises is checked; each check is a function registered by
``@exercise("chapter/exercise")``, mostly a call of ``require_close`` or ``require_function``.
"""

from pso_lib.checks._compare import (
    as_number,
    as_numbers,
    call,
    require_close,
    require_finite,
    require_function,
    require_parts,
    require_shape,
)
from pso_lib.checks._core import Result, Unanswered, Wrong, check, exercise, known, wrong

__all__ = [
    "Result",
    "Unanswered",
    "Wrong",
    "as_number",
    "as_numbers",
    "call",
    "check",
    "exercise",
    "known",
    "require_close",
    "require_finite",
    "require_function",
    "require_parts",
    "require_shape",
    "wrong",
]
