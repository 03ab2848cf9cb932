"""What the exercises call: ``check("name", answer)``.

A right answer prints a line; a wrong one raises ``Wrong``, whose text names the likely mistake. Each
topic is one file; each check is a function registered by ``@exercise("name")``.
"""

from pso_lib.checks._core import Wrong, check, exercise, known, require_close, require_shape_like, wrong

__all__ = ["Wrong", "check", "exercise", "known", "require_close", "require_shape_like", "wrong"]
