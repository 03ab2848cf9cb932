"""The machinery of the exercise checks."""

from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
import torch

from pso_lib.checks import (
    Result,
    Wrong,
    as_numbers,
    call,
    check,
    exercise,
    known,
    require_close,
    require_function,
    require_parts,
)
from pso_lib.checks._core import is_blank

NAME = "mirrors/toy"


@pytest.fixture
def toy():
    from pso_lib.checks import _core

    known("mirrors")  # load the real ones first

    @exercise(NAME, points=2)
    def _(answer):
        cases = [(3.0,), (4.0,)]
        require_function(answer, lambda x: x * x, cases, {"You doubled; squaring multiplies a number by itself.": dbl})
        return "x times x"

    yield
    del _core._registry[NAME]


def dbl(x):
    return 2 * x


def test_a_right_answer_prints_a_line(toy, capsys):
    found = check(NAME, lambda x: x * x)
    assert found and found == Result(NAME, True, "x times x", 2, 2)
    assert capsys.readouterr().out == f"✓ {NAME}: x times x\n"
    assert found._ipython_display_() is None  # printed once, not twice


def blank(x): ...


def documented(x):
    """What it should do."""


def scaffold(x):
    y = ...
    return y


@pytest.mark.parametrize("answer", [..., blank, documented, scaffold, lambda x: ...])
def test_a_blank_is_neither_right_nor_wrong(toy, capsys, answer):
    found = check(NAME, answer, strict=True)
    assert (found.passed, found.points, bool(found)) == (None, 0, False)
    assert "no answer yet" in capsys.readouterr().out


def test_what_is_no_blank():
    assert not any(map(is_blank, (lambda x: x, lambda: 1, dbl, torch.sin, 0, None, [], scaffold)))


@pytest.mark.parametrize(
    "answer, part",
    [
        (lambda x: 2 * x, "You doubled"),
        (lambda x: x * x + 2, "is too large, by 22 %"),
        (lambda x: [x, x], "shape"),
        (lambda: 1, "could not be checked: TypeError"),
        (lambda x: None if x else 1, "end it with `return`"),
        (None, "must return its result"),
        (9.0, "the function itself"),
        (lambda x: -x * x, "has the other sign"),
        (lambda x: x * x if x < 4 else 0.0, "right on 1 of 2 cases"),
    ],
)
def test_a_wrong_answer_is_explained(toy, answer, part, capsys):
    found = check(NAME, answer, strict=False)
    assert found.passed is False and found.points == 0 and part in found.message
    assert capsys.readouterr().out.startswith(f"✗ {NAME}: ")
    with pytest.raises(Wrong, match=NAME):
        check(NAME, answer, strict=True)


def test_the_environment_decides_on_strictness(toy, monkeypatch):
    monkeypatch.setenv("PSO_STRICT", "1")
    with pytest.raises(Wrong):
        check(NAME, dbl)
    monkeypatch.delenv("PSO_STRICT")
    assert check(NAME, dbl).passed is False


def test_unknown_exercise(toy):
    with pytest.raises(ValueError, match="Did you mean 'mirrors/toy'"):
        check("mirrors/tpy", 1)
    with pytest.raises(ValueError, match="no exercise is called 'x'") as caught:
        check("x", 1)
    assert str(caught.value).endswith(f" There are: {', '.join(known())}.") and NAME in known()


def test_one_chapter_is_loaded_at_a_time():
    import subprocess
    import sys

    code = (
        "import sys; from pso_lib import check; check('mirrors/find', ...); "
        "print([name for name in sys.modules if name.startswith('pso_lib.checks.') and '._' not in name])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.splitlines()[-1] == "['pso_lib.checks.mirrors']", run.stderr


def test_names_are_unique(toy):
    with pytest.raises(ValueError, match="two checks"):
        exercise(NAME)(lambda answer: "")


def test_every_name_is_that_of_its_chapter():
    from pso_lib.checks import _core

    for name in known():
        module = _core._registry[name].function.__module__.rpartition(".")[2]
        assert name.partition("/")[0] == module.replace("_", "-")


HALVES = torch.tensor([[0.5, 1.0], [1.5, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "form",
    [
        [[0.5, 1], [1.5, 2]],
        ((Fraction(1, 2), 1), (Fraction(3, 2), 2)),
        [["1/2", 1], ["3/2", "2"]],
        np.array([[0.5, 1], [1.5, 2]], dtype=np.float32),
        HALVES.float().requires_grad_(),
        HALVES.bfloat16(),
        sp.Matrix([[sp.Rational(1, 2), 1], [sp.Rational(3, 2), 2]]),
        [torch.tensor([0.5, 1.0]), np.array([1.5, 2.0])],
        [[sp.Rational(1, 2), sp.Integer(1)], [np.float32(1.5), torch.tensor(2)]],
    ],
)
def test_fair_forms_are_taken_alike(form):
    assert torch.equal(as_numbers(form), HALVES)


@pytest.mark.parametrize(
    "form, part", [([[1], [1, 2]], "ragged"), ("many", "'many' where a number"), (torch.tensor(1j), "complex")]
)
def test_what_is_no_number(form, part):
    with pytest.raises(Wrong, match=part):
        as_numbers(form)


def test_a_column_or_row_of_sympy_is_a_vector():
    assert as_numbers(sp.Matrix([1, 2])).tolist() == as_numbers(sp.Matrix([[1, 2]])).tolist() == [1, 2]


def test_truth_is_computed_before_the_answer_is_called():
    """An answer that overwrites its argument cannot change what it is compared with."""

    def overwrites(x):
        x.fill_(1.0)
        return x.sum()

    with pytest.raises(Wrong, match="in place"):
        require_function(overwrites, lambda x: x.sum(), [(torch.arange(3.0),)])
    assert call(lambda x: x + 1, torch.zeros(2)).tolist() == [1, 1]


def test_a_form_is_given_to_truth_answer_and_mistakes_alike():
    """Here the order does not matter; and parts of different shapes are compared as one."""

    def truth(x):
        return [x, 2 * x]

    def in_order(value, x):
        return sorted(value)

    require_function(lambda x: (2 * x, x), truth, [(1.0,), (3.0,)], form=in_order)
    with pytest.raises(Wrong, match="squared"):
        require_function(lambda x: [x, x * x], truth, [(5.0,)], {"squared": lambda x: [x * x, x]}, form=in_order)
    shapes = {"A": (2, 2), "b": (2,)}
    assert require_parts(([[1, 2], [3, 4]], [5, 6]), shapes).tolist() == [1, 2, 3, 4, 5, 6]
    for value, part in ((1.0, "return A, b"), (([1, 2], [5, 6]), "A has shape"), (([1, 2],), "2 things")):
        with pytest.raises(Wrong, match=part):
            require_parts(value, shapes)


def test_a_constant_is_told_to_use_its_arguments():
    with pytest.raises(Wrong, match="same in 2 cases"):
        require_function(lambda x: 3, lambda x: x, [(1.0,), (2.0,)])


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda t: -t, "other sign"),
        (lambda t: 2 * t, "twice"),
        (lambda t: t.mT, "transpose"),
        (lambda t: t**2, "square"),
        (lambda t: t + 1, "one too large"),
        (lambda t: t.flip(0), "reversed order"),
        (lambda t: t * float("nan"), "no finite number"),
        (lambda t: t + torch.eye(2), "differs in 2 of 4 entries, first at index \\(0, 0\\)"),
        (lambda t: t[0], "expected \\(2, 2\\)"),
    ],
)
def test_a_difference_is_said_as_a_student_can_use_it(change, part):
    with pytest.raises(Wrong, match=part):
        require_close(change(HALVES), HALVES)


def test_tolerance_is_relative_to_the_right_value():
    require_close(1e-9 * (1 + 1e-7), 1e-9)
    with pytest.raises(Wrong):
        require_close(2e-9, 1e-9)
    require_close([0, 0], [0, 0])


def test_nothing_is_near_infinity():
    require_close(float("inf"), float("inf"))
    require_close([1.0, float("inf")], [1.0, float("inf")])
    for answer in (1e300, float("-inf"), float("nan")):
        with pytest.raises(Wrong):
            require_close(answer, float("inf"))
    with pytest.raises(Wrong, match="finite, where the right value is not"):
        require_close([1.0, 2.0], [1.0, float("inf")])
    with pytest.raises(Wrong, match="differs in 1 of 2"):
        require_close([5.0, float("inf")], [1.0, float("inf")])


def test_sympy_answers_are_compared_as_mathematics():
    x = sp.symbols("x")
    require_close((x + 1) ** 2, sp.expand((x + 1) ** 2))
    require_close(sp.Matrix([[1, x]]), sp.Matrix([[1, x]]))
    require_close(0.5, sp.Rational(1, 2))
    with pytest.raises(Wrong, match="sign"):
        require_close(-x, x, {"The sign is the other one.": -x})
    with pytest.raises(Wrong, match="not equal"):
        require_close(sp.Matrix([[1]]), sp.Matrix([[1, x]]))


def test_a_transposed_answer_is_named():
    with pytest.raises(Wrong, match="transpose"):
        require_close(torch.zeros(2, 3), torch.ones(3, 2))
