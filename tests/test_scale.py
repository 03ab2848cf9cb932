"""PSO_SCALE chooses how much runs."""

import pytest

from pso_lib.scale import choose, scale


def test_default_is_quick(monkeypatch):
    monkeypatch.delenv("PSO_SCALE", raising=False)
    assert scale() == "quick"
    monkeypatch.setenv("PSO_SCALE", "")
    assert scale() == "quick"


@pytest.mark.parametrize("given, expected", [("smoke", 1), ("quick", 2), ("full", 3), (" Full ", 3)])
def test_choose_follows_the_environment(monkeypatch, given, expected):
    monkeypatch.setenv("PSO_SCALE", given)
    assert choose(smoke=1, quick=2, full=3) == expected


def test_an_unknown_scale_names_the_nearest(monkeypatch):
    monkeypatch.setenv("PSO_SCALE", "quik")
    with pytest.raises(ValueError, match=r"PSO_SCALE='quik' is unknown.*Did you mean 'quick'"):
        scale()
    with pytest.raises(ValueError, match="PSO_SCALE"):
        choose(smoke=1, quick=2, full=3)


def test_no_scale_may_be_forgotten():
    with pytest.raises(TypeError, match="full"):
        choose(smoke=1, quick=2)
