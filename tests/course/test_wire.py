"""Plain data crosses unchanged; nothing else crosses, in either direction."""

import json
import math
import os
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pso_lib.course.wire import LARGEST, Unplain, decoded, encoded, receive, send


def there_and_back(value):
    return decoded(json.loads(json.dumps(encoded(value))))


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -(10**30), 2.5, math.inf, "ü\ud800", Fraction(3, 7), 1 + 2j, [1, [2]], (1, (2,)), {1, 2}]
    + [{"a": {(1, 2): [None]}}, [], {}, range(3)],
    ids=repr,
)
def test_plain_values_stay_what_they_are(value):
    found = there_and_back(value)
    assert found == (list(value) if isinstance(value, range) else value)
    assert isinstance(value, range) or type(found) is type(value)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    )
)
def test_any_nest_of_plain_values_comes_back(value):
    assert there_and_back(value) == value


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64]
)
def test_tensors_keep_every_bit(dtype):
    value = (torch.randn(3, 4) * 3).to(dtype)
    for found in (there_and_back(value), there_and_back(value.T).T, there_and_back([value])[0]):
        assert found.dtype == dtype and torch.equal(found, value)
    array = value.numpy()
    assert np.array_equal(there_and_back(array), array) and there_and_back(array).dtype == array.dtype
    assert np.array_equal(there_and_back(array.astype(array.dtype.newbyteorder(">"))), array)
    assert there_and_back(value[:0]).shape == (0, 4) and there_and_back(value[0, 0]).shape == ()


def test_what_is_nearly_plain_is_made_so():
    leaf = torch.ones(2, requires_grad=True)
    assert there_and_back(leaf * 2).tolist() == [2, 2]
    assert there_and_back(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert there_and_back(torch.eye(2).to_sparse()).tolist() == [[1, 0], [0, 1]]
    assert there_and_back([np.float32(0.5), np.int64(2), np.bool_(True)]) == [0.5, 2, True]
    assert there_and_back([sp.Rational(2, 3), sp.sqrt(2), sp.Matrix([[1, 2]])]) == [Fraction(2, 3), 2**0.5, [[1, 2]]]
    assert there_and_back(torch.nn.Linear(2, 1).state_dict()).keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    "value, said",
    [
        (torch.nn.Linear(2, 1), "a Linear"),
        (torch.nn.Linear, "the class"),
        (len, "a builtin_function"),
        ((n for n in "ab"), "a generator"),
        (sp.Symbol("x"), "a Symbol"),
        (np.array([object()]), "an array of object"),
        (np.array(["a"]), "an array of <U1"),
        (torch.zeros(LARGEST), "MB, which is too much"),
        (10**2000, "more than a thousand digits"),
    ],
)
def test_everything_else_is_refused_by_name(value, said):
    with pytest.raises(Unplain, match=said):
        encoded(value)


def test_a_list_in_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(Unplain, match="lists in lists"):
        encoded(value)


@pytest.mark.parametrize(
    "data",
    [
        {"object": 1},
        {"dict": 3},
        {"dict": [[[1], 2]]},
        {"set": [[1]]},
        {"a": 1, "b": 2},
        {"fraction": [1, 0]},
        {"complex": ["x", 1]},
        {"tensor": ["float64", [2], "AAAA"]},
        {"tensor": ["object", [], ""]},
        {"tensor": ["float64", [-1], ""]},
        {"tensor": ["float64", [10**12, 0], "!"]},
        {"array": None},
    ],
    ids=repr,
)
def test_what_nobody_encodes_is_refused(data):
    with pytest.raises(ValueError):
        decoded(data)
    deep = 0
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        decoded(deep)


def test_messages_are_taken_whole_from_a_stream():
    read_end, write_end = os.pipe()
    send(write_end, {"a": 1})
    send(write_end, [2])
    data = os.read(read_end, 1000)
    buffer = bytearray(data[:7])
    assert receive(buffer) is None
    buffer += data[7:]
    assert receive(buffer) == {"a": 1} and receive(buffer) == [2] and receive(buffer) is None
    for garbage in (b"\xff\xff\xff\xff", b"\0\0\0\2{]", b"\0\0\4\0" + b"[" * 1024):
        with pytest.raises(ValueError, match="no message"):
            receive(bytearray(garbage))
    with pytest.raises(Unplain, match="too much"):
        send(write_end, "x" * (LARGEST + 1))
    os.close(read_end)
    os.close(write_end)
