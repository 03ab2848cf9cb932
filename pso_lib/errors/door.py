"""Arguments checked at the door of a function, by their annotations."""

import collections.abc
import inspect
import types
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import numpy as np
import torch
from torch import nn

from pso_lib.errors.plain import require_int, require_number
from pso_lib.errors.tensors import device_of, require_real

__all__ = ["checked"]

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
