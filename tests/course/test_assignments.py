"""The assignments themselves: their references earn all, typical mistakes their share, and no answer breaks a judge."""

import importlib.util
import math
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pso_lib.checks import Wrong
from pso_lib.course import Case, Judgement
from pso_lib.course.assignment import filled, read
from pso_lib.course.judges import expect
from pso_lib.course.wire import decoded, encoded

HERE = Path(__file__).parent
ROOT = HERE.parent.parent / "assignments"
NAMES = sorted(path.name for path in ROOT.iterdir() if (path / "assignment.md").is_file())
STUDENTS = ["ada", "emmy", "sofia"]
SECRET = b"of the tests"
TRAINS = {("3", "trained"), ("4", "sweep"), ("5", "guarded")}  # seconds each


def source(number):
    return (HERE / "solutions" / f"{number}.py").read_text()


def mistakes(number):
    path = HERE / "mistakes" / f"{number}.py"
    spec = importlib.util.spec_from_file_location(f"mistakes_{number}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MISTAKES


def functions(text, variants):
    space = {"VARIANT": variants}
    exec(compile(text, "solution", "exec"), space)
    return space


def judged(case, value):
    """(share, message), as the grader would have it."""
    try:
        found = case.judge(value)
    except Wrong as error:
        return 0.0, str(error)
    if found is None:
        return 1.0, ""
    assert isinstance(found, Judgement) and 0 <= found.share < 1 and found.message
    return found.share, found.message


def score(assignment, student, name, function):
    """The share of an exercise's points, and all that the feedback says."""
    got, total, said = 0.0, 0.0, []
    for case in assignment.cases(SECRET, student, name):

        def answer(arguments):
            torch.manual_seed(0)
            return decoded(encoded(function(*decoded(encoded(tuple(arguments))))))

        value = [answer(one) for one in case.arguments] if case.each else answer(case.arguments)
        share, message = judged(case, value)
        got, total = got + case.weight * share, total + case.weight
        said.append(message)
    return got / total, said


def exercises():
    return list(_exercises())


def _exercises():
    for number in NAMES:
        for name in read(number, ROOT).exercises:
            yield pytest.param(number, name, id=f"{number}-{name}")


@pytest.mark.parametrize("number, name", exercises())
def test_the_reference_earns_everything(number, name):
    assignment = read(number, ROOT)
    for student in STUDENTS[: 1 if (number, name) in TRAINS else None]:
        variants = assignment.variants(SECRET, student)
        share, said = score(assignment, student, name, functions(source(number), variants)[name])
        assert share == 1, (student, variants[name], said)


@pytest.mark.parametrize("number, name", exercises())
def test_a_mistake_earns_its_share_and_is_named(number, name):
    assignment = read(number, ROOT)
    typical = mistakes(number)[name]
    assert len(typical) >= 2
    for label, (edits, most, words) in typical.items():
        named = []
        for student in STUDENTS[: 1 if (number, name) in TRAINS else None]:
            text = source(number)
            for old, new in edits:
                assert old in text, f"{label}: the reference has no {old!r}"
                text = text.replace(old, new)
            share, said = score(assignment, student, name, functions(text, assignment.variants(SECRET, student))[name])
            assert share <= most + 1e-9 < 1, (label, student, share, said)
            named += said
        assert re.search(words, " ".join(named)), (label, named)


@pytest.mark.parametrize("number", NAMES)
def test_what_a_student_may_see_passes_and_covers_what_it_says(number):
    assignment = read(number, ROOT)
    assert assignment.points == 20
    told = assignment.intro[0][1]
    for name, one in assignment.exercises.items():  # the limits are in the text
        limit = f"(`{name}`: {one.seconds:g} seconds)" if one.seconds != 20 else "20 seconds of computing"
        assert limit in told and f"{one.megabytes} MB of memory" in told, name
    assert set(assignment.public) == set(assignment.exercises)  # at least the form of each answer
    tested = sum(points for points, _ in assignment.public.values())
    assert tested == 8 and f"They cover {tested:g} of" in assignment.public_source
    for student in STUDENTS:
        variants = assignment.variants(SECRET, student)
        space = functions(source(number), variants)
        for name, (_, check) in assignment.public.items():
            if (number, name) in TRAINS and student != STUDENTS[0]:
                continue
            assert isinstance(check(space[name], variants[name]), str)
            with pytest.raises((Wrong, TypeError, ValueError, IndexError, KeyError, RuntimeError, AttributeError)):
                check(lambda *arguments: 0.123, variants[name])
        for section in assignment.sections:
            if section.name in variants:
                for _, text in section.parts:
                    assert "{{" not in filled(text, variants[section.name], section.name)


GARBAGE = [
    0, 1, -1, 0.5, math.nan, math.inf, True, "", "1/0", "no", [], [[]], [[1], [2, 3]], {}, {"A": 1}, (),
    (1, 2, 3, 4, 5), Fraction(1, 3), 10**400, 1j, {1, 2}, torch.tensor([math.nan]), torch.zeros(3, 4), torch.zeros(0),
    torch.tensor(1j), [None], [[torch.zeros(2)]], list(range(50)), [("smooth", 1)], torch.ones(2, 2, 2),
    [math.inf, -math.inf], np.zeros((2, 2)), ["same"] * 4, [{}], {"rates": {}},
]  # fmt: skip


@pytest.mark.parametrize("number, name", exercises())
def test_no_answer_breaks_a_judge_or_is_right_by_chance(number, name):
    assignment = read(number, ROOT)
    cases = assignment.cases(SECRET, "ada", name)
    for value in GARBAGE:
        shares = [judged(case, [value] * len(case.arguments) if case.each else value)[0] for case in cases]
        got = sum(case.weight * share for case, share in zip(cases, shares, strict=True))
        assert got <= 0.25 * sum(case.weight for case in cases), value


@pytest.mark.parametrize("number", NAMES)
def test_variants_differ_in_more_than_numbers(number):
    assignment = read(number, ROOT)
    for name, one in assignment.exercises.items():
        kinds = {repr(one.variant(random.Random(seed))) for seed in range(40)}
        assert len(kinds) >= 2, name


def test_the_instructors_example_is_an_assignment(tmp_path):
    page = (ROOT.parent / "book" / "teaching" / "instructor.md").read_text()
    section = re.search(r"^````markdown\n(.*?)^````$", page, re.S | re.M)[1]
    oracle, public, solution = re.findall(r"^```python\n(.*?)^```$", page.replace(section, ""), re.S | re.M)
    (tmp_path / "new").mkdir()
    for name, text in (("assignment.md", section), ("oracle.py", oracle), ("public.py", public)):
        (tmp_path / "new" / name).write_text(text)
    assignment = read("new", tmp_path)
    drawn = {}
    for student in map(str, range(20)):
        variants = assignment.variants(SECRET, student)
        drawn[repr(variants)] = student, variants
    assert len(drawn) == 3  # all that there are
    for student, variants in drawn.values():
        right = functions(solution, variants)["keeping_gain"]
        assert score(assignment, student, "keeping_gain", right)[0] == 1
        assert score(assignment, student, "keeping_gain", lambda right=right: right() ** 2)[0] == 0.5
        assert score(assignment, student, "keeping_gain", lambda: 0.0)[0] == 0


def test_a_saw_with_its_last_weights_in_a_row_is_as_good():
    assignment = read("1", ROOT)
    saw = functions(source("1"), assignment.variants(SECRET, "ada"))["saw"]

    def in_a_row():
        *others, c = saw()
        return [*others, c[None, :]]

    assert score(assignment, "ada", "saw", in_a_row)[0] == 1


@pytest.mark.parametrize("value", [1.2, 3.0, 7.7, -0.4])
def test_a_judge_does_not_say_how_far_off_a_number_is(value):
    share, said = judged(Case(1, (), expect(2.5, what="it"), "a number"), value)
    assert share == 0 and "%" not in said and "2.5" not in said and "no mistake we know of" in said
