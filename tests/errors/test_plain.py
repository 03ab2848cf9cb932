"""The checks of what needs no tensor: what passes, what does not, and what is said then."""

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


def test_a_state_of_another_kind_names_both():
    errors.require_keys("the state", {"a": 1}, ["a"])
    for state in ({"b": 1}, {"a": 1, "b": 2}, {}, None):
        with pytest.raises(ValueError, match=r"the state is of another kind: it needs \['a'\]"):
            errors.require_keys("the state", state, ["a"])
