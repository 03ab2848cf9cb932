"""The door: what is checked there, by which annotation, and what goes through untouched."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pso_lib.errors import checked


@checked
def of_all_kinds(
    x: Tensor | None = None,
    count: int = 1,
    size: float = 1.0,
    flag: bool = False,
    model: nn.Module | None = None,
    dtype: torch.dtype | None = None,
    either: int | str = 0,
    plain=None,
) -> tuple:
    """Returns what it was given."""
    return x, count, size, flag, model, dtype, either, plain


def test_right_arguments_pass_untouched():
    x, model = torch.ones(2), nn.Linear(1, 1)
    for given in (
        {"x": x, "count": np.int64(3), "size": 2, "flag": True, "model": model, "dtype": torch.float64},
        {"x": None, "count": torch.tensor(3), "size": np.float32(0.5), "flag": np.True_, "either": "two"},
        {"size": torch.tensor(0.5), "either": [1], "plain": "anything", "flag": 1},
    ):
        names = ("x", "count", "size", "flag", "model", "dtype", "either", "plain")
        returned = dict(zip(names, of_all_kinds(**given), strict=True))
        assert all(returned[name] is value for name, value in given.items())
    assert of_all_kinds(x, 2)[:2] == (x, 2)
    assert of_all_kinds.__doc__ == "Returns what it was given."


@pytest.mark.parametrize(
    "given, error, words",
    [
        ({"x": [1.0]}, TypeError, "x is a list; give a tensor"),
        ({"x": torch.ones(2, device="meta")}, ValueError, "x is on the device .meta."),
        ({"x": torch.ones(2) * 1j}, ValueError, "x is torch.complex64; it must be real"),
        ({"count": 2.0}, ValueError, "count must be an integer, got 2.0"),
        ({"count": True}, ValueError, "count must be an integer, got True"),
        ({"size": float("nan")}, ValueError, "size must be a finite number, got nan"),
        ({"size": "1"}, ValueError, "size must be a finite number"),
        ({"size": True}, ValueError, "size must be a finite number"),
        ({"flag": "yes"}, ValueError, "flag must be True or False"),
        ({"flag": None}, ValueError, "flag must be True or False"),
        ({"model": nn.Linear}, TypeError, "model is the class Linear; give an object"),
        ({"model": {}}, TypeError, "model is a dict.*load_state_dict"),
        ({"dtype": np.float64}, TypeError, "dtype must be a torch dtype"),
    ],
)
def test_wrong_kinds_are_named(given, error, words):
    with pytest.raises(error, match=words):
        of_all_kinds(**given)


def test_a_missing_or_unknown_argument_is_pythons_own_error():
    @checked
    def f(x: Tensor):
        return x

    for call in (f, lambda: f(torch.ones(1), 2), lambda: f(y=1)):
        with pytest.raises(TypeError, match="argument"):
            call()


def test_what_is_checked_can_be_transformed():
    @checked
    def half(x: Tensor, factor: float = 0.5) -> Tensor:
        return factor * x

    x = torch.arange(3.0)
    assert torch.equal(torch.func.vmap(half)(x), x / 2)
    assert torch.equal(torch.func.vmap(torch.func.grad(half))(x), torch.full((3,), 0.5))
    assert torch.equal(torch.compile(half, backend="eager", fullgraph=True)(x), x / 2)
