"""The checks of the chapter on depth accept the solution and name each likely mistake."""

import math

import pytest
import sympy as sp
import torch

from pso_lib.checks import Wrong, check

n = sp.symbols("n", positive=True)


def fold(c):
    return 2 / math.pi * (math.sqrt(1 - c * c) + c * math.asin(c))


def leaky(c, s):
    a, b = (1 + s) ** 2, (1 - s) ** 2
    return (a * c + b * fold(c)) / (a + b)


@pytest.mark.parametrize(
    "name, answer",
    [
        ("why-depth-stops-learning/stable-rank-by-hand", 2),
        ("why-depth-stops-learning/stable-rank-by-hand", sp.Rational(18, 9)),
        ("why-depth-stops-learning/he-layer-variance", 5 / n),
        ("why-depth-stops-learning/he-layer-variance", 5 / sp.Symbol("n")),
        ("why-depth-stops-learning/leaky-correlation-map", leaky),
        ("why-depth-stops-learning/width-for-depth", (2560, 1280)),
        ("why-depth-stops-learning/tanh-gain", 1.0),
    ],
)
def test_a_right_answer_is_accepted(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}: ")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("why-depth-stops-learning/stable-rank-by-hand", 4, "That is the rank"),
        ("why-depth-stops-learning/stable-rank-by-hand", 8 / 3, "add their squares"),
        ("why-depth-stops-learning/stable-rank-by-hand", 2.67, "add their squares"),
        ("why-depth-stops-learning/stable-rank-by-hand", 6, "divide by its square"),
        ("why-depth-stops-learning/stable-rank-by-hand", 18, "divide it by the largest"),
        ("why-depth-stops-learning/stable-rank-by-hand", math.sqrt(2), "square it"),
        ("why-depth-stops-learning/stable-rank-by-hand", 1, "off by"),
        ("why-depth-stops-learning/he-layer-variance", 6 / n, "subtract its squared mean"),
        ("why-depth-stops-learning/he-layer-variance", 5, "variance of one term"),
        ("why-depth-stops-learning/he-layer-variance", 5 * n, "That is the sum's variance"),
        ("why-depth-stops-learning/he-layer-variance", 2 / n, "without ReLU"),
        ("why-depth-stops-learning/he-layer-variance", 11 / n, "half of the units are silent"),
        ("why-depth-stops-learning/he-layer-variance", sp.sqrt(5 / n), "standard deviation"),
        ("why-depth-stops-learning/he-layer-variance", -5 / (2 * n), "E log q"),
        ("why-depth-stops-learning/he-layer-variance", 5 / (2 * n), "twice as much"),
        ("why-depth-stops-learning/he-layer-variance", lambda n: 5 / n, "not a function"),
        ("why-depth-stops-learning/he-layer-variance", 7 / n, "not equal"),
        ("why-depth-stops-learning/he-layer-variance", 5 / (n * sp.Symbol("z")), "several symbols"),
        ("why-depth-stops-learning/leaky-correlation-map", 0.5, "give a function"),
        (
            "why-depth-stops-learning/leaky-correlation-map",
            lambda c, s: (1 + s) / 2 * c + (1 - s) / 2 * fold(c),
            "by their squares",
        ),
        (
            "why-depth-stops-learning/leaky-correlation-map",
            lambda c, s: ((1 + s) ** 2 * c + (1 - s) ** 2 * fold(c)) / 4,
            "divide by its value",
        ),
        ("why-depth-stops-learning/leaky-correlation-map", lambda c, s: leaky(c, -s), "You exchanged the parts"),
        ("why-depth-stops-learning/leaky-correlation-map", lambda s, c: leaky(c, s), "the order is (c, s)"),
        ("why-depth-stops-learning/leaky-correlation-map", lambda c, s: torch.sqrt(c), "plain floats"),
        ("why-depth-stops-learning/leaky-correlation-map", lambda c, s: leaky(c, 0), "the slope s does not enter"),
        ("why-depth-stops-learning/leaky-correlation-map", lambda c, s: c, "off by"),
        ("why-depth-stops-learning/width-for-depth", (1280, 2560), "exchanged"),
        ("why-depth-stops-learning/width-for-depth", (2560, 2560), "He's"),
        ("why-depth-stops-learning/width-for-depth", (2560, 5120), "half as much"),
        ("why-depth-stops-learning/width-for-depth", (1.6, 0.8), "the wrong way"),
        ("why-depth-stops-learning/width-for-depth", 2560, "shape"),
        ("why-depth-stops-learning/tanh-gain", 0.9, "Raise the gain"),
        ("why-depth-stops-learning/tanh-gain", 0.01, "Raise the gain"),
        ("why-depth-stops-learning/tanh-gain", 5 / 3, "Lower the gain"),
        ("why-depth-stops-learning/tanh-gain", -1.0, "above 0"),
        ("why-depth-stops-learning/tanh-gain", math.nan, "finite"),
    ],
)
def test_a_wrong_answer_is_named(name, answer, part):
    with pytest.raises(Wrong, match=f"^{name}: ") as caught:
        check(name, answer)
    assert part in str(caught.value)
