"""Numbers as JSON knows them: finite, or None."""

import math

from torch import Tensor

__all__ = ["finite_or_none"]


def finite_or_none(value: Tensor | float | None) -> float | None:
    """The number, or tensor of one, as a float; None for NaN, an infinity, or None."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None
