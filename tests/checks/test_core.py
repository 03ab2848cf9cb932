"""The machinery of the exercise checks."""

import pytest
import sympy as sp
import torch

from pso_lib.checks import Wrong, check, exercise, known, require_close


@pytest.fixture
def toy():
    from pso_lib.checks import _core

    known()  # load the real ones first: a second load would meet the toy

    @exercise("toy-square")
    def _(answer):
        require_close(answer(3.0), 9.0, {"You doubled; squaring multiplies a number by itself.": 6.0})
        return "x times x"

    yield
    del _core._registry["toy-square"]


def test_a_right_answer_prints_a_line(toy, capsys):
    check("toy-square", lambda x: x * x)
    assert capsys.readouterr().out == "✓ toy-square: x times x\n"


def test_an_unanswered_exercise_prints_a_reminder(toy, capsys):
    check("toy-square", ...)
    assert "no answer yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, part",
    [
        (lambda x: 2 * x, "You doubled"),
        (lambda x: x + 4, "off by 2"),
        (lambda x: [x, x], "shape"),
        (lambda: 1, "could not be checked: TypeError"),
        (None, "must return its result"),
    ],
)
def test_a_wrong_answer_is_explained(toy, answer, part):
    with pytest.raises(Wrong, match="toy-square: ") as caught:
        check("toy-square", answer)
    assert part in str(caught.value)


def test_unknown_exercise(toy):
    with pytest.raises(ValueError, match="Did you mean 'toy-square'"):
        check("toy-sqare", 1)
    with pytest.raises(ValueError, match="no exercise is called 'x'") as caught:
        check("x", 1)
    assert str(caught.value).endswith(f" There are: {', '.join(known())}.") and "toy-square" in known()


def test_names_are_unique(toy):
    with pytest.raises(ValueError, match="two checks"):
        exercise("toy-square")(lambda answer: "")


def test_sympy_answers_are_compared_as_mathematics():
    x = sp.symbols("x")
    require_close((x + 1) ** 2, sp.expand((x + 1) ** 2))
    require_close(sp.Matrix([[1, x]]), sp.Matrix([[1, x]]))
    with pytest.raises(Wrong, match="sign"):
        require_close(-x, x, {"The sign is the other one.": -x})
    with pytest.raises(Wrong, match="not equal"):
        require_close(sp.Matrix([[1]]), sp.Matrix([[1, x]]))


def test_a_transposed_answer_is_named():
    with pytest.raises(Wrong, match="transpose"):
        require_close(torch.zeros(2, 3), torch.ones(3, 2))


def test_every_chapter_s_checks_load():
    assert known() == sorted(set(known()))
