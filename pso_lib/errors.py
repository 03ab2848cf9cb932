"""Errors whose text holds the remedy."""

from difflib import get_close_matches

import torch

__all__ = ["DataError", "nearest", "require_choice", "require_finite", "require_positive_int", "require_shape"]


class DataError(RuntimeError):
    """A data set is missing, damaged or not what it should be. The text holds the remedy."""


def nearest(given, known) -> str:
    """Return " Did you mean 'x'?" for the known name closest to ``given``, else ""."""
    match = get_close_matches(str(given), [str(name) for name in known], n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def require_choice(argument: str, given, known) -> None:
    """Raise ``ValueError`` unless ``given`` is one of the names ``known``."""
    if given not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"{argument}={given!r} is unknown; choose one of {names}.{nearest(given, known)}")


def require_positive_int(argument: str, given) -> None:
    """Raise ``ValueError`` unless ``given`` is an integer of at least 1."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f"{argument} must be an integer of at least 1, got {given!r}.")


def require_finite(argument: str, value: torch.Tensor) -> None:
    """Raise ``ValueError`` if the tensor holds NaN or an infinity."""
    bad = ~torch.isfinite(value)
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{argument} holds {int(bad.sum())} non-finite value(s), the first at index {first}. "
            "Look for an overflow or a division by zero where it was made; a lower learning rate "
            "or float64 often cures it."
        )


def require_shape(argument: str, value: torch.Tensor, last: int) -> None:
    """Raise ``ValueError`` unless the last axis of ``value`` has length ``last``."""
    if value.ndim == 0 or value.shape[-1] != last:
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}; its last axis must have length {last}. "
            "Points are rows: pass (..., n), and transpose or flatten if needed."
        )
