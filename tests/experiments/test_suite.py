"""What the kinds of experiments share: data kept between units, numbers as JSON has them."""

import math

import pytest

from pso_lib.experiments.suite import Sources, number


def test_the_last_of_each_sort_is_kept(monkeypatch):
    loaded = []
    monkeypatch.setattr("pso_lib.data.load", lambda name, **where: loaded.append(name) or object())
    monkeypatch.setattr("pso_lib.experiments.suite.load_text", lambda name, **where: loaded.append(name) or object())
    sources = Sources()
    first = sources.images("digits")
    assert sources.text("words") is not first and sources.images("digits") is first
    assert sources.images("mnist") is not first and sources.images("digits") is not first
    assert loaded == ["digits", "words", "mnist", "digits"]


@pytest.mark.parametrize(
    "value, expected", [(1 / 3, 0.33333), (None, None), (math.nan, None), (-math.inf, None), (0.0, 0.0)]
)
def test_numbers_as_json_knows_them(value, expected):
    assert number(value) == expected


def test_digits_after_the_point():
    assert number(2 / 3, 2) == 0.67
