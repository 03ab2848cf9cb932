"""Errors whose text holds the remedy."""

import math
import numbers
import operator
import sys
from difflib import get_close_matches

import torch

__all__ = [
    "DataError",
    "NonFiniteError",
    "UndefinedError",
    "device_of",
    "nearest",
    "require_choice",
    "require_dtype",
    "require_finite",
    "require_keys",
    "require_labels",
    "require_outside_optimizer",
    "require_positive",
    "require_positive_int",
    "require_shape",
    "require_tensor",
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
    if given not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"{argument}={given!r} is unknown; choose one of {names}.{nearest(given, known)}")


def require_positive_int(argument: str, given, least: int = 1) -> int:
    """The integer ``given`` (Python's, numpy's, or a tensor of one). ``ValueError`` unless it is at least ``least``."""
    try:
        number = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{argument} must be an integer of at least {least}, got {given!r}.")
    return number


def require_positive(argument: str, given) -> float:
    """The real number ``given`` (Python's or numpy's) as a float. ``ValueError`` unless it is finite and above 0."""
    real = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if not real or not 0 < given < math.inf:
        raise ValueError(f"{argument} must be a finite number above 0, got {given!r}.")
    return float(given)


def require_finite(argument: str, value: torch.Tensor) -> None:
    """Raise ``ValueError`` if the tensor holds NaN or an infinity. A tensor on "meta" holds nothing."""
    if value.is_meta:
        return
    bad = ~torch.isfinite(value)
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise NonFiniteError(
            f"{argument} holds {int(bad.sum())} non-finite value(s), the first at index {first}. "
            "Look for an overflow or a division by zero where it was made; a lower learning rate "
            "or float64 often cures it."
        )


def require_shape(argument: str, value: torch.Tensor, last: int) -> None:
    """Raise ``ValueError`` unless the last axis of ``value`` has length ``last``."""
    if not hasattr(value, "shape"):
        require_tensor(argument, value)
    if value.ndim == 0 or value.shape[-1] != last:
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}; its last axis must have length {last}. "
            "Points are rows: pass (..., n), and transpose or flatten if needed."
        )


def require_keys(argument: str, state: dict, keys) -> None:
    """Raise ``ValueError`` unless the dictionary ``state`` has exactly the given keys."""
    if not isinstance(state, dict) or set(state) != set(keys):
        found = sorted(map(str, state)) if isinstance(state, dict) else repr(state)
        raise ValueError(f"{argument} is of another kind: it needs {sorted(keys)}, and has {found}.")


def require_outside_optimizer(call: str) -> None:
    """Raise ``RuntimeError`` if the caller runs inside ``optimizer.step(closure)``."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "step" and isinstance(frame.f_locals.get("self"), torch.optim.Optimizer):
            raise RuntimeError(
                f"{call} is called from the closure of {type(frame.f_locals['self']).__name__}.step, which runs it as "
                "often as it likes and cannot skip the update. Call it before: loss.backward(), then the guard or "
                "recorder, then optimizer.step(closure) with a closure that only computes the loss and its gradients."
            )
        frame = frame.f_back


def require_tensor(argument: str, value) -> None:
    """Raise ``TypeError`` unless ``value`` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{argument} is a {type(value).__name__}; give a tensor: torch.as_tensor({argument}).")


def require_dtype(argument: str, value: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise ``ValueError`` unless ``value`` has the weights' ``dtype``; under autocast, which casts, it may be any."""
    require_tensor(argument, value)
    if value.dtype != dtype and not _autocast(value.device.type):
        raise ValueError(
            f"{argument} is {value.dtype}, the weights are {dtype}; pass {argument}.to({dtype}), or move the network: "
            f"network.to({value.dtype if value.is_floating_point() else 'torch.float64'})."
        )


def _autocast(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # torch before 2.4
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def require_labels(argument: str, labels: torch.Tensor, rows: int, classes: int | None = None) -> None:
    """Raise ``ValueError`` unless ``labels`` is (rows,), integers from 0 up, below ``classes`` if that is given."""
    require_tensor(argument, labels)
    shape = tuple(labels.shape)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"{argument} has shape {shape} and dtype {labels.dtype}; it must be (N,), one integer per row. A column "
            f"is flattened by {argument}.flatten(), one-hot rows become numbers by {argument}.argmax(1)."
        )
    if len(labels) != rows or rows == 0:
        raise ValueError(
            f"the input has {rows} rows and {argument} {len(labels)} labels; give equally many, at least one."
        )
    if labels.is_meta:
        return
    least, most = labels.min().item(), labels.max().item()
    if least < 0 or (classes is not None and most >= classes):
        allowed = "0 or above" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(
            f"{argument} holds the label {least if least < 0 else most}; labels must lie {allowed}. Leave out rows "
            "without a label, and count classes from 0."
        )


def device_of(generator: torch.Generator | None, otherwise=None):
    """Where to draw: the generator's device; without one ``otherwise``, or torch's default device if it holds numbers.

    Raises:
        TypeError: not a generator, a seed for instance.
    """
    if generator is None:
        if otherwise is None and torch.empty(0).is_meta:  # "meta" is torch's default device
            return "cpu"
        return otherwise
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {generator!r}; from a seed it is made by "
            "torch.Generator().manual_seed(0)."
        )
    return generator.device
