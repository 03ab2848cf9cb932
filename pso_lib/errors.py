"""Errors whose text holds the remedy."""

import collections.abc
import inspect
import math
import numbers
import operator
import sys
import types
from collections.abc import Callable, Hashable, Iterable
from difflib import get_close_matches
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import numpy as np
import torch
from torch import nn

__all__ = [
    "DataError",
    "NonFiniteError",
    "UndefinedError",
    "autocast_enabled",
    "checked",
    "device_of",
    "nearest",
    "require_attributes",
    "require_choice",
    "require_dtype",
    "require_finite",
    "require_floating",
    "require_int",
    "require_keys",
    "require_labels",
    "require_matrix",
    "require_number",
    "require_outside_optimizer",
    "require_positive",
    "require_positive_int",
    "require_real",
    "require_rows",
    "require_same_dtype",
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
            "or float64 often cures it. Or leave them out."
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


def require_rows(argument: str, value: torch.Tensor, width: int | None = None) -> None:
    """Raise ``ValueError`` unless the tensor is (N, n), N >= 1, of finite floating point numbers; n the ``width``."""
    if width is not None:
        require_shape(argument, value, width)
    if value.ndim != 2 or len(value) == 0:
        wanted = f"(N, {'n' if width is None else width})"
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}; it must be {wanted}, N >= 1. One point is {argument}[None]."
        )
    require_floating(argument, value)
    require_finite(argument, value)


def require_keys(argument: str, state: dict, keys) -> None:
    """Raise ``ValueError`` unless the dictionary ``state`` has exactly the given keys."""
    if not isinstance(state, dict) or set(state) != set(keys):
        found = sorted(map(str, state)) if isinstance(state, dict) else repr(state)
        raise ValueError(f"{argument} is of another kind: it needs {sorted(keys)}, and has {found}.")


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


def require_tensor(argument: str, value) -> None:
    """Raise ``TypeError`` unless ``value`` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{argument} is a {type(value).__name__}; give a tensor: torch.as_tensor({argument}).")


def require_real(argument: str, value) -> None:
    """Raise ``TypeError`` unless ``value`` is a tensor, ``ValueError`` unless of real numbers, not on "meta"."""
    require_tensor(argument, value)
    if value.is_meta:
        raise ValueError(f'{argument} is on the device "meta", which holds no numbers; make it on "cpu" or a GPU.')
    if value.is_complex():
        raise ValueError(f"{argument} is {value.dtype}; it must be real: {argument}.real, or torch.view_as_real.")


def require_floating(argument: str, value: torch.Tensor) -> None:
    """Raise ``ValueError`` unless the tensor holds floating point numbers."""
    if not value.is_floating_point():
        raise ValueError(
            f"{argument} has dtype {value.dtype}; it must be floating point: {argument}.double(). Tokens have no "
            "derivative: start from their embedding."
        )


def require_matrix(argument: str, value: torch.Tensor, *, finite: bool = True) -> None:
    """Raise ``ValueError`` unless the tensor is (..., m, n), m and n at least 1, of (finite) floating point numbers."""
    if value.ndim < 2 or 0 in value.shape[-2:]:
        raise ValueError(f"{argument} has shape {tuple(value.shape)}; it must be (..., m, n), m and n at least 1.")
    require_floating(argument, value)
    if finite:
        require_finite(argument, value)


def require_attributes(argument: str, value, *names: str) -> None:
    """Raise ``TypeError`` unless ``value`` is an object with these attributes; whatever has them will do."""
    missing = [name for name in names if not hasattr(value, name)]
    if missing or isinstance(value, type):
        what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise TypeError(f"{argument} is {what}; give an object that has {', '.join(names)}.")


def require_same_dtype(argument: str, value: torch.Tensor, other: str, dtype: torch.dtype) -> None:
    """Raise ``ValueError`` unless ``value`` has the ``dtype`` of the argument ``other``."""
    if value.dtype != dtype:
        raise ValueError(f"{argument} is {value.dtype} and {other} {dtype}; give both in one: {argument}.to({dtype}).")


def require_dtype(argument: str, value: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise ``ValueError`` unless ``value`` has the weights' ``dtype``; under autocast, which casts, it may be any."""
    require_tensor(argument, value)
    if value.dtype != dtype and not autocast_enabled(value.device.type):
        raise ValueError(
            f"{argument} is {value.dtype}, the weights are {dtype}; pass {argument}.to({dtype}), or move the network: "
            f"network.to({value.dtype if value.is_floating_point() else 'torch.float64'})."
        )


def autocast_enabled(device: str) -> bool:
    """Whether torch.autocast is on for this type of device."""
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # torch before 2.4
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def require_labels(
    argument: str, labels: torch.Tensor, rows: int, classes: int | None = None, *, of: str = "the input"
) -> None:
    """Raise ``ValueError`` unless ``labels`` is (rows,), integers from 0 up, below ``classes`` if that is given.

    ``of``: what the rows are of, for the text.
    """
    require_tensor(argument, labels)
    shape = tuple(labels.shape)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"{argument} has shape {shape} and dtype {labels.dtype}; it must be (N,), one integer per row. A column "
            f"is flattened by {argument}.flatten(), one-hot rows become numbers by {argument}.argmax(1)."
        )
    if len(labels) != rows or rows == 0:
        raise ValueError(f"{of} has {rows} rows and {argument} {len(labels)} labels; give equally many, at least one.")
    if labels.is_meta:
        return
    least, most = labels.min().item(), labels.max().item()
    if least < 0 or (classes is not None and most >= classes):
        allowed = "0 or above" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(
            f"{argument} holds the label {least if least < 0 else most}; labels must lie {allowed}. Leave out rows "
            "without a label, and count classes from 0."
        )


def device_of(generator: torch.Generator | None, otherwise=None, argument: str = "generator"):
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
            f"{argument} must be a torch.Generator or None, got {generator!r}; from a seed it is made by "
            "torch.Generator().manual_seed(0)."
        )
    return generator.device


# ------------------------------------------------------------------------------------------- at the door

_P = ParamSpec("_P")
_T = TypeVar("_T")


@overload
def checked(function: Callable[_P, _T], /) -> Callable[_P, _T]: ...
@overload
def checked(*, but: tuple[str, ...]) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
def checked(function=None, /, *, but: tuple[str, ...] = ()):
    """Check at each call that arguments are of the plain kinds their annotations say, but for those named in ``but``.

    Looked at: tensors (real, and not on "meta"), integers, finite real numbers, bools, modules, generators, dtypes,
    functions, sequences, and objects of this library's own classes; each also where it may be None. Anything else, and
    what is left to its default, passes: ranges, shapes and names are the function's own business. So an error names the
    argument that the caller wrote, not one of a function further in.

    Raises, when the function is called:
        TypeError: an object of the wrong kind. ValueError: no such number, or neither True nor False.
    """
    if function is None:
        return partial(checked, but=but)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]
    checks: dict[str, Callable[[str, Any], None]] = {}
    ready = False

    @wraps(function)
    def at_the_door(*args, **kwargs):
        nonlocal ready
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if not ready:  # not before: an annotation may name what is defined further down
            hints = get_type_hints(function)
            checks.update({name: _check_of(hint) for name, hint in hints.items() if name not in (*but, "return")})
            ready = True
        for name, given in (*zip(names, args, strict=False), *kwargs.items()):
            if name in checks:
                checks[name](name, given)
        return function(*args, **kwargs)

    return at_the_door


def _check_of(hint) -> Callable[[str, Any], None]:
    """What looks at an argument with this annotation."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        if len(rest) > 1 or len(rest) == len(get_args(hint)):
            return _pass
        return partial(_or_none, _check_of(rest[0]))
    if hint in _CHECKS:
        return _CHECKS[hint]
    origin = get_origin(hint) or hint
    if origin in (collections.abc.Sequence, collections.abc.Iterable):
        return partial(_require_several, get_args(hint))
    if origin is collections.abc.Callable:
        return _require_function
    if isinstance(hint, type) and issubclass(hint, nn.Module):
        return _require_module
    if isinstance(hint, type) and hint.__module__.startswith("pso_lib.") and not getattr(hint, "_is_protocol", False):
        return partial(_require_object, hint)
    return _pass


def _pass(argument: str, given) -> None:
    pass


def _or_none(check, argument: str, given) -> None:
    if given is not None:
        check(argument, given)


def _require_bool(argument: str, given) -> None:
    if not isinstance(given, (bool, np.bool_)) and not (type(given) is int and given in (0, 1)):
        raise ValueError(f"{argument} must be True or False, got {given!r}.")


def _require_module(argument: str, given) -> None:
    if isinstance(given, nn.Module):
        return
    if isinstance(given, type):
        raise TypeError(f"{argument} is the class {given.__name__}; give an object of it: {given.__name__}(…).")
    if isinstance(given, dict):
        raise TypeError(
            f"{argument} is a {type(given).__name__}; give an nn.Module. From a state_dict it is built by making the "
            "network anew, then network.load_state_dict."
        )
    raise TypeError(f"{argument} is a {type(given).__name__}; give an nn.Module, a network.")


def _require_dtype_object(argument: str, given) -> None:
    if not isinstance(given, torch.dtype):
        raise TypeError(f"{argument} must be a torch dtype, such as torch.float64, got {given!r}.")


def _require_function(argument: str, given) -> None:
    if isinstance(given, type) and issubclass(given, nn.Module):
        _require_module(argument, given)
    if not callable(given):
        raise TypeError(f"{argument} must be a function, or anything that can be called, got {_short(given)}.")


def _require_several(of: tuple, argument: str, given) -> None:
    if not isinstance(given, Iterable) or (isinstance(given, (str, bytes)) and of != (str,)):
        raise TypeError(
            f"{argument} must be a list, tuple or the like, got {_short(given)}; one alone goes in brackets."
        )
    if of == (float,) and any(part is None or isinstance(part, (str, bytes)) for part in given):
        raise TypeError(f"{argument} must hold numbers; leave out what is none, or convert it: float(text).")


def _require_object(kind: type, argument: str, given) -> None:
    if not isinstance(given, kind):
        raise TypeError(f"{argument} is {_short(given)}; give a {kind.__name__} (of {kind.__module__}).")


def _short(given) -> str:
    return repr(given) if isinstance(given, (str, int, float, type(None))) else f"a {type(given).__name__}"


_CHECKS: dict[Any, Callable[[str, Any], Any]] = {
    torch.Tensor: require_real,
    int: require_int,
    float: require_number,
    bool: _require_bool,
    torch.dtype: _require_dtype_object,
    torch.Generator: lambda argument, given: device_of(given, None, argument),
}
