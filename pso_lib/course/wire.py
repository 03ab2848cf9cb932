"""Plain data as bytes: what crosses between the grader and a student's process, and nothing else does.

JSON, with tags for what it lacks; tensors and arrays keep dtype and shape. ``decoded`` builds values of these kinds
alone from whatever bytes it is given, or raises ``ValueError``.
"""

import base64
import json
import math
import os
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import torch

__all__ = ["Unplain", "decoded", "encoded", "receive", "send"]

LARGEST = 16 * 2**20  # bytes of one message
DEEPEST = 24
DTYPES = {
    str(getattr(torch, name)).removeprefix("torch."): getattr(torch, name)
    for name in "bool uint8 int8 int16 int32 int64 float16 float32 float64 complex64 complex128".split()
}


class Unplain(TypeError):
    """A value is no plain data; the text says what it holds."""


def encoded(value: Any, depth: int = 0) -> Any:
    """The value as what JSON can write. ``Unplain`` for what is not plain data."""
    if depth > DEEPEST:
        raise Unplain(f"lists in lists, more than {DEEPEST} deep")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str | float):
        return float(value) if isinstance(value, float) else value
    if isinstance(value, int):
        if abs(value) >= 10**1000:
            raise Unplain("an integer of more than a thousand digits")
        return int(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Fraction):
        return {"fraction": [encoded(value.numerator), encoded(value.denominator)]}
    if isinstance(value, torch.Tensor):
        return {"tensor": _raw(_dense(value).numpy(), "a tensor")}
    if isinstance(value, np.ndarray):
        return {"array": _raw(value, "an array")}
    if isinstance(value, dict):
        return {"dict": [[encoded(key, depth + 1), encoded(part, depth + 1)] for key, part in value.items()]}
    for tag, kind in (("tuple", tuple), ("set", set | frozenset)):
        if isinstance(value, kind):
            return {tag: [encoded(part, depth + 1) for part in value]}
    if isinstance(value, list | range):
        return [encoded(part, depth + 1) for part in value]
    return encoded(_exact(value), depth + 1)


def _dense(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().to("cpu")
    value = value.to_dense() if value.layout != torch.strided else value
    if str(value.dtype).removeprefix("torch.") not in DTYPES:
        value = value.to(torch.float32)  # bfloat16 and smaller
    return value.resolve_conj().resolve_neg()


def _raw(array: np.ndarray, what: str) -> list:
    if array.dtype.name not in DTYPES:
        raise Unplain(f"{what} of {array.dtype}")
    if array.nbytes > LARGEST // 2:
        raise Unplain(f"{what} of {array.nbytes / 2**20:.0f} MB, which is too much")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return [array.dtype.name, list(array.shape), base64.b64encode(native.tobytes()).decode()]


def _exact(value: Any) -> Any:
    """A sympy number or matrix as Python's own."""
    sympy = sys.modules.get("sympy")
    if sympy is not None and isinstance(value, sympy.MatrixBase):
        return value.tolist()
    if sympy is not None and isinstance(value, sympy.Basic) and getattr(value, "is_number", False):
        if value.is_Rational:
            return Fraction(int(value.p), int(value.q))
        return float(value) if value.is_real else complex(value)
    kind = value if isinstance(value, type) else type(value)
    raise Unplain(f"{'the class' if isinstance(value, type) else 'a'} {kind.__name__}")


def decoded(data: Any, depth: int = 0) -> Any:
    """The value that ``encoded`` wrote. ``ValueError`` for what it would not have written."""
    if depth > DEEPEST + 2:
        raise ValueError("lists in lists, too deep")
    if data is None or isinstance(data, bool | str | float | int):
        return data
    if isinstance(data, list):
        return [decoded(part, depth + 1) for part in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("no tag")
    ((tag, body),) = data.items()
    try:
        if tag == "complex":
            return complex(*map(float, body))
        if tag == "fraction":
            return Fraction(*map(int, body))
        if tag in ("tensor", "array"):
            array = _array(*body)
            return torch.from_numpy(array) if tag == "tensor" else array
        if tag == "dict":
            return {decoded(key, depth + 1): decoded(part, depth + 1) for key, part in body}
        parts = [decoded(part, depth + 1) for part in body]
        return {"tuple": tuple, "set": set}[tag](parts)
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{tag!r:.20} holds what it cannot hold") from error


def _array(dtype: str, shape: list[int], text: str) -> np.ndarray:
    raw = base64.b64decode(text, validate=True)
    shape = [int(n) for n in shape]
    if dtype not in DTYPES or min(shape, default=0) < 0 or math.prod(shape) * np.dtype(dtype).itemsize != len(raw):
        raise ValueError("an array whose shape is not that of its numbers")
    return np.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else np.zeros(shape, dtype)


def send(descriptor: int, message: Any) -> None:
    """Write one message; ``Unplain`` if it is too long."""
    body = json.dumps(message).encode()
    if len(body) > LARGEST:
        raise Unplain(f"{len(body) / 2**20:.0f} MB of data, which is too much")
    body = len(body).to_bytes(4, "big") + body
    while body:
        body = body[os.write(descriptor, body) :]


def receive(buffer: bytearray) -> Any:
    """Take one whole message from the front of the buffer; None if there is none yet. ``ValueError`` for garbage."""
    if len(buffer) < 4:
        return None
    size = int.from_bytes(buffer[:4], "big")
    if size > LARGEST:
        raise ValueError("no message")
    if len(buffer) < 4 + size:
        return None
    body = bytes(buffer[4 : 4 + size])
    del buffer[: 4 + size]
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("no message") from error
