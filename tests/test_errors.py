"""The checks that all modules share: what passes, what does not, and what is said then."""

import numpy as np
import pytest
import torch

from pso_lib import errors


@pytest.mark.parametrize("given", [2, np.int64(2), np.uint8(2), torch.tensor(2)])
def test_integers_of_any_make_become_pythons(given):
    found = errors.require_positive_int("k", given)
    assert found == 2 and type(found) is int


@pytest.mark.parametrize("given", [0, -1, 2.0, True, "2", None, torch.tensor([1, 2])])
def test_other_things_are_no_positive_integers(given):
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got"):
        errors.require_positive_int("k", given)


def test_the_least_integer_is_allowed():
    assert errors.require_positive_int("k", 0, least=0) == 0


@pytest.mark.parametrize("given", [0, -1.0, float("inf"), float("nan"), True, "1", None])
def test_a_positive_number_is_finite_and_above_zero(given):
    assert errors.require_positive("lr", np.float32(0.5)) == 0.5
    with pytest.raises(ValueError, match="lr must be a finite number above 0, got"):
        errors.require_positive("lr", given)


def test_the_nearest_name_is_offered_if_one_is_near():
    assert errors.nearest("flor", ["floor", "ceil"]) == " Did you mean 'floor'?"
    assert errors.nearest("xyz", ["floor", "ceil"]) == ""


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


def test_a_state_of_another_kind_names_both():
    errors.require_keys("the state", {"a": 1}, ["a"])
    for state in ({"b": 1}, {"a": 1, "b": 2}, {}, None):
        with pytest.raises(ValueError, match=r"the state is of another kind: it needs \['a'\]"):
            errors.require_keys("the state", state, ["a"])


def test_generators_draw_where_they_live():
    assert errors.device_of(torch.Generator()) == torch.device("cpu") and errors.device_of(None, "meta") == "meta"
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator or None, got 0.*manual_seed\(0\)"):
        errors.device_of(0)
