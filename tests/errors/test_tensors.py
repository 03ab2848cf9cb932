"""The checks of tensors: what passes, what does not, and what is said then."""

import pytest
import torch

from pso_lib import errors


def test_the_first_entry_that_is_not_finite_is_named():
    errors.require_finite("W", torch.ones(2, 2))
    with pytest.raises(errors.NonFiniteError, match=r"W holds 2 non-finite value\(s\), the first at index \[0, 1\]"):
        errors.require_finite("W", torch.tensor([[1.0, torch.nan], [torch.inf, 0.0]]))


@pytest.mark.parametrize(
    "labels, words",
    [
        (torch.tensor([0, 3]), "holds the label 3; labels must lie from 0 to 2"),
        (torch.tensor([-1, 0]), "holds the label -1"),
        (torch.tensor([[0], [1]]), "must be .N,., one integer per row"),
        (torch.tensor([0.0, 1.0]), "dtype torch.float32"),
        (torch.tensor([0]), "2 rows and y 1 labels"),
    ],
)
def test_labels(labels, words):
    errors.require_labels("y", torch.tensor([0, 2]), 2, 3)
    with pytest.raises(ValueError, match=words):
        errors.require_labels("y", labels, 2, 3)


def test_generators_draw_where_they_live():
    assert errors.device_of(torch.Generator()) == torch.device("cpu") and errors.device_of(None, "meta") == "meta"
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator or None, got 0.*manual_seed\(0\)"):
        errors.device_of(0)


def test_under_autocast_any_precision_will_do():
    x = torch.ones(2)
    with pytest.raises(ValueError, match=r"x is torch.float32, the weights are torch.float64; pass x.to"):
        errors.require_dtype("x", x, torch.float64)
    assert not errors.autocast_enabled("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert errors.autocast_enabled("cpu")
        errors.require_dtype("x", x, torch.float64)
